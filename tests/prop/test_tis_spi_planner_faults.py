"""The SPI driver against simulated chips with every habit, and against TisHost on the same chip.

One invariant: a command is answered byte for byte, or fails with a typed error before its deadline;
it is never executed twice, and once the trouble is over the next open works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from hypothesis import event, given, settings
from hypothesis import strategies as st
from spi_memory_bus import LIMITS, SpiBench

from hwtpm.errors import HwtpmError
from hwtpm.tis import PC_CLIENT_TPM12, PC_CLIENT_TPM20, QEMU_TPM12, Personality
from hwtpm.tis.registers import ACCESS, STS, Access, Sts
from hwtpm.tis_lpc_sim.faults import (
    BitFault,
    BurstFault,
    Fault,
    FaultyRegisters,
    Since,
    TruncateFault,
    late_valid,
    refused_locality,
    zero_bursts,
)
from hwtpm.tis_spi.bus import BusLimits
from hwtpm.tis_spi.planner import Plan, SpiHost
from hwtpm.tis_spi.transport import SpiTis
from hwtpm.tis_spi.virtual import Habits
from hwtpm.tis_spi.virtual.habits import FlippedBit, seeded_waits, stuck_status, stuck_valid
from hwtpm.tis_spi.virtual.slave import BitProtocol

T = TypeVar("T")

DURATION_S = 1.5
READY_BIT = 31


def frame(tag: bytes, code: bytes, body: bytes) -> bytes:
    return tag + (10 + len(body)).to_bytes(4, "big") + code + body


def answer_to(command: bytes, locality: int) -> bytes:
    """A response that depends on every byte of the command; some are refused, shortly."""
    if command[-1] % 5 == 4:
        return frame(b"\x00\xc4", b"\x00\x00\x00\x09", b"")
    return frame(b"\x00\xc4", bytes(4), bytes([locality]) + command[::-1] + command)


commands = st.lists(
    st.builds(
        frame,
        st.just(b"\x00\xc1"),
        st.sampled_from([b"\0\0\0\x14", b"\0\0\0\x46", b"\0\0\1\x7b"]),
        st.binary(max_size=40) | st.binary(min_size=60, max_size=300),
    ),
    min_size=1,
    max_size=8,
)
few = st.integers(0, 12)
personalities = st.builds(
    replace,
    st.sampled_from([PC_CLIENT_TPM12, PC_CLIENT_TPM20]),
    burst_limit=st.sampled_from([1, 3, 8, 32, 63, 64, 128, 255, 4096]),
    burst_static=st.booleans(),
    transfer_size=st.sampled_from([8, 32, 64]),
    ready_after_completion=st.booleans(),
) | st.just(QEMU_TPM12)
since = st.sampled_from(Since)
tolerable = st.one_of(
    st.builds(late_valid, few, since),
    st.builds(zero_bursts, few, few, since),
    st.builds(refused_locality, few),
    st.builds(BurstFault, st.lists(st.integers(1, 200), min_size=1, max_size=8).map(tuple)),
    st.builds(TruncateFault, st.integers(1, 600), st.integers(0, 2)),
    st.builds(stuck_status, st.integers(0, 2)),
    st.just(BitFault(STS, clear=Sts.COMMAND_READY, count=5, since=Since.COMMAND_READY)),
)
troubles = tolerable | st.one_of(
    st.builds(stuck_valid, st.integers(0, 2)),
    st.builds(
        BitFault,
        st.just(STS),
        clear=st.sampled_from(
            [Sts.VALID, Sts.EXPECT, Sts.DATA_AVAIL, Sts.COMMAND_READY, Sts.BURST_COUNT]
        ),
        first=st.integers(0, 60),
        count=st.none() | few,
        since=since,
    ),
    st.builds(
        BitFault,
        st.just(STS),
        force=st.sampled_from([Sts.VALID, Sts.EXPECT, Sts.COMMAND_READY, 0xFFFFFFFF]),
        first=st.integers(0, 60),
        count=st.integers(1, 2),
        since=since,
    ),
    st.builds(
        BitFault,
        st.just(ACCESS),
        force=st.sampled_from([0, Access.PENDING, 0xFF]),
        clear=st.sampled_from([0, Access.VALID, Access.ACTIVE]),
        first=few,
        count=st.none() | few,
        since=since,
    ),
)
rare_waits = st.builds(seeded_waits, st.integers(0, 99), st.just(1)).map(
    lambda turns: tuple(wait if number % 7 == 3 else 0 for number, wait in enumerate(turns))
)
regular_waits = st.just((0,)) | st.integers(1, 3).map(lambda wait: (wait,))
waits = (
    regular_waits
    | regular_waits
    | rare_waits
    | st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple)
)


def some(faults: st.SearchStrategy[Fault]) -> st.SearchStrategy[tuple[Fault, ...]]:
    return st.lists(faults, max_size=2).map(tuple)


def habits_with(
    faults: st.SearchStrategy[tuple[Fault, ...]], waits: st.SearchStrategy[tuple[int, ...]] = waits
) -> st.SearchStrategy[Habits]:
    return st.builds(
        Habits,
        personalities,
        faults=faults,
        read_waits=waits,
        write_waits=waits,
        busy_s=st.sampled_from([0.0, 0.0, 0.0015, 0.03, 0.4]),
        busy_polls=few,
        boot_s=st.sampled_from([0.0, 0.05]),
    )


buses = st.sampled_from(
    [
        LIMITS,
        replace(LIMITS, awaits_irq=True),
        replace(LIMITS, transfers=5, bytes_in=130),
        replace(LIMITS, longest_pause_s=0.0),
    ]
)
plans = st.sampled_from(Plan)


def bench(habits: Habits, limits: BusLimits, plan: Plan) -> SpiBench:
    made = SpiBench(habits, answer_to, limits=limits, most=plan, duration_s=DURATION_S)
    made.chip.habits = habits
    return made


def within_its_time(made: SpiBench, do: Callable[[], T]) -> T | HwtpmError:
    limit_s = made.host.transmit_limit_s(DURATION_S) + made.host.locality_limit_s
    start_s = made.clock.now()
    try:
        return do()
    except HwtpmError as error:
        event(type(error).__name__)
        return error
    finally:
        assert made.clock.now() - start_s <= limit_s


def check(made: SpiBench, command: bytes, got: bytes | HwtpmError, executed: int) -> None:
    assert made.executed[executed:] in ([], [command]), "never twice, never something else"
    if isinstance(got, bytes):
        assert got == answer_to(command, 0)
        assert made.executed[executed:] == [command]


def reopened(made: SpiBench, command: bytes) -> None:
    """A new driver on the same chip, once nothing is wrong any more."""
    made.bus.gone_at = None
    made.chip.habits = Habits(made.chip.habits.personality)
    made.chip.power_on()
    host = SpiHost(made.bus.limits, device="bench-a")
    tis = SpiTis(made.bus, made.clock, duration_s=lambda _: DURATION_S, host=host)
    tis.probe()
    assert tis.execute(command) == answer_to(command, 0)


@given(commands, habits_with(some(tolerable), regular_waits), buses, plans)
@settings(deadline=None)
def test_what_a_chip_may_do_costs_nothing_but_time(
    sent: list[bytes], habits: Habits, limits: BusLimits, plan: Plan
) -> None:
    made = bench(habits, limits, plan)
    within_its_time(made, made.tis.probe)
    for command in sent:
        executed = len(made.executed)
        got = within_its_time(made, lambda command=command: made.tis.execute(command))
        check(made, command, got, executed)
        assert isinstance(got, bytes), got
    event(f"{made.host.plan!r} after {plan!r}")


def spoil(made: SpiBench, habits: Habits) -> None:
    """From now on the chip has these habits, as far as they are not its personality's."""
    chip = made.chip
    chip.habits = replace(habits, personality=chip.habits.personality, boot_s=0.0)
    chip._registers = FaultyRegisters(chip.core, habits.faults)
    chip._protocol = BitProtocol(chip, chip.habits, chip.counters)


