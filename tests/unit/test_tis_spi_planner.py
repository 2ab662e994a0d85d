"""What commands cost on SPI, pinned: transactions and round trips, per plan, family and burst."""

from __future__ import annotations

from dataclasses import replace

import pytest
from spi_memory_bus import LIMITS, SpiBench

from hwtpm.tis import PC_CLIENT_TPM12, PC_CLIENT_TPM20, Personality
from hwtpm.tis_spi.bus import AwaitIrq
from hwtpm.tis_spi.planner import Plan
from hwtpm.tis_spi.virtual import Habits

GET_RANDOM = bytes.fromhex("8001 0000000c 0000017b 0020")
RANDOM = bytes.fromhex("8001 0000002c 00000000 0020") + bytes(range(32))
EXTEND = bytes.fromhex("00c1 00000022 00000014 00000007") + bytes(range(20))
EXTENDED = bytes.fromhex("00c4 0000001e 00000000") + bytes(range(20))
ERROR = bytes.fromhex("8001 0000000a 00000101")
ANSWERS = {GET_RANDOM: RANDOM, EXTEND: EXTENDED}

TPM20 = replace(PC_CLIENT_TPM20, burst_limit=64, ready_after_completion=True)
TPM12 = replace(PC_CLIENT_TPM12, burst_limit=64, ready_after_completion=True)
BOTH = [(TPM20, GET_RANDOM), (TPM12, EXTEND)]


def answer(command: bytes, locality: int) -> bytes:
    return ANSWERS[command]


def bench(personality: Personality, most: Plan = Plan.FAST, **habits: int) -> SpiBench:
    return SpiBench(Habits(personality, **habits), answer, most=most)


@pytest.mark.parametrize(("personality", "command"), BOTH)
@pytest.mark.parametrize(("burst", "cost"), [(64, (11, 2)), (32, (13, 3)), (255, (11, 2))])
def test_strict_costs(
    personality: Personality, command: bytes, burst: int, cost: tuple[int, int]
) -> None:
    chip = bench(replace(personality, burst_limit=burst), Plan.STRICT)
    chip.warm_up(command, Plan.STRICT)
    assert [chip.cost(command) for _ in range(3)] == [cost] * 3
    assert chip.bus.stretches == 0
    assert chip.host.plan is Plan.STRICT


@pytest.mark.parametrize(("personality", "command"), BOTH)
@pytest.mark.parametrize("ready_after_completion", [True, False])
@pytest.mark.parametrize(("burst", "cost"), [(64, (9, 1)), (32, (10, 1)), (255, (9, 1))])
def test_fast_costs(
    personality: Personality,
    command: bytes,
    ready_after_completion: bool,
    burst: int,
    cost: tuple[int, int],
) -> None:
    chip = bench(
        replace(personality, burst_limit=burst, ready_after_completion=ready_after_completion)
    )
    chip.warm_up(command, Plan.FAST)
    assert [chip.cost(command) for _ in range(3)] == [cost] * 3
    assert chip.bus.stretches == 0


@pytest.mark.parametrize(("personality", "command"), BOTH)
def test_second_command_on_an_unknown_chip_costs_no_more_than_strict(
    personality: Personality, command: bytes
) -> None:
    chip = bench(personality)
    chip.cost(command)
    transactions, round_trips = chip.cost(command)
    assert transactions <= 11
    assert round_trips <= 2


def test_chip_that_goes_idle_after_a_response_costs_no_round_trip_more() -> None:
    chip = bench(replace(TPM20, ready_after_completion=False), Plan.STRICT)
    chip.warm_up(GET_RANDOM, Plan.STRICT)
    assert chip.cost(GET_RANDOM) == (11, 2)


def test_opening_costs_five_transactions_one_round_trip_and_no_wait() -> None:
    chip = bench(TPM20)
    info = chip.tis.probe()
    assert info.tpm20
    assert (chip.bus.transactions, chip.bus.round_trips) == (5, 1)
    chip.tis.set_locality(0)
    assert (chip.bus.transactions, chip.bus.round_trips) == (9, 2)
    assert chip.clock.time_s == 0


@pytest.mark.parametrize("busy_polls", [1, 2, 5, 8])
def test_busy_polls_cost_no_round_trip_once_they_are_known(busy_polls: int) -> None:
    for plan, round_trips in ((Plan.STRICT, 2), (Plan.FAST, 1)):
        chip = bench(TPM20, plan, busy_polls=busy_polls)
        chip.warm_up(GET_RANDOM, plan)
        chip.cost(GET_RANDOM)
        assert {chip.cost(GET_RANDOM)[1] for _ in range(10)} == {round_trips}


@pytest.mark.parametrize("busy_ms", [0.3, 1.4, 2.2, 5.5, 11])
def test_execution_time_costs_no_round_trip_once_it_is_known(busy_ms: float) -> None:
    for plan, round_trips in ((Plan.STRICT, 2), (Plan.FAST, 1)):
        chip = SpiBench(Habits(TPM20, busy_s=busy_ms / 1e3), answer, most=plan)
        chip.warm_up(GET_RANDOM, plan)
        chip.cost(GET_RANDOM)
        start_s = chip.clock.now()
        assert {chip.cost(GET_RANDOM)[1] for _ in range(10)} == {round_trips}
        assert chip.clock.now() - start_s < 10 * 2.5 * busy_ms / 1e3


def test_long_command_is_waited_for_without_traffic_on_the_bus() -> None:
    chip = SpiBench(Habits(TPM20, busy_s=1.5), answer)
    chip.warm_up(GET_RANDOM, Plan.FAST)
    transactions, round_trips = chip.cost(GET_RANDOM)
    assert round_trips <= 12
    assert transactions <= 50


def test_interrupt_takes_the_place_of_polls() -> None:
    limits = replace(LIMITS, awaits_irq=True)
    chip = SpiBench(Habits(TPM20, busy_s=0.004), answer, limits=limits)
    chip.tis.probe()
    chip.warm_up(GET_RANDOM, Plan.FAST)
    assert chip.cost(GET_RANDOM) == (8, 1)
    assert any(isinstance(step, AwaitIrq) for step in chip.bus.runs[-1])


def test_interrupt_that_never_comes_is_given_up() -> None:
    limits = replace(LIMITS, awaits_irq=True)
    chip = SpiBench(Habits(TPM20, busy_s=0.004), answer, limits=limits)
    chip.tis.probe()
    chip.warm_up(GET_RANDOM, Plan.FAST)
    chip.bus._irq = lambda: False
    for _ in range(8):
        chip.cost(GET_RANDOM)
    assert chip.cost(GET_RANDOM)[1] == 1
    assert not any(isinstance(step, AwaitIrq) for step in chip.bus.runs[-1])
