"""Finding a TPM on SPI: who is there, at once or after a while; if nobody, what ails the wires.

Pure, like the rest of the driver; used by `hwtpm.tis_spi.planner`.
"""

from __future__ import annotations

from typing import Final

from hwtpm.errors import BusError, DeviceNotFound, HwtpmError
from hwtpm.tis.evidence import ChipInfo, absent, identify
from hwtpm.tis.flow import Wait
from hwtpm.tis.host import TisHost
from hwtpm.tis.registers import ACCESS, DID_VID, INTERFACE_ID, INTF_CAPABILITY, RID, Access
from hwtpm.tis_spi.bus import BusLimits
from hwtpm.tis_spi.exchange import clock
from hwtpm.tis_spi.flow import SpiFlow, read_transfer, run, slowly
from hwtpm.tis_spi.framing import MAX_TRANSFER
from hwtpm.tis_spi.quirks import Quirks
from hwtpm.tis_spi.steps import Results, Steps
from hwtpm.tis_spi.wiring import Wiring, diagnose

__all__ = ["look", "search"]

_AGAIN_S: Final = 0.005


def look(device: str, limits: BusLimits) -> SpiFlow[ChipInfo | None]:
    """The identity registers in one round trip; None if the chip was not there, or waited.

    Raises:
        Unsupported: the chip's interface is switched to CRB.
        BusError: the adapter failed, or INTF_CAPABILITY reads all ones.
    """
    steps = Steps(0, MAX_TRANSFER)
    registers = (ACCESS, DID_VID, RID, INTF_CAPABILITY, INTERFACE_ID)
    numbers = [steps.get(register) for register in registers]
    results = Results((yield from run(steps.steps, limits)), steps.transfers)
    if not results.whole:
        return None
    access, *values = (results.value(number) for number in numbers)
    if not access & Access.VALID or access == 0xFF or absent(values[0]):
        return None
    info = ChipInfo(*values)
    identify(device, info, access)
    return info


def search(host: TisHost, limits: BusLimits, quirks: Quirks) -> SpiFlow[ChipInfo]:
    """Look slowly, as long as a chip may take to start; then name the fault of the wires.

    Raises:
        DeviceNotFound: nothing drives the bus, or the wires are wrong; the hint tells which.
        Timeout, Unsupported, BusError: as `TisHost.probe`.
    """
    deadline_s = (yield from clock()) + host.timeouts.a_s
    while True:
        try:
            return (yield from slowly(host.probe(), quirks))
        except (DeviceNotFound, BusError) as error:
            if (yield from clock()) >= deadline_s:
                fault = yield from _wiring(limits)
                if fault is None:
                    raise
                raise DeviceNotFound(
                    f"{error.message}: {fault.evidence}", hint=fault.hint
                ) from error
        yield Wait(_AGAIN_S)


def _wiring(limits: BusLimits) -> SpiFlow[Wiring | None]:
    """The fault that a read of DID_VID shows, if one and no other."""
    transfer = read_transfer(DID_VID.offset, DID_VID.size)
    try:
        (captured,) = yield from run([transfer], limits)
    except HwtpmError:
        return None
    return diagnose(captured.data)
