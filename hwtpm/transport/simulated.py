"""Software TPMs as chips: the TIS driver, a simulated chip on LPC, a software TPM behind it.

A chip in a machine is started by firmware. There is none here, so `power_on_chip` does its part.
"""

from __future__ import annotations

from contextlib import ExitStack

from hwtpm.clock import RealClock
from hwtpm.errors import StateError
from hwtpm.softtpm.base import MemoryStorage, SoftwareTpm, Storage
from hwtpm.softtpm.engines import make_engine
from hwtpm.softtpm.storage import FileStorage
from hwtpm.tis import TisHost, TisTransport
from hwtpm.tis_lpc_sim import LpcPort, LpcWindow, SimulatedChip
from hwtpm.tpm12 import rc
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.frame import build_request, return_code_of
from hwtpm.transport.base import Attached, Target
from hwtpm.transport.chip_timing import announced_timeouts
from hwtpm.transport.deadlines import Deadlines

__all__ = ["SimulatedTransport", "open_engine", "open_libtpms", "open_swtpm", "power_on_chip"]

_FIRMWARE_LOCALITY = 0


class SimulatedTransport:
    """A simulated chip that is powered on and started; closing it powers it off."""

    def __init__(self, tis: TisTransport, attached: Attached, resources: ExitStack) -> None:
        self._tis = tis
        self._attached = attached
        self._resources = resources

    @property
    def attached(self) -> Attached:
        """The address and the engine's description; never real hardware."""
        return self._attached

    def execute(self, command: bytes) -> bytes:
        """See `Transport.execute`; errors as `hwtpm.tis.TisHost.transmit`."""
        return self._tis.execute(command)

    def close(self) -> None:
        """See `Transport.close`."""
        self._resources.close()


def power_on_chip(
    tpm: SoftwareTpm, address: str, *, locality: int, deadlines: Deadlines
) -> TisTransport:
    """Switch a simulated chip on and send TPM_Startup(ST_CLEAR), as firmware does.

    A TPM that has been started already (the answer is TPM_INVALID_POSTINIT) is left as it is. Where
    the chip announces longer timeouts or durations than ours, it gets them.

    Raises:
        StateError: its stored state is unusable.
        TpmError: it cannot be started.
    """
    chip = SimulatedChip(tpm)
    try:
        chip.power_on()
    except StateError as error:
        raise StateError(f"{address}: {error.message}", hint=error.hint) from error
    host = TisHost(device=address)
    tis = TisTransport(
        LpcPort(LpcWindow(chip)),
        RealClock(),
        duration_s=lambda ordinal: deadlines.at_least(host.timeouts).of_ordinal(ordinal),
        host=host,
        locality=_FIRMWARE_LOCALITY,
    )
    request = Startup(StartupType.CLEAR)
    answer = return_code_of(tis.execute(build_request(request.command.ordinal, request.encode())))
    if answer not in (rc.Rc.SUCCESS, rc.Rc.INVALID_POSTINIT):
        raise rc.error(answer, request.command.name, address)
    host.timeouts = announced_timeouts(tis.execute)
    if locality != _FIRMWARE_LOCALITY:
        tis.set_locality(locality)
    return tis


def open_engine(target: Target) -> SimulatedTransport:
    """A chip with our own engine, its state in a directory or in memory."""
    return _open(target, "sim", "engine")


def open_libtpms(target: Target) -> SimulatedTransport:
    """A chip with libtpms in this process, its state in a directory or in memory."""
    return _open(target, "libtpms", "libtpms")


def open_swtpm(target: Target) -> SimulatedTransport:
    """A chip with a swtpm process of its own, which keeps its state in a directory."""
    from hwtpm.softtpm.swtpm import SwtpmTpm

    with ExitStack() as resources:
        state = target.path("swtpm:DIRECTORY")
        tpm = SwtpmTpm(state, command_timeout_s=target.deadlines.long_s)
        return _attach(target, "swtpm", tpm, resources)


def _open(target: Target, backend: str, engine: str) -> SimulatedTransport:
    with ExitStack() as resources:
        state = target.optional_path()
        storage: Storage = (
            MemoryStorage() if state is None else resources.enter_context(FileStorage(state))
        )
        return _attach(target, backend, make_engine(engine, storage), resources)


def _attach(
    target: Target, backend: str, tpm: SoftwareTpm, resources: ExitStack
) -> SimulatedTransport:
    """The transport, which frees `resources` and `tpm`; if there is none, its caller does."""
    resources.callback(tpm.close)
    tis = power_on_chip(tpm, target.address, locality=target.locality, deadlines=target.deadlines)
    resources.callback(tis.close)
    attached = Attached(target.address, backend, False, tpm.description)
    return SimulatedTransport(tis, attached, resources.pop_all())
