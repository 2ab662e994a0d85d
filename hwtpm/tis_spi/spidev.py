"""The SPI bus of a Linux machine, through /dev/spidevB.C.

The package `spidev` opens and configures the device. Its transfers cannot do what a TPM needs, so
messages are made here: a batch is one ioctl, whatever the number of its transactions, and wait
states are polled under one chip select that one message keeps low for the next.

What the kernel does not give:

- Time with chip select high within a message. A pause within a batch passes after the last byte of
  the transaction before it and before chip select rises; by then the chip has all of it. While it
  lasts no other device on the bus is served. `longest_delay_us=0` makes such pauses between two
  messages instead, each for one more ioctl, and tells the driver that a batch cannot pause.
- A wait for PIRQ# within a message: `AwaitIrq` stands between two messages, so a batch with it is
  one ioctl more, and the wait itself.
- A bus of our own: a message to another device on it ends a chip select that is kept low.
- Controllers that keep chip select low between messages, everywhere. Some drop it; `stretch` finds
  that out before its first transfer and says so.

No part of this has run on a real controller by this project; lines for RST# and PIRQ# are tested
with stand-ins only (the virtual spidev has no GPIO chip).
"""

from __future__ import annotations

import fcntl
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import BusError, HwtpmError, Timeout, Unsupported, UsageError
from hwtpm.tis.registers import DID_VID, address_of
from hwtpm.tis_spi.bus import AwaitIrq, BusLimits, Captured, Pause, Step, Transfer
from hwtpm.tis_spi.flow import read_transfer
from hwtpm.tis_spi.framing import HEADER_SIZE, MAX_TRANSFER, data_start
from hwtpm.tis_spi.gpio import IrqLine, ResetLine
from hwtpm.tis_spi.spi_ioc import (
    LONGEST_DELAY_US,
    Buffer,
    IocTransfer,
    captured,
    encode,
    in_messages,
    request,
)
from hwtpm.tis_spi.spidev_sysfs import DEV, SYSFS, buffer_size, devices, link_error, open_error
from hwtpm.tis_spi.wiring import EARLY_DESELECT, diagnose

__all__ = [
    "IoctlCounters",
    "SpiFile",
    "SpidevBus",
    "devices",
    "open_spidev",
]

RESET_PULSE_S: Final = 0.1
RESET_SETTLE_S: Final = 0.1
"""Published pulses are 2 µs to 500 ms long; first accesses come 30 ms (U-Boot) to 1 s later."""

_MODE_0: Final = 0
_WORD_BITS: Final = 8
_HARMLESS: Final = b"\0"
"""A wait byte, no header, and in a register that is written one bit at a time no bit."""


_NO_VENDOR: Final = (b"", b"\x00", b"\xff")
"""What the first byte of DID_VID is where nothing, or a header once more, is answered."""

_GAP_S: Final = 0.005
"""Longer than any chip needs between two transactions."""


class SpiFile(Protocol):
    """An open spidev device."""

    def message(self, transfers: Sequence[IocTransfer]) -> bytes:
        """SPI_IOC_MESSAGE; all bytes that came back.

        Raises:
            OSError: it failed.
        """
        ...

    def close(self) -> None:
        """Let the device go; a second call does nothing."""
        ...


@dataclass(slots=True)
class IoctlCounters:
    """SPI_IOC_MESSAGE calls since the bus was opened, also those that failed; `releases` are those
    that only end a chip select after an error."""

    ioctls: int = 0
    transfers: int = 0
    bytes: int = 0
    releases: int = 0


class _Select(Enum):
    """What is known of chip select between two messages."""

    UNKNOWN = auto()
    UNPROVEN = auto()
    KEPT = auto()


