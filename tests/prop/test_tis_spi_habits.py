"""The TIS driver over bytes on SPI against chips with habits at random.

One invariant: every command is answered byte for byte, or fails with a typed error before its
deadline; and a chip that is sound and plugged in never fails.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from spi_master import NaiveMaster

from hwtpm.clock import FakeClock
from hwtpm.errors import BusError, DeviceNotFound, ProtocolError
from hwtpm.tis import PC_CLIENT_TPM12, PC_CLIENT_TPM20, TisHost, drive
from hwtpm.tis_lpc_sim import ExecutorTpm
from hwtpm.tis_lpc_sim.faults import Since, late_valid, refused_locality, zero_bursts
from hwtpm.tis_spi.quirks import STRICT
from hwtpm.tis_spi.virtual import Habits, VirtualSpiChip
from hwtpm.tis_spi.virtual.habits import Beyond, FlippedBit, Miso, stuck_status, stuck_valid

DURATION_S = 1.5
REQUEST_TAG, RESPONSE_TAG = b"\x00\xc1", b"\x00\xc4"


def frame(tag: bytes, code: bytes, body: bytes) -> bytes:
    return tag + (10 + len(body)).to_bytes(4, "big") + code + body


def answer_to(command: bytes, locality: int = 0) -> bytes:
    """A response that depends on every byte of the command."""
    return frame(RESPONSE_TAG, bytes(4), bytes([locality]) + command[::-1] + command)


few = st.integers(0, 6)
waits = st.lists(few, min_size=1, max_size=5).map(tuple)
personalities = st.builds(
    replace,
    st.sampled_from([PC_CLIENT_TPM12, PC_CLIENT_TPM20]),
    burst_limit=st.sampled_from([1, 8, 32, 64, 128, 255]),
    burst_static=st.booleans(),
    ready_after_completion=st.booleans(),
    transfer_size=st.sampled_from([0, 8, 32, 64]),
)
passing = st.one_of(
    st.builds(late_valid, few, st.sampled_from([Since.GO, Since.COMMAND_READY])),
    st.builds(zero_bursts, few, few, st.sampled_from([Since.GO, Since.COMMAND_READY])),
    st.builds(refused_locality, few),
    st.builds(stuck_status, st.integers(1, 3)),
)
sound = st.builds(
    Habits,
    personalities,
    faults=st.lists(passing, max_size=2).map(tuple),
    read_waits=waits,
    write_waits=waits,
    header_lies=st.booleans(),
    checks_address=st.booleans(),
    beyond=st.sampled_from(Beyond),
    busy_s=st.sampled_from([0.0, 0.003, 1.0]),
    busy_polls=few,
)
broken = st.builds(
    replace,
    sound,
    miso=st.sampled_from([Miso.SOUND, Miso.SOUND, *Miso]),
    unplug_after_bytes=st.none() | st.integers(0, 600),
    faults=st.just(()) | st.tuples(st.builds(stuck_valid, st.integers(1, 3))),
)
commands = st.lists(
    st.builds(
        frame, st.just(REQUEST_TAG), st.binary(min_size=4, max_size=4), st.binary(max_size=150)
    ),
    min_size=1,
    max_size=2,
)


class Bench:
    def __init__(self, habits: Habits) -> None:
        self.clock = FakeClock()
        self.chip = VirtualSpiChip(ExecutorTpm(answer_to), habits, self.clock)
        self.chip.power_on()
        quirks = replace(STRICT, header_bit_valid=not habits.header_lies)
        self.port = NaiveMaster(self.chip, self.clock, quirks)
        self.host = TisHost()

    def open(self) -> None:
        info = drive(self.host.probe(), self.port, self.clock)
        self.host.max_transfer = min(info.transfer_size or 4, self.host.max_transfer)
        drive(self.host.request_locality(0), self.port, self.clock)

    def transmit(self, command: bytes) -> bytes:
        return drive(self.host.transmit(command, DURATION_S), self.port, self.clock)


@given(sound, commands)
@settings(deadline=None)
def test_a_sound_chip_always_answers(habits: Habits, sent: list[bytes]) -> None:
    bench = Bench(habits)
    bench.open()
    for command in sent:
        assert bench.transmit(command) == answer_to(command)
    counters = bench.chip.counters
    assert counters.cs_edges == 2 * counters.transactions
    assert (counters.ignored, counters.early) == (0, 0)


@given(broken, commands)
@settings(deadline=None)
def test_a_broken_one_answers_right_or_fails_in_time(habits: Habits, sent: list[bytes]) -> None:
    bench = Bench(habits)
    started_s = 0.0
    limit_s = max(bench.host.locality_limit_s, bench.host.transmit_limit_s(DURATION_S))
    try:
        bench.open()
        for command in sent:
            started_s = bench.clock.now()
            assert bench.transmit(command) == answer_to(command)
    except (BusError, ProtocolError, DeviceNotFound):
        assert bench.clock.now() - started_s <= 2 * limit_s


@given(sound, commands, st.integers(0, 60), st.integers(0, 64))
@settings(deadline=None)
def test_after_a_flipped_bit_the_chip_can_be_used_again(
    habits: Habits, sent: list[bytes], transaction: int, bit: int
) -> None:
    """A bit that flips in the data cannot be seen on this bus; one in a status must not stick."""
    bench = Bench(replace(habits, faults=(), flipped_bit=FlippedBit(transaction, bit)))
    try:
        bench.open()
        for command in sent:
            bench.transmit(command)
    except (BusError, ProtocolError, DeviceNotFound):
        bench.host = TisHost()
    while bench.chip.counters.transactions <= transaction:
        bench.port.read(0xF00, 4)
    bench.open()
    for command in sent:
        assert bench.transmit(command) == answer_to(command)
