"""Ways to a TPM: open one by its address, and wrap what came back."""

from hwtpm.transport.base import Attached, Transport

__all__ = ["Attached", "Transport"]
