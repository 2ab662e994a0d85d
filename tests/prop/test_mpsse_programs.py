"""Any valid MPSSE program, cut into any transfers, against a model that only knows single bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from ftdi_rig import SEND_IMMEDIATE, Bench, Recorded, bench, read_answers
from hypothesis import given
from hypothesis import strategies as st

from hwtpm.tis_spi.virtual.ftdi import FT2232H

TIMEOUT_S = 1.0
DRIVEN = 0x0B  # SCK, MOSI and chip select are outputs, as in every SPI set-up


def answer(selection: int, number: int, mosi: int) -> int:
    """What the slave sends while byte `number` of a selection is `mosi`."""
    return (31 * selection + 7 * number + 3 * mosi + 0x5A) & 0xFF


@dataclass
class Computed(Recorded):
    """The slave whose bytes the model can tell beforehand."""

    def shift(self, mosi: int) -> int:
        number = len(self.got[-1])
        super().shift(mosi)
        return answer(len(self.got), number, mosi)


@dataclass
class Model:
    """One bit after the other, all lines written down."""

    expected: bytearray = field(default_factory=bytearray)
    selections: list[list[bool]] = field(default_factory=list)
    selected: bool = False
    mosi: bool = False
    low: tuple[int, int] = (0x08, DRIVEN)
    high: tuple[int, int] = (0, 0)
    loopback: bool = False
    clocks: int = 0
    time_s: float = 0.0
    div5: bool = False
    divisor: int = 0
    three_phase: bool = False

    def byte_at(self, number: int) -> int:
        bits = self.selections[-1][8 * number : 8 * number + 8]
        return int("".join("01"[bit] for bit in bits), 2)

    def miso_at(self, position: int, end: int) -> bool:
        """The bit at `position` of this selection for a command that ends before bit `end`."""
        number = position // 8
        if 8 * number + 8 <= end:
            sent = answer(len(self.selections), number, self.byte_at(number))
            return bool(sent >> 7 - position % 8 & 1)
        if number == 0:
            return True
        return bool(answer(len(self.selections), number - 1, self.byte_at(number - 1)) & 1)

    def clock(self, bits: list[bool]) -> list[bool]:
        """Send bits in wire order; what came back."""
        self.clocks += len(bits)
        hz = (6e6 if self.div5 else 30e6) / (self.divisor + 1) / (1.5 if self.three_phase else 1)
        self.time_s += len(bits) / hz
        back = [True] * len(bits)
        if self.selected:
            start = len(self.selections[-1])
            self.selections[-1] += bits
            end = start + len(bits)
            back = [self.miso_at(position, end) for position in range(start, end)]
        self.mosi = bits[-1]
        return bits if self.loopback else back

    def shift(self, opcode: int, bits: list[bool]) -> None:
        back = self.clock(bits)
        if not opcode & 0x20:
            return
        lsb_first = bool(opcode & 0x08)
        for start in range(0, len(back), 8):
            text = "".join("01"[bit] for bit in back[start : start + 8])
            # A shift register of eight bits, filled from one end.
            self.expected.append(int(text[::-1].ljust(8, "0") if lsb_first else text, 2))

    def set_low(self, values: int, outputs: int) -> None:
        self.low = values, outputs
        self.mosi = bool(values & 2)
        if self.selected == bool(values & 8):
            self.selected = not self.selected
            if self.selected:
                self.selections.append([])

    def miso_pin(self) -> bool:
        whole = len(self.selections[-1]) // 8 * 8 if self.selected else 0
        return self.miso_at(whole - 1, whole) if whole else True

    def get_low(self) -> None:
        values, outputs = self.low
        pins = values & outputs | 0xF0 & ~outputs
        self.expected.append(pins & ~0x06 | self.mosi << 1 | self.miso_pin() << 2)

    def get_high(self) -> None:
        values, outputs = self.high
        self.expected.append((values & outputs | ~outputs) & 0xFF)

    def bits_of(self, opcode: int, data: bytes, count: int) -> list[bool]:
        """The bits a data command clocks."""
        if not opcode & 0x10:
            return [self.mosi] * count
        order = range(8) if opcode & 0x08 else range(7, -1, -1)
        return [bool(byte >> bit & 1) for byte in data for bit in order][:count]


def _shift_bytes(model: Model, opcode: int, data: bytes) -> bytes:
    model.shift(opcode, model.bits_of(opcode, data, 8 * len(data)))
    length = (len(data) - 1).to_bytes(2, "little")
    return bytes([opcode]) + length + (data if opcode & 0x10 else b"")


def _shift_bits(model: Model, opcode: int, value: int, count: int) -> bytes:
    model.shift(opcode, model.bits_of(opcode, bytes([value]), count))
    return bytes([opcode, count - 1]) + (bytes([value]) if opcode & 0x10 else b"")


def _set_low(model: Model, values: int, outputs: int) -> bytes:
    values, outputs = values & ~1, outputs & 0xF0 | DRIVEN
    model.set_low(values, outputs)
    return bytes([0x80, values, outputs])


def _set_high(model: Model, values: int, outputs: int) -> bytes:
    model.high = values, outputs
    return bytes([0x82, values, outputs])


def _get(model: Model, opcode: int) -> bytes:
    model.get_low() if opcode == 0x81 else model.get_high()
    return bytes([opcode])


def _idle(model: Model, opcode: int, count: int) -> bytes:
    model.clock([model.mosi] * (count if opcode == 0x8E else 8 * count))
    return bytes([opcode, count - 1]) + (b"" if opcode == 0x8E else b"\x00")


def _loopback(model: Model, opcode: int) -> bytes:
    model.loopback = opcode == 0x84
    return bytes([opcode])


def _clock_setting(model: Model, opcode: int, divisor: int) -> bytes:
    if opcode == 0x86:
        model.divisor = divisor
        return bytes([0x86]) + divisor.to_bytes(2, "little")
    if opcode in (0x8A, 0x8B):
        model.div5 = opcode == 0x8B
    else:
        model.three_phase = opcode == 0x8C
    return bytes([opcode])


def _bad(model: Model, opcode: int) -> bytes:
    model.expected += bytes([0xFA, opcode])
    return bytes([opcode])


KNOWN = {*range(0x10, 0x40), *range(0x80, 0x90), *range(0x94, 0x98), 0x9C, 0x9D}
BYTE = st.integers(0, 255)
SHIFTS = st.sampled_from([opcode for opcode in range(0x10, 0x40) if not opcode & 2])
SELECT = st.sampled_from([0x00, 0x02, 0x08, 0x0A]).map(lambda values: (_set_low, values, DRIVEN))
STEPS = st.one_of(
    SELECT,
    SELECT,
    st.tuples(st.just(_shift_bytes), SHIFTS, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just(_shift_bytes), SHIFTS, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just(_shift_bits), SHIFTS.map(lambda each: each | 2), BYTE, st.integers(1, 8)),
    st.tuples(st.just(_set_low), BYTE, BYTE),
    st.tuples(st.just(_set_high), BYTE, BYTE),
    st.tuples(st.just(_get), st.sampled_from([0x81, 0x83])),
    st.tuples(st.just(_idle), st.sampled_from([0x8E, 0x8F]), st.integers(1, 8)),
    st.tuples(st.just(_loopback), st.sampled_from([0x84, 0x85])),
    st.tuples(
        st.just(_clock_setting),
        st.sampled_from([0x86, 0x8A, 0x8B, 0x8C, 0x8D]),
        st.integers(0, 0xFFFF),
    ),
    st.tuples(st.just(_bad), BYTE.filter(lambda each: each not in KNOWN)),
)


def _fresh() -> Bench:
    rig = bench(Computed(), FT2232H)
    rig.to_mpsse()
    return rig


@given(
    steps=st.lists(STEPS, min_size=6, max_size=60),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    recorded=st.booleans(),
)
def test_the_interpreter_does_what_single_bits_would(
    steps: list[tuple[object, ...]], cuts: list[int], recorded: bool
) -> None:
    rig, model = _fresh(), Model()
    edges: list[object] = []
    if recorded:
        rig.port.pins.record(edges.append)
        edges.clear()
    program = b"".join(step(model, *arguments) for step, *arguments in steps)  # type: ignore[operator]
    program += SEND_IMMEDIATE

    before, start_s = rig.port.counters.snapshot(), rig.clock.now()
    borders = [0, *sorted(min(cut, len(program)) for cut in cuts), len(program)]
    for start, end in pairwise(borders):
        assert rig.port.write(program[start:end], TIMEOUT_S) == end - start
    elapsed_s = rig.clock.now() - start_s
    received = read_answers(rig.port, len(model.expected))

    assert received == model.expected
    got = [list(each) for each in rig.slave.got]
    assert got == [
        [
            int("".join("01"[bit] for bit in bits[at : at + 8]), 2)
            for at in range(0, len(bits) - 7, 8)
        ]
        for bits in model.selections
    ]
    counted = rig.port.counters.since(before)
    assert counted.clock_cycles == model.clocks
    assert counted.selects == len(model.selections)
    assert abs(elapsed_s - model.time_s) < 1e-9 + 1e-6 * model.time_s
    assert abs(counted.bus_time_s - model.time_s) < 1e-9 + 1e-6 * model.time_s
    if recorded:
        assert sum(each.pin == 0 for each in edges) == 2 * model.clocks  # type: ignore[attr-defined]


@given(size=st.integers(1, 9000), packets=st.integers(1, 4))
def test_any_read_gets_through_the_fifos_once_the_host_reads(size: int, packets: int) -> None:
    rig = _fresh()
    program = bytes.fromhex("80000b") + b"\x20" + (size - 1).to_bytes(2, "little") + SEND_IMMEDIATE
    assert rig.port.write(program, TIMEOUT_S) == len(program)
    received = bytearray()
    while len(received) < size:
        assert len(rig.slave.got[0]) == min(size, len(received) + FT2232H.fifo_bytes)
        data = rig.port.read(512 * packets, TIMEOUT_S)
        for start in range(0, len(data), 512):
            received += data[start + 2 : start + 512]
    assert received == bytes(answer(1, number, 0) for number in range(size))