class SpidevBus:
    """An `SpiBus` on a spidev device. Made by `open_spidev`.

    A batch beyond `limits` costs further messages, and is otherwise the same.
    """

    def __init__(
        self,
        file: SpiFile,
        path: Path,
        *,
        clock_hz: int,
        buffer: Buffer | None = None,
        reset: ResetLine | None = None,
        reset_pulse_s: float = RESET_PULSE_S,
        reset_settle_s: float = RESET_SETTLE_S,
        irq: IrqLine | None = None,
        clock: Clock | None = None,
        longest_delay_us: int = LONGEST_DELAY_US,
    ) -> None:
        self.counters = IoctlCounters()
        self._buffer = buffer or Buffer()
        self._path = path
        self._file: SpiFile | None = file
        self._reset_line = reset
        self._reset_pulse_s = reset_pulse_s
        self._reset_settle_s = reset_settle_s
        self._irq = irq
        self._clock = clock or RealClock()
        self._longest_delay_us = longest_delay_us
        self._select = _Select.UNKNOWN
        transfers = self._buffer.transfers
        self._limits = BusLimits(
            transfers=transfers,
            bytes_in=transfers * (1 + MAX_TRANSFER),
            longest_pause_s=longest_delay_us / 1e6,
            awaits_irq=irq is not None,
            clock_hz=clock_hz,
        )

    @property
    def limits(self) -> BusLimits:
        """What fits into one ioctl."""
        return self._limits

    def run(self, steps: Sequence[Step]) -> list[Captured]:
        """See `SpiBus.run`.

        Raises:
            UsageError: the bus is closed, or cannot await PIRQ#; nothing was sent.
        """
        received = b""
        for piece in self._pieces(steps):
            match piece:
                case Pause(duration_s):
                    self._clock.sleep(duration_s)
                case AwaitIrq(timeout_s):
                    self._await(timeout_s)
                case transfers:
                    with self._released():
                        received += self._message(transfers)
        return captured(steps, received)

    def stretch(self, transfer: Transfer, most_waits: int, *, trust_header: bool = True) -> bytes:
        """See `SpiBus.stretch`; a read that waits for fewer bytes than it has is two ioctls.

        `trust_header` is False for chips that say ready too early in the last header byte.

        Raises:
            UsageError: the bus is closed.
            BusError: also, the controller cannot keep chip select low between messages.
        """
        if self._select is _Select.UNKNOWN:
            self._select = self._check_select()
        with self._released():
            return self._stretch(transfer, most_waits, trust_header)

    def reset(self) -> None:
        """See `SpiBus.reset`.

        Raises:
            BusError: the line cannot be driven.
        """
        self._opened()
        if self._reset_line is None:
            raise Unsupported(
                f"{self._path}: no reset line is wired",
                hint="name the GPIO line of RST# in the board's file, or cycle the chip's power",
            )
        try:
            self._reset_line.drive(low=True)
            self._clock.sleep(self._reset_pulse_s)
        finally:
            self._reset_line.drive(low=False)
        self._clock.sleep(self._reset_settle_s)

    def close(self) -> None:
        """See `SpiBus.close`."""
        file, self._file = self._file, None
        with ExitStack() as stack:
            for mine in (self._irq, self._reset_line, file):
                if file is not None and mine is not None:
                    stack.callback(mine.close)

    # -- transfers

    def _pieces(
        self, steps: Sequence[Step]
    ) -> Sequence[tuple[IocTransfer, ...] | Pause | AwaitIrq]:
        pieces = in_messages(steps, self._buffer, self._longest_delay_us)
        if self._irq is None and any(isinstance(piece, AwaitIrq) for piece in pieces):
            raise UsageError(f"{self._path}: no line for PIRQ# is wired")
        return pieces

    def _stretch(self, transfer: Transfer, most_waits: int, trust_header: bool) -> bytes:
        header, data, size = transfer.header, transfer.data, transfer.size
        # Not a byte more than the transaction has may be clocked, and the last message has to
        # release chip select: so of a read all but its last byte may come with the wait bytes.
        # Half of it would be wrong, and nobody see it, if chip select rose between two messages.
        step = size if self._select is _Select.KEPT and not data else 1
        first = header + bytes(min(step - 1, most_waits))
        piece = self._message([IocTransfer(first, cs_change=True)])[HEADER_SIZE - 1 :]
        start = data_start(piece, trust_header=trust_header)
        waited = len(piece) - 1
        while start is None:
            if waited >= most_waits:
                raise Timeout(
                    f"{self._path}: the chip is not ready after {waited} wait bytes",
                    hint="lower the clock; check that the controller keeps chip select low between "
                    "messages (a GPIO as chip select does)",
                )
            # During the wait states of a write some chips want its first byte, others anything.
            polled = data[:1] or bytes(min(step, most_waits - waited))
            piece = self._message([IocTransfer(polled, cs_change=True)])
            start = data_start(piece)
            waited += len(piece)
        early = piece[start:]
        rest = self._message([IocTransfer(data or bytes(size - len(early)))])
        return b"" if data else early + rest

    def _check_select(self) -> _Select:
        """Find out whether chip select stays low from one message to the next.

        Where it does not, what should be DID_VID is the answer to another header, and so is what
        follows; after a chip's wait bytes that look like that its DID_VID follows.
        """
        with self._released():
            seen = self._in_parts(1)
            if diagnose(seen[1:]) is EARLY_DESELECT:
                twice = self._in_parts(2)
                if {diagnose(part) for part in (twice[1:5], twice[5:])} == {EARLY_DESELECT}:
                    raise BusError(
                        f"{self._path}: the controller drops chip select between two messages, so "
                        f"wait states of the chip cannot be polled: {EARLY_DESELECT.evidence}",
                        hint="use a GPIO as chip select: cs-gpios in the controller's device tree "
                        "node (Raspberry Pi: dtoverlay=spi0-1cs,cs0_pin=N)",
                    )
        vendor = seen[data_start(seen) or len(seen) :][:1]
        return _Select.UNPROVEN if vendor in _NO_VENDOR else _Select.KEPT

    def _in_parts(self, parts: int) -> bytes:
        """What is seen from the last header byte on when DID_VID is read by a message for its
        header and `parts` messages of four bytes."""
        read = read_transfer(address_of(DID_VID, 0), DID_VID.size)
        seen = self._message([IocTransfer(read.header, cs_change=True)])[HEADER_SIZE - 1 :]
        for left in range(parts - 1, -1, -1):
            seen += self._message([IocTransfer(bytes(read.size), cs_change=left > 0)])
        self._clock.sleep(_GAP_S)
        return seen

    def _await(self, timeout_s: float) -> None:
        assert self._irq is not None  # `_pieces` has looked
        if not self._irq.await_low(timeout_s):
            raise Timeout(f"{self._path}: PIRQ# did not come within {timeout_s:g} s")

    def _opened(self) -> SpiFile:
        if self._file is None:
            raise UsageError(f"{self._path}: it is closed", hint="open it again")
        return self._file

    def _message(self, transfers: Sequence[IocTransfer]) -> bytes:
        file = self._opened()
        size = sum(len(transfer.tx) for transfer in transfers)
        self.counters.ioctls += 1
        self.counters.transfers += len(transfers)
        self.counters.bytes += size
        try:
            received = file.message(transfers)
        except OSError as error:
            raise link_error(error, self._path) from error
        if len(received) != size:
            raise BusError(f"{self._path}: {len(received)} bytes came back, {size} were clocked")
        return received

    @contextmanager
    def _released(self) -> Iterator[None]:
        """Whatever fails in here leaves chip select high: some controllers see to that themselves
        after an error, others keep it as the last message wanted it."""
        try:
            yield
        except BaseException:
            if self._file is not None:
                self.counters.releases += 1
                with suppress(HwtpmError):
                    self._message([IocTransfer(_HARMLESS)])
            raise


