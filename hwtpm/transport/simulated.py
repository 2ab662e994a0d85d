"""Software TPMs as chips: the TIS driver, a simulated chip on LPC, a software TPM behind it.

A chip in a machine is started by firmware. There is none here, so `power_on_chip` does its part.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Protocol

from hwtpm.clock import RealClock
from hwtpm.errors import StateError, TpmError
from hwtpm.softtpm.base import Family, MemoryStorage, SoftwareTpm, StandbyTpm, Storage
from hwtpm.softtpm.engines import make_engine
from hwtpm.softtpm.storage import FileStorage
from hwtpm.tis import PC_CLIENT_TPM12, PC_CLIENT_TPM20, TisHost, TisTransport
from hwtpm.tis_lpc_sim import LpcPort, LpcWindow, SimulatedChip
from hwtpm.tpm12.frame import ordinal_of
from hwtpm.tpm20 import commands as tpm20
from hwtpm.tpm20.const import Code, StartupType
from hwtpm.tpm20.rc import Rc, base_of
from hwtpm.transport.base import Attached, Cancels, ChoosesLocality, Target
from hwtpm.transport.deadlines import Deadlines

__all__ = [
    "Driven",
    "SimulatedTransport",
    "StandbyTransport",
    "open_engine",
    "open_libtpms",
    "open_libtpms2",
    "open_swtpm",
    "open_swtpm2",
    "power_on_chip",
]

_FIRMWARE_LOCALITY = 0


class Driven(Cancels, ChoosesLocality, Protocol):
    """A chip under its driver, as `hwtpm.tis.TisTransport` has it."""

    def execute(self, command: bytes) -> bytes:
        """The chip's response to one command."""
        ...

    def close(self) -> None:
        """Let the chip go; a second call does nothing."""
        ...


class SimulatedTransport:
    """A simulated chip that is powered on and started; closing it powers it off."""

    def __init__(self, tis: Driven, attached: Attached, resources: ExitStack) -> None:
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

    def cancel(self) -> None:
        """See `hwtpm.transport.base.Cancels`."""
        self._tis.cancel()

    def set_locality(self, number: int) -> None:
        """See `hwtpm.transport.base.ChoosesLocality`."""
        self._tis.set_locality(number)

    def close(self) -> None:
        """See `Transport.close`."""
        self._resources.close()


class StandbyTransport(SimulatedTransport):
    """A simulated TPM 2.0 that stays as it is from when it is closed until it is opened again.

    So programs that come one after the other find what they find on a chip that stays powered:
    PCRs, sessions, saved contexts, loaded objects. Power goes off where the last command was
    TPM2_Shutdown, or where the program did not end in order.
    """

    def __init__(
        self, tpm: SoftwareTpm, tis: Driven, attached: Attached, resources: ExitStack
    ) -> None:
        super().__init__(tis, attached, resources)
        self._tpm = tpm
        self._last = b""
        self._closed = False

    def execute(self, command: bytes) -> bytes:
        """See `SimulatedTransport.execute`."""
        self._last = command
        return super().execute(command)

    def close(self) -> None:
        """See `Transport.close`."""
        closed, self._closed = self._closed, True
        try:
            if not closed and ordinal_of(self._last) != Code.SHUTDOWN:
                self._tis.close()
                if isinstance(self._tpm, StandbyTpm):
                    self._tpm.stand_by()
        finally:
            super().close()


def power_on_chip(
    tpm: SoftwareTpm,
    address: str,
    *,
    locality: int,
    deadlines: Deadlines,
    family: Family = Family.TPM12,
) -> TisTransport:
    """Switch a simulated chip on and start it, as firmware does.

    A TPM 1.2 gets TPM_Startup(ST_CLEAR); one that has been started already (the answer is
    TPM_INVALID_POSTINIT) is left as it is. Where the chip announces longer timeouts or durations
    than ours, it gets them. A TPM 2.0 gets TPM2_Startup(STATE) if it was shut down for that, else
    TPM2_Startup(CLEAR); one that has stood by is left as it is.

    Raises:
        StateError: its stored state is unusable.
        TpmError: it cannot be started.
    """
    tpm2 = family is Family.TPM20
    # Only a TPM 2.0 can cancel a command that executes, so only it has to execute beside the bus.
    chip = SimulatedChip(tpm, PC_CLIENT_TPM20 if tpm2 else PC_CLIENT_TPM12, background=tpm2)
    try:
        chip.power_on()
    except StateError as error:
        raise StateError(f"{address}: {error.message}", hint=error.hint) from error
    host = TisHost(device=address)
    tis = TisTransport(
        LpcPort(LpcWindow(chip), chip.close),
        RealClock(),
        duration_s=lambda ordinal: deadlines.at_least(host.timeouts).of_ordinal(ordinal),
        host=host,
        locality=_FIRMWARE_LOCALITY,
    )
    try:
        if tpm2:
            tis.probe()
            _start_tpm20(tis)
        else:
            _start_tpm12(tis, host, address)
        if locality != _FIRMWARE_LOCALITY:
            tis.set_locality(locality)
    except BaseException:
        tis.close()
        raise
    return tis


