"""FTDI's MPSSE: the command interpreter between an adapter's two FIFOs and its pins.

Commands are those of FTDI AN_108. The interpreter stops where the hardware would: no command
bytes, no room for an answer, a line that has not the level a command waits for.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias

from hwtpm.clock import Clock
from hwtpm.tis_spi.mpsse import BAD_COMMAND, GPIOL1, SCK, Opcode
from hwtpm.tis_spi.virtual.counters import Counters
from hwtpm.tis_spi.virtual.pins import Pins
from hwtpm.tis_spi.virtual.wire import SpiWire

__all__ = ["Mpsse", "Stall", "ToHost"]

_BASE_CLOCK_HZ: Final = 30e6
_DIVIDED_CLOCK_HZ: Final = 6e6


_OPCODES: Final = frozenset(Opcode)


class Stall(Enum):
    """Why the interpreter stands still."""

    INPUT = auto()
    """The next command, or the rest of one, has not come."""
    ROOM = auto()
    """The to-host FIFO is full; SCK stands still until the host reads."""
    LINE = auto()
    """A command waits for a level; time has to pass."""
    CLOCKING = auto()
    """A command clocks until a level comes; it takes its own time."""


_Steps: TypeAlias = Generator[Stall, None, None]


@dataclass(slots=True)
class ToHost:
    """The to-host FIFO of `size` bytes: filled by the MPSSE, emptied by the USB side."""

    size: int
    data: bytearray = field(default_factory=bytearray)
    since_s: float = 0.0
    """When the oldest byte came."""
    urgent: bool = False
    """SEND_IMMEDIATE: what is there goes without waiting for the latency timer."""

    @property
    def room(self) -> int:
        """Bytes that still fit."""
        return self.size - len(self.data)


@dataclass(frozen=True, slots=True)
class _Shift:
    """A data command, 0x10 to 0x3F: its opcode's bits."""

    opcode: int

    @property
    def writes(self) -> bool:
        return bool(self.opcode & 0x10)

    @property
    def reads(self) -> bool:
        return bool(self.opcode & 0x20)

    @property
    def bitwise(self) -> bool:
        return bool(self.opcode & 0x02)

    @property
    def lsb_first(self) -> bool:
        return bool(self.opcode & 0x08)

    @property
    def in_mode_0(self) -> bool:
        written = not self.writes or bool(self.opcode & 0x01)
        sampled = not self.reads or not self.opcode & 0x04
        return written and sampled