def proven(personality: Personality, limits: BusLimits, command: bytes) -> SpiBench:
    """A driver that takes its chip for a fast one."""
    made = bench(Habits(personality), limits, Plan.FAST)
    made.tis.probe()
    for _ in range(5):
        assert made.tis.execute(command) == answer_to(command, 0)
    return made


@given(commands, personalities, habits_with(some(troubles)), buses)
@settings(deadline=None)
def test_chip_that_disappoints_after_it_proved_itself(
    sent: list[bytes], personality: Personality, habits: Habits, limits: BusLimits
) -> None:
    made = proven(personality, limits, sent[-1])
    event(f"{made.host.plan!r}, irq {made.host._footing.irq}")
    spoil(made, habits)
    for command in sent:
        executed = len(made.executed)
        got = within_its_time(made, lambda command=command: made.tis.execute(command))
        check(made, command, got, executed)
    event(f"{made.host.plan!r} at the end")
    reopened(made, sent[0])


@given(commands, personalities, buses, plans, st.integers(0, 120), st.integers(24, 600))
@settings(deadline=None)
def test_one_flipped_bit_is_never_taken_for_anything_but_itself(
    sent: list[bytes],
    personality: Personality,
    limits: BusLimits,
    plan: Plan,
    transaction: int,
    bit: int,
) -> None:
    habits = Habits(personality, flipped_bit=FlippedBit(transaction, bit % 72))
    made = bench(habits, limits, plan)
    within_its_time(made, made.tis.probe)
    for command in sent:
        executed = len(made.executed)
        got = within_its_time(made, lambda command=command: made.tis.execute(command))
        right = answer_to(command, 0)
        if isinstance(got, bytes) and got != right and len(got) == len(right):
            # Nobody can see that a response's content has changed on its way.
            wrong = int.from_bytes(got, "big") ^ int.from_bytes(right, "big")
            # A ready bit that flips while the bus polls for it costs that access its data.
            polled = bit % 72 == READY_BIT and made.bus.stretches > 0
            assert wrong.bit_count() == 1 or polled
            got = right
        check(made, command, got, executed)


