"""TPM chips on SPI: `ftdi:`, `spidev:` and `board:` addresses, and what opening does to a chip.

A chip that is reached is asked what it is and how long it may take. It gets TPM_Startup only where
it says that nobody has started it since its reset, as on a bench without firmware.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hwtpm.boards.file import Board, Chip, Ftdi, SimulatedFtdi, SimulatedSpidev, Spidev
from hwtpm.boards.shelf import find_board
from hwtpm.clock import Clock, RealClock
from hwtpm.errors import Refused, StateError, UsageError
from hwtpm.softtpm.base import Family, MemoryStorage, Storage
from hwtpm.tis.evidence import ChipInfo
from hwtpm.tis_spi.bus import SpiBus
from hwtpm.tis_spi.ftdi import FtdiBus
from hwtpm.tis_spi.gpio import open_irq, open_reset
from hwtpm.tis_spi.planner import SpiHost
from hwtpm.tis_spi.quirks import Quirks
from hwtpm.tis_spi.spidev import RESET_PULSE_S, RESET_SETTLE_S, open_spidev
from hwtpm.tis_spi.transport import SpiTis
from hwtpm.tpm12.frame import build_request, ordinal_of, return_code_of
from hwtpm.tpm20 import commands as tpm20
from hwtpm.tpm20.const import Code, StartupType
from hwtpm.tpm20.frame import build, split
from hwtpm.tpm20.rc import Rc as Rc20
from hwtpm.transport.base import Attached, Target

if TYPE_CHECKING:
    from hwtpm.transport.simulated import SimulatedTransport

__all__ = ["SpiTransport", "identify", "open_board", "open_ftdi", "open_spidev_address"]

_CAREFUL_HZ: Final = 10_000_000
"""Clock where no board's file says better: every TPM on SPI but Google's stands it."""

_DESTRUCTIVE: Final = frozenset(
    {
        0x5B,  # TPM_ORD_OwnerClear
        0x5D,  # TPM_ORD_ForceClear
        0x80,  # TPM_ORD_RevokeTrust
        0xAA,  # TPM_ORD_FieldUpgrade
        Code.CHANGE_EPS,
        Code.CHANGE_PPS,
        Code.CLEAR,
        Code.FIELD_UPGRADE_START,
    }
)
"""Of both families, whose numbers do not overlap: what they destroy nothing brings back."""

_SHIM: Final = "HWTPM_VIRTUAL_SPIDEV"
"""Set in processes whose spidev is that of `hwtpm.tis_spi.virtual.spidev.serving`."""

_LOGGER: Final = logging.getLogger("hwtpm.spi")


class SpiTransport:
    """A chip on SPI. `real_hardware` of `attached` is only False for a simulated bus."""

    def __init__(
        self,
        tis: SpiTis,
        attached: Attached,
        resources: ExitStack,
        *,
        info: ChipInfo,
        allow_destructive: bool = True,
    ) -> None:
        self.info = info
        self._tis = tis
        self._attached = attached
        self._resources = resources
        self._allow_destructive = allow_destructive

    @property
    def attached(self) -> Attached:
        """The address, the chip and what it is on."""
        return self._attached

    def execute(self, command: bytes) -> bytes:
        """See `Transport.execute`; errors as `hwtpm.tis_spi.planner.SpiHost.transmit`.

        Raises:
            Refused: the command destroys what the chip holds, and the board does not allow that.
        """
        if not self._allow_destructive and ordinal_of(command) in _DESTRUCTIVE:
            raise Refused(
                f"{self._attached.address}: command {ordinal_of(command):#x} destroys what the chip"
                " holds, and its board does not allow that",
                hint="set allow_destructive in [policy] of a board's file of your own",
            )
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


def open_ftdi(target: Target) -> SpiTransport:
    """A chip on an FTDI adapter: chip select on xDBUS3, no other line.

    Raises:
        UsageError, DeviceNotFound, AccessDenied, Busy, Unsupported, BusError, Timeout: as
            `FtdiBus.open` and `SpiHost.probe`.
    """
    with ExitStack() as resources:
        bus = FtdiBus.open(target.address, sck_hz=_CAREFUL_HZ)
        resources.callback(bus.close)
        return _attach(target, bus, "ftdi", resources)


def open_spidev_address(target: Target) -> SpiTransport:
    """A chip on a spidev device; errors as `open_spidev` and `SpiHost.probe`."""
    with ExitStack() as resources:
        bus = open_spidev(target.path("spidev:/dev/spidev0.1"), clock_hz=_CAREFUL_HZ)
        resources.callback(bus.close)
        return _attach(target, bus, "spidev", resources, simulated=_shimmed())


def identify(address: str) -> str:
    """What the chip at an `ftdi:` or `spidev:` address says it is; it gets no command.

    Raises: as `open_ftdi` and `open_spidev_address`.
    """
    scheme, _, rest = address.partition(":")
    bus: SpiBus = (
        FtdiBus.open(address, sck_hz=_CAREFUL_HZ)
        if scheme == "ftdi"
        else open_spidev(Path(rest), clock_hz=_CAREFUL_HZ)
    )
    host = SpiHost(bus.limits, device=address)
    with SpiTis(bus, RealClock(), duration_s=lambda _: 0.0, host=host) as tis:
        return _describe(tis.probe(), host)


def open_board(target: Target) -> SpiTransport | SimulatedTransport:
    """The chip on a board; `board:NAME`, of a simulated one also `board:NAME:DIRECTORY`.

    Raises:
        UsageError, DeviceNotFound: there is no such board; and as the board's bus.
        Refused: the chip is another one than its board's file says.
    """
    name, colon, directory = target.rest.partition(":")
    board = find_board(name)
    if colon and not (board.simulated and directory):
        raise UsageError(
            f"{target.address}: only a simulated board has a directory",
            hint=f"write board:{name}" + (":DIRECTORY" if board.simulated else ""),
        )
    with ExitStack() as resources:
        match board.bus:
            case Ftdi(url=url, clock_hz=clock_hz) as wired:
                bus: SpiBus = FtdiBus.open(url, wired.wires, sck_hz=clock_hz)
                resources.callback(bus.close)
                return _attach(target, bus, "ftdi", resources, board)
            case Spidev() as wired:
                bus = _spidev_of(wired, resources)
                return _attach(target, bus, "spidev", resources, board, simulated=_shimmed())
            case simulated:
                return _simulated(target, simulated, board, directory, resources)


def _shimmed() -> str:
    """What a spidev device is if it is none of the kernel's."""
    return "simulated on a virtual spidev" if _SHIM in os.environ else ""