def _start_tpm12(tis: TisTransport, host: TisHost, address: str) -> None:
    # The table of all TPM 1.2 commands takes its time to load; a TPM 2.0 has no use for it.
    from hwtpm.tpm12 import rc
    from hwtpm.tpm12.commands.startup import Startup
    from hwtpm.tpm12.const import StartupType as Startup12
    from hwtpm.tpm12.frame import build_request, return_code_of
    from hwtpm.transport.chip_timing import announced_timeouts

    request = Startup(Startup12.CLEAR)
    answer = return_code_of(tis.execute(build_request(request.command.ordinal, request.encode())))
    if answer not in (rc.Rc.SUCCESS, rc.Rc.INVALID_POSTINIT):
        raise rc.error(answer, request.command.name, address)
    host.timeouts = announced_timeouts(tis.execute)


def _start_tpm20(tis: TisTransport) -> None:
    try:
        tpm20.startup(tis.execute, StartupType.STATE)
    except TpmError as error:
        if base_of(error.rc) != Rc.VALUE:
            raise
        tpm20.startup(tis.execute, StartupType.CLEAR)


def open_engine(target: Target) -> SimulatedTransport:
    """A chip with our own engine, its state in a directory or in memory."""
    return _open(target, "sim", "engine")


def open_libtpms(target: Target) -> SimulatedTransport:
    """A chip with libtpms in this process, its state in a directory or in memory."""
    return _open(target, "libtpms", "libtpms")


def open_libtpms2(target: Target) -> SimulatedTransport:
    """The same as a TPM 2.0."""
    return _open(target, "libtpms2", "libtpms", Family.TPM20)


def open_swtpm(target: Target) -> SimulatedTransport:
    """A chip with a swtpm process of its own, which keeps its state in a directory."""
    return _open_swtpm(target, "swtpm", Family.TPM12)


def open_swtpm2(target: Target) -> SimulatedTransport:
    """The same as a TPM 2.0."""
    return _open_swtpm(target, "swtpm2", Family.TPM20)


def _open_swtpm(target: Target, backend: str, family: Family) -> SimulatedTransport:
    from hwtpm.softtpm.swtpm import SwtpmTpm

    with ExitStack() as resources:
        state = target.path(f"{backend}:DIRECTORY")
        tpm = SwtpmTpm(state, family=family, command_timeout_s=target.deadlines.long_s)
        return _attach(target, backend, tpm, resources, family)


def _open(
    target: Target, backend: str, engine: str, family: Family = Family.TPM12
) -> SimulatedTransport:
    with ExitStack() as resources:
        state = target.optional_path()
        storage: Storage = (
            MemoryStorage() if state is None else resources.enter_context(FileStorage(state))
        )
        tpm = make_engine(engine, storage, family=family)
        return _attach(target, backend, tpm, resources, family)


def _attach(
    target: Target, backend: str, tpm: SoftwareTpm, resources: ExitStack, family: Family
) -> SimulatedTransport:
    """The transport, which frees `resources` and `tpm`; if there is none, its caller does."""
    resources.callback(tpm.close)
    tis = power_on_chip(
        tpm,
        target.address,
        locality=target.locality,
        deadlines=target.deadlines,
        family=family,
    )
    resources.callback(tis.close)
    attached = Attached(target.address, backend, False, tpm.description)
    if family is Family.TPM20:
        return StandbyTransport(tpm, tis, attached, resources.pop_all())
    return SimulatedTransport(tis, attached, resources.pop_all())