@given(commands, habits_with(some(troubles)), buses, plans)
@settings(deadline=None)
def test_trouble_is_a_right_answer_or_a_typed_error_and_the_next_open_works(
    sent: list[bytes], habits: Habits, limits: BusLimits, plan: Plan
) -> None:
    made = bench(habits, limits, plan)
    within_its_time(made, made.tis.probe)
    for command in sent:
        executed = len(made.executed)
        got = within_its_time(made, lambda command=command: made.tis.execute(command))
        check(made, command, got, executed)
    reopened(made, sent[0])


@given(commands, habits_with(some(tolerable)), buses, plans, st.integers(0, 150))
@settings(deadline=None)
def test_adapter_or_chip_that_vanishes_at_any_transfer(
    sent: list[bytes], habits: Habits, limits: BusLimits, plan: Plan, at: int
) -> None:
    made = bench(habits, limits, plan)
    if at % 2:
        made.bus.gone_at = at
    else:
        made.chip.habits = replace(habits, unplug_after_bytes=at * 11)
    within_its_time(made, made.tis.probe)
    for command in sent:
        executed = len(made.executed)
        got = within_its_time(made, lambda command=command: made.tis.execute(command))
        check(made, command, got, executed)
    reopened(made, sent[0])


@given(commands, habits_with(st.just(())), plans, st.integers(0, 120), st.integers(0, 12))
@settings(deadline=None)
def test_seized_locality_is_a_right_answer_or_a_typed_error(
    sent: list[bytes], habits: Habits, plan: Plan, at: int, bit: int
) -> None:
    made = bench(habits, LIMITS, plan)
    select = made.bus._select

    def seize_sometime(header: bytes) -> int:
        if made.bus.transactions == at:
            made.chip.write(2, ACCESS.offset, bytes([Access.SEIZE]))
        if made.bus.transactions == at + bit:
            made.chip.write(2, ACCESS.offset, bytes([Access.ACTIVE]))
        return select(header)

    made.bus._select = seize_sometime  # type: ignore[method-assign]
    within_its_time(made, made.tis.probe)
    for command in sent:
        executed = len(made.executed)
        got = within_its_time(made, lambda command=command: made.tis.execute(command))
        check(made, command, got, executed)
    made.bus._select = select  # type: ignore[method-assign]
    reopened(made, sent[0])