def _spidev_of(wired: Spidev, resources: ExitStack) -> SpiBus:
    with ExitStack() as lines:
        reset = irq = None
        pulse_s, settle_s = RESET_PULSE_S, RESET_SETTLE_S
        if wired.reset is not None:
            reset = open_reset(wired.reset.gpio)
            lines.callback(reset.close)
            pulse_s, settle_s = wired.reset.pulse_s, wired.reset.settle_s
        if wired.irq is not None:
            irq = open_irq(wired.irq.gpio)
            lines.callback(irq.close)
        bus = open_spidev(
            Path(wired.path),
            clock_hz=wired.clock_hz,
            reset=reset,
            reset_pulse_s=pulse_s,
            reset_settle_s=settle_s,
            irq=irq,
        )
        lines.pop_all()  # they are the bus's now
    resources.callback(bus.close)
    return bus


def _simulated(
    target: Target,
    simulated: SimulatedFtdi | SimulatedSpidev,
    board: Board,
    directory: str,
    resources: ExitStack,
) -> SimulatedTransport:
    from hwtpm.softtpm.engines import make_engine
    from hwtpm.softtpm.storage import FileStorage
    from hwtpm.tis_spi.virtual import PROFILES
    from hwtpm.tis_spi.virtual.bench import ftdi_bench, spidev_bench
    from hwtpm.transport.simulated import SimulatedTransport, StandbyTransport

    habits = PROFILES.get(simulated.profile)
    if habits is None:
        raise UsageError(
            f"{target.address}: nobody knows the habits {simulated.profile!r}",
            hint=f"known are {', '.join(PROFILES)}",
        )
    family = Family.TPM20 if habits.personality.tpm20 else Family.TPM12
    storage: Storage = (
        resources.enter_context(FileStorage(Path(directory))) if directory else MemoryStorage()
    )
    tpm = make_engine(simulated.engine, storage, family=family)
    resources.callback(tpm.close)
    on_ftdi = isinstance(simulated, SimulatedFtdi)
    make = ftdi_bench if on_ftdi else spidev_bench
    try:
        bench = make(tpm, habits, simulated.clock_hz)
    except StateError as error:
        raise StateError(f"{target.address}: {error.message}", hint=error.hint) from error
    backend = "sim-ftdi" if on_ftdi else "sim-spidev"
    behind = f"simulated on a virtual {'FTDI adapter' if on_ftdi else 'spidev'}, {tpm.description}"
    with ExitStack() as driven:
        driven.callback(bench.bus.close)
        chip = _attach(
            target, bench.bus, backend, driven, board, clock=bench.clock, simulated=behind
        )
    resources.callback(chip.close)
    if family is Family.TPM20:
        return StandbyTransport(tpm, chip, chip.attached, resources.pop_all())
    return SimulatedTransport(chip, chip.attached, resources.pop_all())