class Mpsse:
    """One interpreter, from entering MPSSE mode to leaving it.

    `commands` is the to-device FIFO, filled by the USB side.
    """

    def __init__(
        self,
        pins: Pins,
        wire: SpiWire,
        to_host: ToHost,
        clock: Clock,
        counters: Counters,
        *,
        has_open_drain: bool,
        quantum_s: float,
    ) -> None:
        self.commands = bytearray()
        self._to_host = to_host
        self._pins = pins
        self._wire = wire
        self._clock = clock
        self._counters = counters
        self._has_open_drain = has_open_drain
        self._quantum_s = quantum_s
        self._loopback = False
        self._divisor = 0
        self._base_hz = _DIVIDED_CLOCK_HZ
        self._three_phase = False
        self._adaptive = False
        self._program = self._run()

    @property
    def sck_hz(self) -> float:
        """The clock rate now."""
        hz = self._base_hz / (self._divisor + 1)
        return hz * 2 / 3 if self._three_phase else hz

    def run(self) -> Stall:
        """Execute up to the next stall. What a slave raises ends the batch with its command."""
        try:
            return next(self._program)
        except BaseException:
            self.commands.clear()
            self._program = self._run()
            raise

    def _run(self) -> _Steps:
        while True:
            opcode = yield from self._byte()
            self._counters.commands += 1
            if 0x10 <= opcode <= 0x3F:
                yield from self._shift(_Shift(opcode))
            elif opcode in _OPCODES and (opcode != Opcode.OPEN_DRAIN or self._has_open_drain):
                yield from self._control(Opcode(opcode))
            else:
                self._counters.bad_commands += 1
                yield from self._answer(bytes([BAD_COMMAND, opcode]))

    def _control(self, opcode: Opcode) -> _Steps:
        match opcode:
            case Opcode.SET_LOW | Opcode.SET_HIGH:
                values = yield from self._byte()
                outputs = yield from self._byte()
                self._pins.drive(8 * (opcode == Opcode.SET_HIGH), values, outputs)
            case Opcode.GET_LOW | Opcode.GET_HIGH:
                yield from self._answer(bytes([self._pins.byte(8 * (opcode == Opcode.GET_HIGH))]))
            case Opcode.LOOPBACK_ON | Opcode.LOOPBACK_OFF:
                self._loopback = opcode == Opcode.LOOPBACK_ON
            case Opcode.SET_DIVISOR:
                self._divisor = yield from self._word()
            case Opcode.SEND_IMMEDIATE:
                self._to_host.urgent = bool(self._to_host.data)
            case Opcode.WAIT_HIGH | Opcode.WAIT_LOW:
                while self._pins.level(GPIOL1) != (opcode == Opcode.WAIT_HIGH):
                    yield Stall.LINE
            case Opcode.DIVIDE_BY_5_OFF:
                self._base_hz = _BASE_CLOCK_HZ
            case Opcode.DIVIDE_BY_5_ON:
                self._base_hz = _DIVIDED_CLOCK_HZ
            case Opcode.THREE_PHASE_ON | Opcode.THREE_PHASE_OFF:
                self._three_phase = opcode == Opcode.THREE_PHASE_ON
            case Opcode.ADAPTIVE_ON | Opcode.ADAPTIVE_OFF:
                self._adaptive = opcode == Opcode.ADAPTIVE_ON
            case Opcode.CLOCK_BITS:
                count = yield from self._byte()
                yield from self._idle((count & 7) + 1)
            case Opcode.CLOCK_BYTES:
                count = yield from self._word()
                yield from self._idle(8 * (count + 1))
            case Opcode.CLOCK_UNTIL_HIGH | Opcode.CLOCK_UNTIL_LOW:
                yield from self._clock_until(opcode == Opcode.CLOCK_UNTIL_HIGH, None)
            case Opcode.CLOCK_BYTES_UNTIL_HIGH | Opcode.CLOCK_BYTES_UNTIL_LOW:
                count = yield from self._word()
                high = opcode == Opcode.CLOCK_BYTES_UNTIL_HIGH
                yield from self._clock_until(high, 8 * (count + 1))
            case Opcode.OPEN_DRAIN:
                self._pins.open_drain = yield from self._word()

    def _shift(self, shift: _Shift) -> _Steps:
        if not shift.in_mode_0 or self._pins.level(SCK):
            self._counters.off_mode += 1
        if shift.bitwise:
            yield from self._shift_bits(shift)
            return
        left = (yield from self._word()) + 1
        yield from self._returned_clock()
        while left:
            count = left
            if shift.writes:
                while not self.commands:
                    yield Stall.INPUT
                count = min(count, len(self.commands))
            if shift.reads:
                while not (room := self._to_host.room):
                    yield Stall.ROOM
                count = min(count, room)
            mosi = self._taken(count) if shift.writes else bytes([self._wire.mosi_idle()]) * count
            if shift.lsb_first:
                mosi = _reversed(mosi)
            miso = self._wire.shift_bytes(mosi, 1 / self.sck_hz)
            self._spend(8 * count)
            if self._loopback:
                miso = mosi
            if shift.reads:
                yield from self._answer(_reversed(miso) if shift.lsb_first else miso)
            left -= count

    def _shift_bits(self, shift: _Shift) -> _Steps:
        count = ((yield from self._byte()) & 7) + 1
        if shift.writes:
            value = yield from self._byte()
        else:
            value = self._wire.mosi_idle()
        yield from self._returned_clock()
        order: Sequence[int] = range(8) if shift.lsb_first else range(7, -1, -1)
        mosi = [bool(value >> bit & 1) for bit in order[:count]]
        miso = self._wire.shift_bits(mosi, 1 / self.sck_hz)
        self._spend(count)
        if self._loopback:
            miso = mosi
        if shift.reads:
            answer = 0
            for bit in miso:
                # Bits come in at one end and push the earlier ones on.
                answer = answer >> 1 | bit << 7 if shift.lsb_first else answer << 1 | bit
            yield from self._answer(bytes([answer]))

    def _idle(self, clocks: int) -> _Steps:
        yield from self._returned_clock()
        self._wire.idle(clocks, 1 / self.sck_hz)
        self._spend(clocks)

    def _clock_until(self, level: bool, most: int | None) -> _Steps:
        """Clock until GPIOL1 has `level`, or `most` clocks have passed.

        Looks at the line after each byte while a slave listens, otherwise once a quantum of time.
        """
        while self._pins.level(GPIOL1) != level and most != 0:
            clocks = 8 if self._wire.busy else max(1, int(self._quantum_s * self.sck_hz))
            if most is not None:
                clocks = min(clocks, most)
                most -= clocks
            yield from self._idle(clocks)
            yield Stall.CLOCKING

    def _returned_clock(self) -> _Steps:
        """Adaptive clocking needs RTCK on GPIOL3. An SPI board has none: SCK stands still."""
        while self._adaptive:
            yield Stall.LINE

    def _spend(self, clocks: int) -> None:
        duration_s = clocks / self.sck_hz
        self._counters.clock_cycles += clocks
        self._counters.bus_time_s += duration_s
        self._clock.sleep(duration_s)

    def _answer(self, data: bytes) -> _Steps:
        while data:
            while not (room := self._to_host.room):
                yield Stall.ROOM
            if not self._to_host.data:
                self._to_host.since_s = self._clock.now()
            self._to_host.data += data[:room]
            data = data[room:]

    def _byte(self) -> Generator[Stall, None, int]:
        while not self.commands:
            yield Stall.INPUT
        return self._taken(1)[0]

    def _word(self) -> Generator[Stall, None, int]:
        low = yield from self._byte()
        high = yield from self._byte()
        return high << 8 | low

    def _taken(self, count: int) -> bytes:
        taken = bytes(self.commands[:count])
        del self.commands[:count]
        return taken


_MIRRORED: Final = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def _reversed(data: bytes) -> bytes:
    """The bits of each byte in the opposite order."""
    return data.translate(_MIRRORED)
