"""Batches of SPI transfers as programs for FTDI's MPSSE, and what comes back; pure.

Commands are those of FTDI AN_108. SPI mode 0: MOSI changes on the falling edge of SCK, MISO is
sampled on the rising one.

A program ends with a command that no MPSSE knows. Its answer shows that the adapter has done
everything before it, and that as many bytes came back as were asked for (AN_135 does so to find
the start of the stream). Nothing is believed without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, lru_cache
from typing import Final

from hwtpm.errors import BusError, UsageError
from hwtpm.tis_spi.bus import AwaitIrq, Captured, Pause, Step, Transfer

__all__ = [
    "BAD_COMMAND",
    "GPIOL1",
    "LONGEST_PAUSE_S",
    "MARKERS",
    "MARK_SIZE",
    "MISO",
    "MOSI",
    "SCK",
    "Encoder",
    "Opcode",
    "Program",
    "Wires",
    "marked",
    "results",
    "unmarked",
]

SCK: Final = 0
MOSI: Final = 1
MISO: Final = 2
GPIOL1: Final = 5
"""The pin of the wait commands, xDBUS5."""

BAD_COMMAND: Final = 0xFA
MARKERS: Final = (0xAA, 0xAB)
"""Commands that do not exist; taken in turn, an answer tells its program from the one before."""
MARK_SIZE: Final = 2

LONGEST_PAUSE_S: Final = 0.1
"""Of one pause within a program."""

_BASE_HZ: Final = 30_000_000
_MOST_DIVIDED: Final = 0x10000
_LONGEST_IDLE: Final = 0x10000
_LAST: Final = 3


class Opcode(IntEnum):
    """Commands with an opcode of their own; 0x10 to 0x3F shift, by the bits of their opcode."""

    SET_LOW = 0x80
    GET_LOW = 0x81
    SET_HIGH = 0x82
    GET_HIGH = 0x83
    LOOPBACK_ON = 0x84
    LOOPBACK_OFF = 0x85
    SET_DIVISOR = 0x86
    SEND_IMMEDIATE = 0x87
    WAIT_HIGH = 0x88
    WAIT_LOW = 0x89
    DIVIDE_BY_5_OFF = 0x8A
    DIVIDE_BY_5_ON = 0x8B
    THREE_PHASE_ON = 0x8C
    THREE_PHASE_OFF = 0x8D
    CLOCK_BITS = 0x8E
    CLOCK_BYTES = 0x8F
    CLOCK_UNTIL_HIGH = 0x94
    CLOCK_UNTIL_LOW = 0x95
    ADAPTIVE_ON = 0x96
    ADAPTIVE_OFF = 0x97
    CLOCK_BYTES_UNTIL_HIGH = 0x9C
    CLOCK_BYTES_UNTIL_LOW = 0x9D
    OPEN_DRAIN = 0x9E


_WRITE: Final = 0x11
_READ: Final = 0x20
_EXCHANGE: Final = 0x31


@dataclass(frozen=True, slots=True)
class Wires:
    """Which pins of the port go where: 0 to 7 are xDBUS, 8 to 15 xCBUS; None is not wired.

    SCK, MOSI and MISO are xDBUS0 to 2 on every adapter. All other pins stay inputs.

    Raises:
        UsageError: two lines on one pin, or a time that is none.

    Attributes:
        cs: chip select.
        reset: RST#. It is pulled low or let go; a pull-up has to raise it.
        irq: PIRQ#. Batches can wait for it on xDBUS5 only.
        reset_pulse_s: how long RST# is low.
        reset_settle_s: from there to the first access.
    """

    cs: int = 3
    reset: int | None = None
    irq: int | None = None
    reset_pulse_s: float = 0.1
    reset_settle_s: float = 0.1

    def __post_init__(self) -> None:
        taken = [SCK, MOSI, MISO]
        for name, pin in (("cs", self.cs), ("reset", self.reset), ("irq", self.irq)):
            if pin is None:
                continue
            if pin in taken or pin < 0:
                raise UsageError(
                    f"{name} on pin {pin}: that is no pin of an adapter, or it is taken",
                    hint="SCK, MOSI and MISO have pins 0 to 2; each other line has its own",
                )
            taken.append(pin)
        if min(self.reset_pulse_s, self.reset_settle_s) < 0:
            raise UsageError("a reset cannot take a negative time")


@dataclass(frozen=True, slots=True)
class Program:
    """MPSSE commands, the number of bytes they bring back, and how long they run.

    `awaits_s` is how long they may stand and wait for PIRQ# beside that.
    """

    code: bytes
    answers: int = 0
    duration_s: float = 0.0
    awaits_s: float = 0.0


class Encoder:
    """Programs for one port of `width` pins, with SCK at `sck_hz` or as little slower as it can be.

    Raises:
        UsageError: the port has no such pin, or the clock cannot be made.
    """

    def __init__(self, wires: Wires, width: int, sck_hz: float) -> None:
        highest = max(pin for pin in (wires.cs, wires.reset, wires.irq) if pin is not None)
        if highest >= width:
            raise UsageError(f"pin {highest}: the adapter's port has pins 0 to {width - 1}")
        divided = math.ceil(_BASE_HZ / sck_hz) if sck_hz > 0 else _MOST_DIVIDED + 1
        if divided > _MOST_DIVIDED:
            lowest = math.ceil(_BASE_HZ / _MOST_DIVIDED)
            raise UsageError(f"SCK at {sck_hz:g} Hz: the adapter makes {lowest} Hz to 30 MHz")
        self.sck_hz = _BASE_HZ / divided
        self.awaits_irq = wires.irq == GPIOL1
        self._wide = width > 8
        chip_select = 1 << wires.cs
        driven = 1 << SCK | 1 << MOSI | chip_select
        idle = self._set(chip_select, driven)
        self.let_go = self._set(0, 0)
        """All pins become inputs."""
        self.setup = (
            bytes(
                [
                    Opcode.DIVIDE_BY_5_OFF,
                    Opcode.THREE_PHASE_OFF,
                    Opcode.ADAPTIVE_OFF,
                    Opcode.LOOPBACK_OFF,
                    Opcode.SET_DIVISOR,
                ]
            )
            + (divided - 1).to_bytes(2, "little")
            + idle
        )
        """From MPSSE mode as it is entered to an idle bus."""
        self.select = self._set_byte(wires.cs, 0, driven)
        self.deselect = self._set_byte(wires.cs, chip_select, driven)
        self.hold_reset = self.free_reset = b""
        if wires.reset is not None:
            self.hold_reset = self._set(chip_select, driven | 1 << wires.reset)
            self.free_reset = idle

    def batch(self, steps: Sequence[Step]) -> Program:
        """All steps, one after the other.

        Raises:
            UsageError: a pause is too long, or PIRQ# is not wired to where it can be waited for.
        """
        parts: list[bytes] = []
        answers = clocks = 0
        awaits_s = 0.0
        for step in steps:
            match step:
                case Transfer(header, data, size):
                    parts += (self.select, _head(header))
                    if size:
                        parts.append(_shift(_READ, size))
                    elif data:
                        parts += (_shift(_WRITE, len(data)), data)
                    parts.append(self.deselect)
                    answers += 1 + size
                    clocks += 8 * (len(header) + size + len(data))
                case Pause(duration_s):
                    if not 0 <= duration_s <= LONGEST_PAUSE_S:
                        raise UsageError(f"a pause of {duration_s} s within a batch")
                    idle = math.ceil(duration_s * self.sck_hz / 8)
                    parts.append(_idle(idle))
                    clocks += 8 * idle
                case AwaitIrq(timeout_s):
                    if not self.awaits_irq:
                        raise UsageError(f"PIRQ# is not wired to xDBUS{GPIOL1}")
                    parts.append(bytes([Opcode.WAIT_LOW]))
                    awaits_s += timeout_s
        return Program(b"".join(parts), answers, clocks / self.sck_hz, awaits_s)

    def opening(self, header: bytes, sent: bytes) -> Program:
        """Select, the header, and bytes in both directions; the chip stays selected.

        Comes back: the byte under the last header byte, and one for each of `sent`.
        """
        return self._held(self.select + _head(header) + _exchange(sent), 1, len(header), sent)

    def more(self, sent: bytes) -> Program:
        """Further bytes in both directions; the chip stays selected."""
        return self._held(_exchange(sent), 0, 0, sent)

    def closing(self, sent: bytes) -> Program:
        """Last bytes to the chip, if any, and deselect; nothing comes back."""
        out = _shift(_WRITE, len(sent)) + sent if sent else b""
        return Program(out + self.deselect, 0, 8 * len(sent) / self.sck_hz)

    def _held(self, code: bytes, answers: int, clocked: int, sent: bytes) -> Program:
        clocked += len(sent)
        return Program(code, answers + len(sent), 8 * clocked / self.sck_hz)

    def _set(self, values: int, outputs: int) -> bytes:
        """Value and direction of all pins."""
        low = bytes([Opcode.SET_LOW, values & 0xFF, outputs & 0xFF])
        high = bytes([Opcode.SET_HIGH, values >> 8, outputs >> 8])
        return low + high if self._wide else low

    def _set_byte(self, pin: int, values: int, outputs: int) -> bytes:
        """Those of the byte that has `pin`; SCK and MOSI are low in it."""
        shift = pin & ~7
        opcode = Opcode.SET_HIGH if shift else Opcode.SET_LOW
        return bytes([opcode, values >> shift & 0xFF, outputs >> shift & 0xFF])


@cache
def _shift(opcode: int, size: int) -> bytes:
    return bytes([opcode]) + (size - 1).to_bytes(2, "little")


def _exchange(sent: bytes) -> bytes:
    return _shift(_EXCHANGE, len(sent)) + sent if sent else b""


@lru_cache(1024)
def _head(header: bytes) -> bytes:
    """A header, of which only the last byte is answered."""
    return _shift(_WRITE, _LAST) + header[:_LAST] + _shift(_EXCHANGE, 1) + header[_LAST:]


def _idle(count: int) -> bytes:
    """`count` bytes of clocks without data."""
    whole, rest = divmod(count, _LONGEST_IDLE)
    return _shift(Opcode.CLOCK_BYTES, _LONGEST_IDLE) * whole + (
        _shift(Opcode.CLOCK_BYTES, rest) if rest else b""
    )


def results(steps: Sequence[Step], reply: bytes) -> list[Captured]:
    """What a batch captured, one for each transfer."""
    captured: list[Captured] = []
    at = 0
    for step in steps:
        if isinstance(step, Transfer):
            end = at + 1 + step.size
            captured.append(Captured(reply[at], reply[at + 1 : end]))
            at = end
    return captured


def marked(code: bytes, marker: int) -> bytes:
    """A program that ends with a mark and sends what it has at once."""
    return code + bytes([marker, Opcode.SEND_IMMEDIATE])


def unmarked(reply: bytes, answers: int, marker: int) -> bytes:
    """The `answers` bytes in front of the mark.

    Raises:
        BusError: the mark is not where it must be, so nobody knows what these bytes are.
    """
    mark = bytes([BAD_COMMAND, marker])
    if len(reply) == answers + MARK_SIZE and reply.endswith(mark):
        return reply[:answers]
    at = reply.find(BAD_COMMAND)
    refused = reply[at : at + MARK_SIZE].hex(" ")
    raise BusError(
        f"the adapter was to send {answers + MARK_SIZE} bytes: {len(reply)} came, not ending as "
        f"they must{f'; it may have refused a command ({refused})' if at >= 0 else ''}",
        hint="try once more; then plug the adapter in anew, with another cable or at another port",
    )