def _attach(
    target: Target,
    bus: SpiBus,
    backend: str,
    resources: ExitStack,
    board: Board | None = None,
    *,
    clock: Clock | None = None,
    simulated: str = "",
) -> SpiTransport:
    """The transport, which frees `resources`; if there is none, its caller does."""
    quirks: Quirks | None = None if board is None else board.known_quirks()
    host = SpiHost(bus.limits, quirks=quirks, device=target.address)
    tis = SpiTis(
        bus,
        clock or RealClock(),
        duration_s=lambda ordinal: target.deadlines.at_least(host.host.timeouts).of_ordinal(
            ordinal
        ),
        host=host,
    )
    resources.callback(tis.close)
    info = tis.probe()
    if board is not None:
        _check_identity(target.address, board.chip, info)
    _start(tis, host, info, target.address)
    if target.locality:
        tis.set_locality(target.locality)
    chip = _describe(info, host)
    detail = f"{chip}; {simulated}" if simulated else chip
    return SpiTransport(
        tis,
        Attached(target.address, backend, not simulated, detail),
        resources.pop_all(),
        info=info,
        allow_destructive=board is None or board.policy.allow_destructive,
    )


def _describe(info: ChipInfo, host: SpiHost) -> str:
    family = Family.TPM20 if info.tpm20 else Family.TPM12
    return f"{family.value}, {host.quirks.name}, DID_VID {info.did_vid:08X} revision {info.rid:02X}"


def _check_identity(address: str, expected: Chip, info: ChipInfo) -> None:
    if difference := expected.differs(info):
        raise Refused(
            f"{address}: another chip than its board's file says: {difference}",
            hint="attach the board's chip, or name this one in a board's file of your own",
        )


def _start(tis: SpiTis, host: SpiHost, info: ChipInfo, address: str) -> None:
    """Start a chip that nobody has started since its reset; learn how long a TPM 1.2 may take."""
    if info.tpm20:
        code, _ = split(tis.execute(build(Code.GET_TEST_RESULT)))
        if code == Rc20.INITIALIZE:
            tpm20.startup(tis.execute, StartupType.CLEAR)
            _LOGGER.info("%s: sent TPM2_Startup(CLEAR), as nobody had", address)
        return
    # The table of all TPM 1.2 commands takes its time to load; a TPM 2.0 has no use for it.
    from hwtpm.tpm12 import rc
    from hwtpm.tpm12.commands.capability import GetCapability
    from hwtpm.tpm12.commands.startup import Startup
    from hwtpm.tpm12.const import Capability, CapProperty
    from hwtpm.tpm12.const import StartupType as Startup12
    from hwtpm.transport.chip_timing import announced_timeouts

    question = GetCapability(Capability.PROPERTY, CapProperty.MANUFACTURER.to_bytes(4, "big"))
    asked = build_request(question.command.ordinal, question.encode())
    if return_code_of(tis.execute(asked)) == rc.Rc.INVALID_POSTINIT:
        request = Startup(Startup12.CLEAR)
        frame = build_request(request.command.ordinal, request.encode())
        if code := return_code_of(tis.execute(frame)):
            raise rc.error(code, request.command.name, address)
        _LOGGER.info("%s: sent TPM_Startup(ST_CLEAR), as nobody had", address)
    host.host.timeouts = announced_timeouts(tis.execute)
