"""Ways to a TPM: open one by its address, and wrap what came back."""

from hwtpm.transport.address import open_transport
from hwtpm.transport.base import Attached, Transport
from hwtpm.transport.deadlines import Deadlines

__all__ = ["Attached", "Deadlines", "Transport", "open_transport"]
