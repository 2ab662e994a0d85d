"""The SPI wires of a virtual adapter: SCK, MOSI, MISO and the slaves' chip selects."""

from __future__ import annotations

from collections.abc import Sequence

from hwtpm.clock import Clock
from hwtpm.tis_spi.mpsse import MISO, MOSI, SCK
from hwtpm.tis_spi.virtual.counters import Counters
from hwtpm.tis_spi.virtual.pins import Pins
from hwtpm.tis_spi.virtual.slave import SpiSlave

__all__ = ["SpiWire"]


class SpiWire:
    """SPI mode 0, most significant bit first, between the adapter's pins and its slaves.

    A slave answers whole bytes, and only once it has all eight bits of MOSI. Where a command ends
    inside a byte, the bits it read keep the level MISO had before.
    """

    def __init__(self, pins: Pins, clock: Clock, counters: Counters) -> None:
        self._pins = pins
        self._counters = counters
        self._clock = clock
        self._slaves: dict[int, SpiSlave] = {}
        self._selected: dict[int, SpiSlave] = {}
        self._miso = True
        self._bits = 0  # of the byte in progress
        self._phase = 0
        pins.connect(MISO, lambda: self._miso)

    def attach(self, slave: SpiSlave, cs_pin: int) -> None:
        """Wire `slave` to the bus with its chip select on `cs_pin`."""
        self._slaves[cs_pin] = slave
        self._pins.watch(cs_pin, lambda level: self._select(cs_pin, low=not level))

    @property
    def busy(self) -> bool:
        """Some slave listens."""
        return bool(self._selected)

    def mosi_idle(self) -> int:
        """The byte that slaves see while only reading: MOSI keeps its level."""
        return 0xFF if self._pins.level(MOSI) else 0x00

    def shift_bytes(self, mosi: bytes, bit_s: float) -> bytes:
        """Clock whole bytes, bit 7 first; what MISO showed. A bit takes `bit_s` (recorder only)."""
        if self._phase:
            back = self.shift_bits(_bits(mosi), bit_s)
            return bytes(_number(back[start : start + 8]) for start in range(0, len(back), 8))
        if not mosi:
            return b""
        if self._listening:
            miso = bytes(map(self._exchange, self._on_mosi(mosi)))
            self._miso = bool(miso[-1] & 1)
        else:
            miso = (b"\xff" if self._miso else b"\x00") * len(mosi)
        if self._pins.recording:
            self._record(_bits(mosi), _bits(miso), bit_s)
        self._pins.hold(MOSI, bool(mosi[-1] & 1))
        return miso

    def shift_bits(self, mosi: Sequence[bool], bit_s: float) -> list[bool]:
        """Clock single bits in wire order; what MISO showed."""
        miso: list[bool] = []
        rest = mosi
        while rest:
            part, rest = rest[: 8 - self._phase], rest[8 - self._phase :]
            miso += self._shift_part(part)
        if self._pins.recording:
            self._record(mosi, miso, bit_s)
        if mosi:
            self._pins.hold(MOSI, mosi[-1])
        return miso

    def idle(self, clocks: int, bit_s: float) -> None:
        """Clock without data: MOSI keeps its level and nobody looks at MISO."""
        if self._selected or self._pins.recording:
            level = self.mosi_idle()
            self.shift_bytes(bytes([level]) * (clocks // 8), bit_s)
            self.shift_bits([bool(level)] * (clocks % 8), bit_s)

    def _select(self, cs_pin: int, *, low: bool) -> None:
        slave = self._slaves[cs_pin]
        self._bits = self._phase = 0
        if low:
            self._counters.selects += 1
            self._selected[cs_pin] = slave
        else:
            self._selected.pop(cs_pin, None)
            self._miso = True
        slave.select(low)

    @property
    def _listening(self) -> bool:
        """Clocks reach a slave."""
        return bool(self._selected) and self._pins.is_output(SCK)

    def _on_mosi(self, sent: bytes) -> bytes:
        """What slaves see of it: nothing where the adapter does not drive the pin."""
        return sent if self._pins.is_output(MOSI) else bytes([self.mosi_idle()]) * len(sent)

    def _shift_part(self, mosi: Sequence[bool]) -> list[bool]:
        """Some bits, at most up to the end of the byte in progress."""
        count = len(mosi)
        if not self._listening:
            return [self._miso] * count
        self._bits = self._bits << count | _number(mosi)
        self._phase += count
        if self._phase < 8:
            return [self._miso] * count
        answer = self._exchange(self._on_mosi(bytes([self._bits]))[0])
        self._bits = self._phase = 0
        self._miso = bool(answer & 1)
        return [bool(answer >> shift & 1) for shift in range(count - 1, -1, -1)]

    def _exchange(self, mosi: int) -> int:
        """One byte with all selected slaves; where two of them answer, a zero wins."""
        miso = 0xFF
        for slave in self._selected.values():
            miso &= slave.shift(mosi)
        return miso

    def _record(self, mosi: Sequence[bool], miso: Sequence[bool], bit_s: float) -> None:
        """Tell all edges: data change while SCK is low, SCK rises in the middle of the bit."""
        start_s = self._clock.now()
        for number, (sent, received) in enumerate(zip(mosi, miso, strict=True)):
            bit_start_s = start_s + number * bit_s
            self._pins.tell(MOSI, sent, bit_start_s)
            self._pins.tell(MISO, received, bit_start_s)
            self._pins.tell(SCK, True, bit_start_s + bit_s / 2)
            self._pins.tell(SCK, False, bit_start_s + bit_s)


def _bits(data: bytes) -> list[bool]:
    return [bool(byte >> shift & 1) for byte in data for shift in range(7, -1, -1)]


def _number(bits: Sequence[bool]) -> int:
    number = 0
    for bit in bits:
        number = number << 1 | bit
    return number
