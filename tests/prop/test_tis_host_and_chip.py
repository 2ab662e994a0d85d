"""The driver core against the device core under random faults.

One invariant: every command is answered byte for byte, or fails with a typed error before its
deadline; and once the faults are over the next command works.
"""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwtpm.clock import FakeClock
from hwtpm.errors import BusError, ProtocolError
from hwtpm.tis import PC_CLIENT_TPM12, QEMU_TPM12, Personality, Port, TisHost, drive
from hwtpm.tis.registers import ACCESS, STS, Access, Sts, split_address
from hwtpm.tis_lpc_sim import ExecutorTpm, LpcPort, LpcWindow, SimulatedChip
from hwtpm.tis_lpc_sim.faults import (
    BitFault,
    BurstFault,
    Fault,
    FaultyRegisters,
    Since,
    TruncateFault,
    busy,
    late_valid,
    refused_locality,
    zero_bursts,
)
from hwtpm.tis_lpc_sim.window import RegisterFile

DURATION_S = 1.5


def frame(tag: bytes, code: bytes, body: bytes) -> bytes:
    return tag + (10 + len(body)).to_bytes(4, "big") + code + body


def answer_to(command: bytes, locality: int) -> bytes:
    """A response that depends on every byte of the command."""
    return frame(b"\x00\xc4", bytes(4), bytes([locality]) + command[::-1] + command)


class BurstPort:
    """FIFO bursts of many bytes straight to the registers, as a SPI bus makes them."""

    def __init__(self, registers: RegisterFile) -> None:
        self._registers = registers

    def read(self, address: int, size: int) -> bytes:
        return self._registers.read(*split_address(address), size)

    def write(self, address: int, data: bytes) -> None:
        self._registers.write(*split_address(address), data)

    def close(self) -> None:
        pass


commands = st.builds(
    frame,
    st.just(b"\x00\xc1"),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=40) | st.binary(min_size=200, max_size=300),
)
reads = st.integers(0, 400)
since = st.sampled_from(Since)
personalities = st.builds(
    Personality,
    burst_limit=st.integers(1, 4096),
    ready_after_completion=st.booleans(),
    length_checked_per_access=st.booleans(),
) | st.sampled_from([PC_CLIENT_TPM12, QEMU_TPM12])
lost_bits = st.builds(
    BitFault,
    st.just(STS),
    clear=st.sampled_from(
        [Sts.VALID, Sts.EXPECT, Sts.DATA_AVAIL, Sts.COMMAND_READY, Sts.BURST_COUNT, 0xFFFFFFFF]
    ),
    first=reads,
    count=st.none() | reads,
    since=since,
    rounds=st.none() | st.integers(1, 3),
)
forced_bits = st.builds(
    BitFault,
    st.just(STS),
    force=st.sampled_from([Sts.VALID, Sts.EXPECT, Sts.COMMAND_READY, 0xFFFFFFFF]),
    first=reads,
    count=st.none() | reads,
    since=since,
)
access_bits = st.builds(
    BitFault,
    st.just(ACCESS),
    force=st.sampled_from([0, Access.PENDING, 0xFF]),
    clear=st.sampled_from([0, Access.VALID, Access.ACTIVE]),
    first=reads,
    count=st.none() | reads,
    since=since,
)
faults = st.lists(
    st.builds(late_valid, reads, since)
    | st.builds(busy, reads)
    | st.builds(zero_bursts, reads, reads, since)
    | st.builds(refused_locality, reads)
    | st.builds(BurstFault, st.lists(st.integers(1, 4096), min_size=1, max_size=8).map(tuple))
    | st.builds(BurstFault, st.lists(st.integers(0, 3), min_size=1, max_size=8).map(tuple))
    | st.builds(TruncateFault, st.integers(0, 2100), st.integers(0, 4))
    | lost_bits
    | forced_bits
    | access_bits,
    max_size=4,
)


def port_to(registers: RegisterFile, bursts: bool) -> Port:
    return BurstPort(registers) if bursts else LpcPort(LpcWindow(registers))


SHORT = frame(b"\x00\xc1", bytes(4), b"")
LONG = frame(b"\x00\xc1", bytes(4), bytes(range(200)) * 10)


@given(commands, personalities, faults, st.booleans(), st.integers(0, 3))
@example(SHORT, PC_CLIENT_TPM12, [BurstFault((0, 1))], True, 0)
@example(SHORT, PC_CLIENT_TPM12, [TruncateFault(29, 2)], True, 0)
@example(LONG, QEMU_TPM12, [BurstFault((1,))], False, 3)
@settings(deadline=None)
def test_every_command_is_answered_exactly_or_fails_in_time(
    command: bytes, personality: Personality, faults: list[Fault], bursts: bool, locality: int
) -> None:
    chip = SimulatedChip(ExecutorTpm(answer_to), personality)
    host, clock = TisHost(), FakeClock()
    for port in (port_to(FaultyRegisters(chip, faults), bursts), port_to(chip, bursts)):
        limit_s = host.locality_limit_s
        start_s = clock.now()
        try:
            drive(host.request_locality(locality), port, clock)
            assert clock.now() - start_s <= limit_s
            start_s, limit_s = clock.now(), host.transmit_limit_s(DURATION_S)
            response = drive(host.transmit(command, DURATION_S), port, clock)
        except (ProtocolError, BusError):
            response = None
        else:
            assert response == answer_to(command, locality)
        assert clock.now() - start_s <= limit_s
    assert response is not None, "the chip is in order once the faults are over"


@given(commands, personalities, st.booleans(), st.data())
@settings(deadline=None)
def test_faults_within_the_timeouts_cost_nothing_but_time(
    command: bytes, personality: Personality, bursts: bool, data: st.DataObject
) -> None:
    few = st.integers(0, 60)
    tolerable = data.draw(
        st.tuples(
            st.builds(late_valid, few),
            st.builds(zero_bursts, few, few),
            st.builds(refused_locality, few),
            st.builds(BurstFault, st.lists(st.integers(1, 4096), min_size=1).map(tuple)),
            st.builds(TruncateFault, st.integers(1, 600), st.integers(0, 2)),
        )
    )
    chip = SimulatedChip(ExecutorTpm(answer_to), personality, tolerable)
    host, port, clock = TisHost(), port_to(chip, bursts), FakeClock()
    drive(host.request_locality(0), port, clock)
    for _ in range(2):
        response = drive(host.transmit(command, DURATION_S), port, clock)
        assert response == answer_to(command, 0)
