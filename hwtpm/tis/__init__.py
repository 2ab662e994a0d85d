"""TIS: the register interface of PC Client TPMs. One register table, a driver and a device core.

`host` (driver) and `chip` (device) are sans-IO and know no bus; `flow.drive` runs driver operations
on a port; `transport.TisTransport` makes commands and responses of them.
"""

from __future__ import annotations

from hwtpm.tis.chip import TisChip
from hwtpm.tis.flow import Port, drive
from hwtpm.tis.host import ChipInfo, TisHost
from hwtpm.tis.personality import PC_CLIENT_TPM12, PC_CLIENT_TPM20, QEMU_TPM12, Personality
from hwtpm.tis.timing import Timeouts
from hwtpm.tis.transport import TisTransport

__all__ = [
    "PC_CLIENT_TPM12",
    "PC_CLIENT_TPM20",
    "QEMU_TPM12",
    "ChipInfo",
    "Personality",
    "Port",
    "Timeouts",
    "TisChip",
    "TisHost",
    "TisTransport",
    "drive",
]
