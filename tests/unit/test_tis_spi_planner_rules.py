"""What the SPI driver does when a chip is not as planned; every answer is that of TisHost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from spi_master import NaiveMaster
from spi_memory_bus import LIMITS, SpiBench

from hwtpm.clock import FakeClock
from hwtpm.errors import (
    BusError,
    Cancelled,
    DeviceNotFound,
    HwtpmError,
    ProtocolError,
    Timeout,
    Unsupported,
    UsageError,
)
from hwtpm.tis import PC_CLIENT_TPM12, PC_CLIENT_TPM20, Personality, TisHost, TisTransport
from hwtpm.tis.registers import ACCESS, INTERFACE_ID, STS, Access, Sts
from hwtpm.tis.states import State
from hwtpm.tis_lpc_sim import ExecutorTpm
from hwtpm.tis_lpc_sim.faults import BitFault, Fault, TruncateFault, refused_locality
from hwtpm.tis_spi.bus import Captured, Transfer
from hwtpm.tis_spi.flow import drive
from hwtpm.tis_spi.planner import Plan
from hwtpm.tis_spi.quirks import Quirks
from hwtpm.tis_spi.virtual import PROFILES, Habits, VirtualSpiChip
from hwtpm.tis_spi.virtual.habits import Miso, stuck_status, stuck_valid
from hwtpm.tis_spi.virtual.slave import BitProtocol

COMMAND = bytes.fromhex("8001 0000000c 0000017b 0020")
RESPONSE = bytes.fromhex("8001 0000002c 00000000 0020") + bytes(range(32))
REFUSED = bytes.fromhex("8001 0000000a 00000101")
TPM20 = replace(PC_CLIENT_TPM20, burst_limit=64)
TPM12 = replace(PC_CLIENT_TPM12, burst_limit=64)
FAST_AND_STRICT = [Plan.FAST, Plan.STRICT]


def answer(command: bytes, locality: int) -> bytes:
    return RESPONSE


def warm(
    plan: Plan, personality: Personality = TPM20, reply: Callable[[bytes, int], bytes] = answer
) -> SpiBench:
    chip = SpiBench(Habits(personality), reply, most=plan)
    chip.tis.probe()
    chip.warm_up(COMMAND, plan)
    return chip


def spoil(bench: SpiBench, *faults: Fault, **habits: object) -> None:
    chip = bench.chip
    chip.habits = replace(chip.habits, faults=faults, **habits)  # type: ignore[arg-type]
    chip._registers = type(chip._registers)(chip.core, faults)
    chip._protocol = BitProtocol(chip, chip.habits, chip.counters)


# -- as TisHost, in every answer and every error


@pytest.mark.parametrize(
    ("habits", "error", "message"),
    [
        (Habits(TPM20), None, ""),
        (Habits(TPM12), None, ""),
        (PROFILES["st33ktpm2x"], None, ""),
        (PROFILES["npct75x"], None, ""),
        (PROFILES["qvault"], None, ""),
        (PROFILES["attpm20p"], None, ""),
        (PROFILES["slb9670"], None, ""),
        (PROFILES["slb9672"], None, ""),
        (Habits(replace(TPM20, burst_limit=1)), None, ""),
        (Habits(TPM20, miso=Miso.ALL_ONES), DeviceNotFound, "no TPM answers"),
        (Habits(TPM20, busy_s=60), Timeout, "no response within 2 s"),
        (Habits(TPM20, faults=(refused_locality(None),)), Timeout, "no locality 0 within"),
        (
            Habits(TPM20, faults=(BitFault(STS, clear=Sts.COMMAND_READY),)),
            Timeout,
            "no commandReady within",
        ),
        (
            Habits(TPM20, faults=(BitFault(STS, clear=Sts.BURST_COUNT),)),
            Timeout,
            "no burst count after 0 of 11 command bytes",
        ),
        (
            Habits(TPM20, faults=(TruncateFault(30, times=20),)),
            ProtocolError,
            "response of 44 bytes ends early, 3 times",
        ),
        (
            Habits(TPM20, faults=(BitFault(INTERFACE_ID, clear=0xF, force=1),)),
            Unsupported,
            "CRB",
        ),
    ],
)
def test_every_plan_answers_and_fails_as_tis_host_does(
    habits: Habits, error: type[HwtpmError] | None, message: str
) -> None:
    def outcome(transport: TisTransport | object) -> bytes | HwtpmError:
        try:
            transport.probe()  # type: ignore[attr-defined]
            for _ in range(6):
                response = transport.execute(COMMAND)  # type: ignore[attr-defined]
                assert response == RESPONSE
        except HwtpmError as caught:
            return caught
        return response

    clock = FakeClock()
    chip = VirtualSpiChip(ExecutorTpm(answer), habits, clock)
    chip.power_on()
    transport = TisTransport(
        NaiveMaster(chip, clock), clock, duration_s=lambda _: 2.0, host=TisHost(device="bench-a")
    )
    # The naive bus does not know what the driver finds out about the chip.
    expected = outcome(transport) if habits is not PROFILES["slb9672"] else RESPONSE
    for plan in Plan:
        got = outcome(SpiBench(habits, answer, most=plan).tis)
        if error is None:
            assert got == expected == RESPONSE
        else:
            assert type(got) is error
            assert isinstance(expected, error)
            assert message in str(got)
            assert message in str(expected)


# -- downgrades


@pytest.mark.parametrize("plan", FAST_AND_STRICT)
@pytest.mark.parametrize("number", range(12))
def test_wait_state_anywhere_ends_batching_and_the_command_runs_once(
    plan: Plan, number: int
) -> None:
    bench = warm(plan)
    run = bench.bus.run
    seen = 0

    def with_a_wait(steps: object) -> list[Captured]:
        nonlocal seen
        captured = []
        for step in steps:  # type: ignore[attr-defined]
            if not isinstance(step, Transfer):
                continue
            reading = bool(step.header[0] & 0x80)
            if seen == number:
                bench.chip._protocol._number[reading] = 0
                spoil(bench, read_waits=(1,) * 1 + (0,) * 99, write_waits=(1,) + (0,) * 99)
            seen += 1
            captured += run([step])
            spoil(bench, read_waits=(0,), write_waits=(0,))
        return captured

    bench.bus.run = with_a_wait  # type: ignore[method-assign]
    executed = len(bench.executed)
    try:
        response = bench.tis.execute(COMMAND)
    except ProtocolError as error:
        assert "may have been executed" in str(error)  # noqa: PT017
        assert number <= 4
    else:
        assert response == RESPONSE
    assert len(bench.executed) - executed <= 1
    if number < seen:
        assert bench.host.plan is Plan.SLOW
    bench.bus.run = run  # type: ignore[method-assign]
    assert bench.tis.execute(COMMAND) == RESPONSE


def test_short_refusal_costs_nothing_more_and_changes_no_prediction() -> None:
    reply = [RESPONSE]
    bench = warm(Plan.FAST, reply=lambda command, locality: reply[0])
    reply[0] = REFUSED
    assert bench.cost(COMMAND) == (9, 1)
    reply[0] = RESPONSE
    assert bench.cost(COMMAND) == (9, 1)


def test_longer_response_is_continued() -> None:
    reply = [RESPONSE]
    bench = warm(Plan.FAST, reply=lambda command, locality: reply[0])
    reply[0] = bytes.fromhex("8001 00000096 00000000") + bytes(140)
    assert bench.cost(COMMAND)[1] <= 4
    assert bench.cost(COMMAND)[1] == 1
    assert bench.host.plan is Plan.FAST


def test_declared_size_serves_before_any_response_was_seen() -> None:
    bench = SpiBench(Habits(TPM20), answer, declared=lambda command: len(RESPONSE))
    bench.cost(COMMAND)
    sizes = [step.size for steps in bench.bus.runs for step in steps if isinstance(step, Transfer)]
    assert len(RESPONSE) in sizes


def test_answer_that_is_later_than_predicted_is_read_again_from_its_start() -> None:
    bench = warm(Plan.FAST)
    spoil(bench, busy_polls=3)
    assert bench.cost(COMMAND)[1] == 3
    assert bench.host.plan is Plan.FAST
    written = [s.data for s in bench.bus.runs[-2] if isinstance(s, Transfer)]
    assert written[0] == bytes([Sts.RETRY])


def test_response_that_ends_in_ones_is_read_twice() -> None:
    ones = RESPONSE[:-1] + b"\xff"
    bench = SpiBench(Habits(TPM20), lambda command, locality: ones)
    for _ in range(8):
        bench.cost(COMMAND)
    assert bench.bus.stretches
    assert bench.host.plan is not Plan.SLOW


# -- cancelling


@pytest.mark.parametrize("plan", Plan)
def test_cancelled_tpm12_command_is_aborted(plan: Plan) -> None:
    bench = SpiBench(Habits(TPM12, busy_s=30), answer, most=plan, duration_s=60)
    cancel_while_sleeping(bench)
    with pytest.raises(Cancelled):
        bench.tis.execute(COMMAND)
    assert bench.clock.time_s < 1
    assert bench.executed == []
    assert bench.chip.core.state(0) is State.READY


@pytest.mark.parametrize("plan", Plan)
def test_cancelled_tpm20_command_answers(plan: Plan) -> None:
    bench = SpiBench(Habits(TPM20, busy_s=30), answer, most=plan, duration_s=60)
    bench.tis.probe()
    cancel_while_sleeping(bench)
    assert bench.tis.execute(COMMAND).endswith(bytes.fromhex("00000909"))
    assert bench.clock.time_s < 1


def cancel_while_sleeping(bench: SpiBench) -> None:
    sleep = bench.clock.sleep

    def sleep_and_cancel(duration_s: float) -> None:
        sleep(duration_s)
        bench.tis.cancel()

    bench.clock.sleep = sleep_and_cancel  # type: ignore[method-assign]


# -- opening


@pytest.mark.parametrize(
    ("miso", "evidence"),
    [(Miso.ALL_ONES, "every bit reads 1"), (Miso.ALL_ZEROS, "every bit reads 0")],
)
def test_wiring_fault_is_named(miso: Miso, evidence: str) -> None:
    bench = SpiBench(Habits(TPM20, miso=miso), answer)
    with pytest.raises(DeviceNotFound, match=evidence) as caught:
        bench.tis.probe()
    assert caught.value.hint
    assert bench.clock.time_s <= bench.host.locality_limit_s


def test_chip_that_still_starts_is_waited_for_and_not_taken_for_slow() -> None:
    bench = SpiBench(Habits(TPM20, boot_s=0.1), answer)
    assert bench.tis.probe().tpm20
    assert 0.1 <= bench.clock.time_s < 0.12
    bench.warm_up(COMMAND, Plan.FAST)


def test_chip_with_wait_states_is_slow_from_the_start() -> None:
    bench = SpiBench(PROFILES["npct75x"], answer)
    bench.tis.probe()
    assert bench.host.plan is Plan.SLOW
    bench.cost(COMMAND)


@pytest.mark.parametrize("stuck", [stuck_status(), stuck_valid(), stuck_valid(3)])
def test_stuck_status_is_mended_by_sending_again(stuck: BitFault) -> None:
    bench = SpiBench(Habits(TPM20, faults=(stuck,)), answer, quirks=Quirks(status_resends=50))
    bench.tis.probe()
    bench.cost(COMMAND)


def test_closing_leaves_no_response_in_the_chip_and_gives_the_locality_back() -> None:
    bench = warm(Plan.FAST)
    bench.tis.close()
    assert bench.chip.core.active_locality is None
    assert bench.chip.core.state(0) is State.IDLE
    assert bench.bus.closed
    with pytest.raises(UsageError, match="closed"):
        bench.tis.execute(COMMAND)


@pytest.mark.parametrize("plan", Plan)
def test_seized_locality_is_a_typed_error_and_can_be_had_again(plan: Plan) -> None:
    bench = warm(plan)
    bench.chip.write(3, ACCESS.offset, bytes([Access.SEIZE]))
    with pytest.raises(ProtocolError, match="locality 0 was taken away"):
        bench.tis.execute(COMMAND)
    assert bench.host.locality is None
    bench.chip.write(3, ACCESS.offset, bytes([Access.ACTIVE]))
    bench.cost(COMMAND)


def test_seizing_from_above() -> None:
    bench = warm(Plan.STRICT)
    bench.chip.write(0, ACCESS.offset, bytes([Access.ACTIVE]))
    bench.host.host.adopt_locality(None)
    bench.chip.write(1, ACCESS.offset, bytes([Access.REQUEST]))
    drive(bench.host.seize(2), bench.bus, bench.clock)
    assert bench.chip.core.active_locality == bench.host.locality == 2


@pytest.mark.parametrize("command", [b"", COMMAND[:-1], COMMAND + b"\0"])
def test_no_frame_is_a_usage_error_and_nothing_is_sent(command: bytes) -> None:
    bench = warm(Plan.FAST)
    transactions = bench.bus.transactions
    with pytest.raises(UsageError):
        bench.tis.execute(command)
    assert bench.bus.transactions == transactions


def test_link_that_fails_once_is_a_typed_error_and_the_next_command_works() -> None:
    bench = warm(Plan.FAST)
    run = bench.bus.run

    def fail(steps: object) -> list[Captured]:
        bench.bus.run = run  # type: ignore[method-assign]
        raise BusError("less came back than was clocked")

    bench.bus.run = fail  # type: ignore[method-assign]
    with pytest.raises(BusError, match="less came back"):
        bench.tis.execute(COMMAND)
    bench.cost(COMMAND)


def test_batches_are_cut_to_what_the_bus_has_room_for() -> None:
    limits = replace(LIMITS, transfers=3, bytes_in=70)
    bench = SpiBench(Habits(TPM20), answer, limits=limits)
    bench.warm_up(COMMAND, Plan.FAST)
    assert bench.cost(COMMAND) == (9, 3)