class _SpidevFile:
    """The `SpiFile` behind an opened `spidev.SpiDev`."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def message(self, transfers: Sequence[IocTransfer]) -> bytes:
        # Both buffers live until the call is over; the structures hold nothing but addresses.
        tx = array("B", b"".join(transfer.tx for transfer in transfers))
        rx = array("B", bytes(len(tx)))
        raw = encode(transfers, tx.buffer_info()[0], rx.buffer_info()[0])
        moved = fcntl.ioctl(self._device.fileno(), request(len(transfers)), raw)
        return rx[:moved].tobytes()

    def close(self) -> None:
        self._device.close()


def open_spidev(
    path: Path,
    *,
    clock_hz: int,
    reset: ResetLine | None = None,
    reset_pulse_s: float = RESET_PULSE_S,
    reset_settle_s: float = RESET_SETTLE_S,
    irq: IrqLine | None = None,
    alignment: int | None = None,
    clock: Clock | None = None,
    longest_delay_us: int = LONGEST_DELAY_US,
    dev: Path = DEV,
    sysfs: Path = SYSFS,
) -> SpidevBus:
    """Open a device with mode 0 and 8 bits per word; the lines then belong to the bus.

    Args:
        path: the device file; a link to it (by udev) does.
        clock_hz: the fastest clock; a controller may choose a lower one, and does not tell.
        reset, irq: RST# and PIRQ#, where they are wired; see `hwtpm.tis_spi.gpio`.
        reset_pulse_s: how long RST# is low.
        reset_settle_s: from there to the first access.
        alignment: see `Buffer`; for those who know their kernel.
        longest_delay_us: see the module.
        clock, dev, sysfs: to replace the machine's.

    Raises:
        Unsupported: the package spidev is missing, or the controller cannot do that.
        DeviceNotFound: there is no such device.
        AccessDenied: its permissions forbid it.
        Busy: a driver of the kernel owns the chip select.
    """
    try:
        package = import_module("spidev")
    except ImportError as error:
        raise Unsupported(
            f"{path}: SPI devices need the Python package spidev", hint="pip install 'hwtpm[spi]'"
        ) from error
    device = package.SpiDev()
    try:
        device.open_path(str(path))
        device.mode = _MODE_0
        device.bits_per_word = _WORD_BITS
        device.max_speed_hz = clock_hz
    except OSError as error:
        device.close()
        raise open_error(error, path, dev, sysfs) from error
    size = buffer_size(sysfs)
    return SpidevBus(
        _SpidevFile(device),
        path,
        clock_hz=clock_hz,
        buffer=Buffer(size) if alignment is None else Buffer(size, alignment),
        reset=reset,
        reset_pulse_s=reset_pulse_s,
        reset_settle_s=reset_settle_s,
        irq=irq,
        clock=clock,
        longest_delay_us=longest_delay_us,
    )
