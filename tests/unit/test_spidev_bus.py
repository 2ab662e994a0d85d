"""The spidev bus over a virtual device in this process: costs, chip select, lines, errors."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from spi_master import NaiveMaster
from spidev_rig import PATH, DirectFile, DroppingFile, Wire

from hwtpm.clock import FakeClock
from hwtpm.errors import (
    BusError,
    DeviceNotFound,
    HwtpmError,
    Timeout,
    Unsupported,
    UsageError,
)
from hwtpm.tis import PC_CLIENT_TPM12, PC_CLIENT_TPM20
from hwtpm.tis_lpc_sim import ExecutorTpm
from hwtpm.tis_spi.bus import AwaitIrq, Captured, Pause, Step
from hwtpm.tis_spi.flow import read_transfer, write_transfer
from hwtpm.tis_spi.planner import Plan, SpiHost
from hwtpm.tis_spi.quirks import STRICT
from hwtpm.tis_spi.spi_ioc import Buffer, IocTransfer
from hwtpm.tis_spi.spidev import SpidevBus, _Select
from hwtpm.tis_spi.transport import SpiTis
from hwtpm.tis_spi.virtual import PROFILES, Habits, VirtualSpiChip
from hwtpm.tis_spi.virtual.spidev import VirtualSpidev

SLB9670 = Habits(PROFILES["slb9670"].personality)
DID_VID = read_transfer(0xF00, 4)
IDENTITY = bytes.fromhex("d1151b00")
STS = read_transfer(0x18, 4)
ACCESS = read_transfer(0x00, 1)
REQUEST_USE = write_transfer(0x00, b"\x02")

GET_RANDOM = bytes.fromhex("8001 0000000c 0000017b 0020")
RANDOM = bytes.fromhex("8001 0000002c 00000000 0020") + bytes(range(32))
EXTEND = bytes.fromhex("00c1 00000022 00000014 00000007") + bytes(range(20))
EXTENDED = bytes.fromhex("00c4 0000001e 00000000") + bytes(range(20))
ANSWERS = {GET_RANDOM: RANDOM, EXTEND: EXTENDED}
BOTH = [(PC_CLIENT_TPM20, GET_RANDOM), (PC_CLIENT_TPM12, EXTEND)]
WIDEST = {"buffer_size": 4096, "alignment": 128}


class Line:
    """A line for RST# or PIRQ# that writes down what happens to it."""

    def __init__(self, low: Callable[[], bool] = lambda: True, clock: FakeClock | None = None):
        self.events: list[object] = []
        self.low = low
        self.clock = clock

    def drive(self, low: bool) -> None:
        self.events.append((low, self.clock.now() if self.clock else 0))

    def await_low(self, timeout_s: float) -> bool:
        self.events.append(timeout_s)
        if self.clock is not None:
            self.clock.sleep(min(timeout_s, 0.01))
        return self.low()

    def close(self) -> None:
        self.events.append("closed")


class Bench:
    """Bus, virtual device, probe on chip select, and a chip that `ANSWERS`."""

    def __init__(
        self,
        habits: Habits = SLB9670,
        file: type[DirectFile] = DirectFile,
        *,
        irq: bool = False,
        longest_delay_us: int = 0xFFFF,
    ) -> None:
        self.clock = FakeClock()
        tpm = ExecutorTpm(lambda command, locality: ANSWERS[command])
        self.chip = VirtualSpiChip(tpm, habits, self.clock)
        self.chip.power_on()
        self.wire = Wire(self.chip)
        self.device = VirtualSpidev({PATH: self.wire}, clock=self.clock, **WIDEST)
        self.file = file(self.device)
        self.bus = SpidevBus(
            self.file,
            Path(PATH),
            clock_hz=10_000_000,
            clock=self.clock,
            irq=Line(lambda: self.chip.irq, self.clock) if irq else None,
            longest_delay_us=longest_delay_us,
        )

    def cost(self, tis: SpiTis, command: bytes) -> tuple[int, int]:
        """(transactions, ioctls) of a command whose answer is checked."""
        before = self.chip.counters.transactions, self.bus.counters.ioctls
        assert tis.execute(command) == ANSWERS[command]
        return (
            self.chip.counters.transactions - before[0],
            self.bus.counters.ioctls - before[1],
        )

    def tis(self, most: Plan = Plan.FAST) -> SpiTis:
        host = SpiHost(self.bus.limits, most=most)
        return SpiTis(self.bus, self.clock, duration_s=lambda _: 2.0, host=host)


def warm(bench: Bench, tis: SpiTis, command: bytes) -> None:
    for _ in range(10):
        bench.cost(tis, command)


# -- what a batch costs


@pytest.mark.parametrize(("personality", "command"), BOTH)
@pytest.mark.parametrize(
    ("most", "burst", "cost"),
    [
        (Plan.STRICT, 64, (11, 2)),
        (Plan.STRICT, 32, (13, 3)),
        (Plan.FAST, 64, (9, 1)),
        (Plan.FAST, 32, (10, 1)),
    ],
)
def test_commands_cost(
    personality: object, command: bytes, most: Plan, burst: int, cost: tuple[int, int]
) -> None:
    bench = Bench(Habits(replace(personality, burst_limit=burst)))  # type: ignore[type-var]
    tis = bench.tis(most)
    warm(bench, tis, command)
    assert [bench.cost(tis, command) for _ in range(3)] == [cost] * 3


@pytest.mark.parametrize(("most", "ioctls"), [(Plan.STRICT, 2), (Plan.FAST, 1)])
def test_a_chip_that_takes_its_time_costs_no_ioctl_more(most: Plan, ioctls: int) -> None:
    bench = Bench(Habits(PC_CLIENT_TPM20, busy_s=0.0022))
    tis = bench.tis(most)
    warm(bench, tis, GET_RANDOM)
    assert {bench.cost(tis, GET_RANDOM)[1] for _ in range(5)} == {ioctls}


def test_opening_costs_five_transactions_in_one_ioctl() -> None:
    bench = Bench()
    assert bench.tis().probe().did_vid == 0x001B15D1
    assert (bench.chip.counters.transactions, bench.bus.counters.ioctls) == (5, 1)


def test_an_interrupt_costs_one_message_more() -> None:
    personality = replace(PC_CLIENT_TPM20, burst_limit=64, ready_after_completion=True)
    bench = Bench(Habits(personality, busy_s=0.004), irq=True)
    tis = bench.tis()
    tis.probe()
    warm(bench, tis, GET_RANDOM)
    assert bench.cost(tis, GET_RANDOM) == (8, 2)


def test_the_limits_are_what_one_ioctl_takes() -> None:
    bench = Bench()
    limits = bench.bus.limits
    assert (limits.transfers, limits.longest_pause_s, limits.awaits_irq) == (32, 0.065535, False)
    widest = [read_transfer(0x24, 64)] * limits.transfers
    assert limits.bytes_in == sum(1 + step.size for step in widest)
    assert len(bench.bus.run(widest)) == 32
    assert bench.bus.counters.ioctls == 1
    bench.bus.run([*widest, *widest, ACCESS])
    assert bench.bus.counters.ioctls == 4


def test_an_empty_batch_costs_nothing() -> None:
    bench = Bench()
    assert bench.bus.run([]) == []
    assert bench.device.counters.messages == 0


# -- chip select and time


def test_chip_select_pulses_between_transactions() -> None:
    bench = Bench()
    seen = bench.bus.run([DID_VID, REQUEST_USE, DID_VID])
    assert seen == [Captured(1, IDENTITY), Captured(1, b""), Captured(1, IDENTITY)]
    assert bench.chip.counters.cs_edges == 6
    assert not bench.wire.low


def test_a_pause_in_a_batch_is_a_delay_before_chip_select_rises() -> None:
    bench = Bench()
    low = []
    sleep = bench.clock.sleep
    bench.clock.sleep = lambda duration_s: (low.append(bench.wire.low), sleep(duration_s))  # type: ignore
    bench.bus.run([DID_VID, Pause(0.002), DID_VID, Pause(0.07), DID_VID, Pause(0.003)])
    assert bench.clock.slept_s == [0.002, 0.07, 0.003]
    assert low == [True, False, False]
    assert bench.bus.counters.ioctls == 2


def test_without_delays_chip_select_is_high_in_every_pause() -> None:
    bench = Bench(longest_delay_us=0)
    assert bench.bus.limits.longest_pause_s == 0
    low = []
    sleep = bench.clock.sleep
    bench.clock.sleep = lambda duration_s: (low.append(bench.wire.low), sleep(duration_s))  # type: ignore
    bench.bus.run([DID_VID, Pause(0.002), DID_VID])
    assert (low, bench.bus.counters.ioctls) == ([False], 2)


# -- wait states


@pytest.mark.parametrize(
    ("waits", "size", "ioctls"),
    [(0, 4, 2), (2, 4, 2), (3, 4, 2), (4, 4, 3), (7, 4, 3), (8, 4, 4), (0, 1, 2), (3, 1, 5)],
)
def test_ioctls_of_a_read_with_wait_states(waits: int, size: int, ioctls: int) -> None:
    bench = Bench(replace(SLB9670, read_waits=(0, waits, waits)))
    bench.bus.stretch(DID_VID, 100)
    before, transactions = bench.bus.counters.ioctls, bench.chip.counters.transactions
    bench.device.counters.bytes = 0
    assert bench.bus.stretch(read_transfer(0xF00, size), 100) == IDENTITY[:size]
    assert bench.bus.counters.ioctls - before == ioctls
    assert bench.chip.counters.transactions - transactions == 1
    # Not a clock more than header, wait states and data.
    assert bench.device.counters.bytes == 4 + waits + size


@pytest.mark.parametrize("waits", [0, 1, 5])
def test_ioctls_of_a_write_with_wait_states(waits: int) -> None:
    bench = Bench(replace(SLB9670, write_waits=(waits,)))
    bench.bus.stretch(DID_VID, 100)
    before = bench.bus.counters.ioctls
    assert bench.bus.stretch(REQUEST_USE, 100) == b""
    assert bench.bus.counters.ioctls - before == 2 + waits
    assert bench.chip.core.active_locality == 0


@pytest.mark.parametrize("transfer", [DID_VID, ACCESS, REQUEST_USE])
@pytest.mark.parametrize("waits", [0, 1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("most", [0, 1, 2, 3, 4, 5, 8])
def test_as_many_wait_bytes_as_allowed_and_no_more(transfer: object, waits: int, most: int) -> None:
    bench = Bench(replace(SLB9670, read_waits=(waits,), write_waits=(waits,)))
    bench.bus.stretch(DID_VID, 100)
    if waits <= most:
        bench.bus.stretch(transfer, most)  # type: ignore[arg-type]
    else:
        bench.device.counters.bytes = 0
        with pytest.raises(Timeout, match=f"after {most} wait bytes"):
            bench.bus.stretch(transfer, most)  # type: ignore[arg-type]
        assert bench.device.counters.bytes == 4 + most + 1  # and one that releases chip select
        assert bench.bus.counters.releases == 1
    assert not bench.wire.low


def test_a_write_shows_its_first_byte_during_wait_states() -> None:
    bench = Bench(replace(SLB9670, write_waits=(3,)))
    bench.bus.stretch(DID_VID, 10)
    sent = []
    shift = bench.chip.shift
    bench.chip.shift = lambda mosi: (sent.append(mosi), shift(mosi))[1]  # type: ignore
    bench.bus.stretch(write_transfer(0x24, b"\xa5\x5a"), 10)
    assert bytes(sent[4:]).hex() == "a5a5a5a55a"


def test_a_chip_that_says_ready_too_early_is_not_believed() -> None:
    bench = Bench(replace(SLB9670, read_waits=(3,), header_lies=True))
    assert bench.bus.stretch(DID_VID, 10, trust_header=False) == IDENTITY
    assert bench.bus.stretch(ACCESS, 10, trust_header=False) == b"\x81"


# -- controllers that drop chip select


@pytest.mark.parametrize("checks_address", [True, False])
def test_a_controller_that_drops_chip_select_is_found_out(checks_address: bool) -> None:
    bench = Bench(replace(SLB9670, checks_address=checks_address), DroppingFile)
    assert bench.bus.run([DID_VID]) == [Captured(1, IDENTITY)]
    for _ in range(2):
        with pytest.raises(BusError, match="drops chip select") as raised:
            bench.bus.stretch(STS, 50)
        assert "cs-gpios" in raised.value.hint
    assert not bench.wire.low


@pytest.mark.parametrize("waits", [1, 2, 3, 4, 9])
def test_wait_states_do_not_hide_such_a_controller(waits: int) -> None:
    bench = Bench(replace(SLB9670, read_waits=(waits,)), DroppingFile)
    with pytest.raises(BusError, match="drops chip select"):
        bench.bus.stretch(STS, 50)


def test_where_it_cannot_be_told_nothing_but_a_timeout_comes() -> None:
    bench = Bench(replace(SLB9670, read_waits=(2,)), DroppingFile)
    bench.bus._select = _Select.UNPROVEN
    with pytest.raises(Timeout) as raised:
        bench.bus.stretch(STS, 50)
    assert "keeps chip select low" in raised.value.hint


def test_where_it_cannot_be_told_wait_bytes_are_polled_one_by_one() -> None:
    bench = Bench(replace(SLB9670, read_waits=(4,)))
    bench.bus.stretch(DID_VID, 50)
    before = bench.bus.counters.ioctls
    assert bench.bus.stretch(DID_VID, 50) == IDENTITY
    assert bench.bus.counters.ioctls - before == 6


@pytest.mark.parametrize("lies", [False, True])
@pytest.mark.parametrize("waits", [(4,), (4, 0), (4, 3), (4, 8), (8, 4)])
def test_wait_bytes_that_look_like_that_are_not_taken_for_it(
    waits: tuple[int, ...], lies: bool
) -> None:
    bench = Bench(replace(SLB9670, read_waits=waits, header_lies=lies))
    for _ in range(3):
        assert bench.bus.stretch(DID_VID, 50, trust_header=not lies) == IDENTITY


def test_a_chip_whose_identity_looks_like_that_is_not_taken_for_it() -> None:
    personality = replace(SLB9670.personality, did_vid=0x01000000)
    bench = Bench(replace(SLB9670, personality=personality))
    assert bench.bus.stretch(DID_VID, 50) == bytes.fromhex("00000001")


def test_the_check_is_made_once() -> None:
    bench = Bench()
    counts = []
    for _ in range(3):
        bench.bus.stretch(STS, 50)
        counts.append(bench.bus.counters.ioctls)
    assert counts == [4, 6, 8]


# -- errors


class Breaking(DirectFile):
    """The nth message fails, and chip select stays as the controller last had it."""

    at = 0
    code = errno.EIO
    made = 0

    def message(self, transfers: Sequence[IocTransfer]) -> bytes:
        self.made += 1
        if self.made == self.at:
            raise OSError(self.code, "it broke")
        return super().message(transfers)


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        (errno.EIO, BusError, "kernel's log"),
        (errno.ETIMEDOUT, BusError, "kernel's log"),
        (errno.EMSGSIZE, BusError, "spidev.bufsiz=65536"),
        (errno.ENODEV, DeviceNotFound, "the device is gone"),
        (errno.ENXIO, DeviceNotFound, "the device is gone"),
        (errno.ESHUTDOWN, DeviceNotFound, "the device is gone"),
        (errno.EBUSY, BusError, "kernel's log"),
    ],
)
def test_failing_calls(code: int, error: type[HwtpmError], text: str) -> None:
    bench = Bench(file=Breaking)
    bench.file.at, bench.file.code = 1, code
    with pytest.raises(error) as raised:
        bench.bus.run([DID_VID, DID_VID])
    assert PATH in str(raised.value)
    assert text in str(raised.value)
    assert bench.bus.run([DID_VID]) == [Captured(1, IDENTITY)]


@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("transfer", [DID_VID, write_transfer(0x24, b"abc")])
def test_whichever_call_of_a_stretch_fails_chip_select_is_released(
    transfer: object, at: int
) -> None:
    bench = Bench(replace(SLB9670, read_waits=(9,), write_waits=(3,)), Breaking)
    bench.file.at = at

    def stretches() -> None:
        for _ in range(2):
            bench.bus.stretch(transfer, 50)  # type: ignore[arg-type]

    with pytest.raises(BusError):
        stretches()
    assert not bench.wire.low
    assert bench.bus.counters.releases == 1
    assert bench.bus.run([DID_VID])[0].status == 0


def test_a_release_that_fails_does_not_hide_the_error() -> None:
    class Gone(DirectFile):
        def message(self, transfers: Sequence[IocTransfer]) -> bytes:
            raise OSError(errno.ENODEV, "gone")

    bench = Bench(file=Gone)
    with pytest.raises(DeviceNotFound, match="gone"):
        bench.bus.stretch(DID_VID, 5)
    assert (bench.bus.counters.ioctls, bench.bus.counters.releases) == (2, 1)


def test_an_interrupted_stretch_releases_chip_select() -> None:
    class Interrupted(DirectFile):
        made = 0

        def message(self, transfers: Sequence[IocTransfer]) -> bytes:
            self.made += 1
            received = super().message(transfers)
            if self.made == 3:
                raise KeyboardInterrupt
            return received

    bench = Bench(file=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.bus.stretch(DID_VID, 5)
    assert not bench.wire.low


def test_fewer_bytes_than_were_clocked_are_an_error() -> None:
    class Short(DirectFile):
        def message(self, transfers: Sequence[IocTransfer]) -> bytes:
            return super().message(transfers)[:-1]

    with pytest.raises(BusError, match="15 bytes came back, 16 were clocked"):
        Bench(file=Short).bus.run([DID_VID, DID_VID])


def test_a_buffer_smaller_than_one_transfer_is_told() -> None:
    bench = Bench()
    small = SpidevBus(
        DirectFile(VirtualSpidev({PATH: bench.wire}, buffer_size=64)),
        Path(PATH),
        clock_hz=1,
        buffer=Buffer(64),
    )
    with pytest.raises(BusError, match="no room"):
        small.run([read_transfer(0x24, 64)])


# -- lines


def test_reset_pulses_its_line_and_waits() -> None:
    bench = Bench()
    line = Line(clock=bench.clock)
    bus = SpidevBus(
        bench.file,
        Path(PATH),
        clock_hz=1,
        reset=line,
        reset_pulse_s=0.002,
        reset_settle_s=0.04,
        clock=bench.clock,
    )
    bus.reset()
    assert line.events == [(True, 0), (False, 0.002)]
    assert bench.clock.now() == pytest.approx(0.042)
    bus.close()
    assert line.events[2:] == ["closed"]


def test_an_interrupted_reset_lets_the_chip_go() -> None:
    class Interrupted(FakeClock):
        def sleep(self, duration_s: float) -> None:
            raise KeyboardInterrupt

    line = Line()
    bus = SpidevBus(Bench().file, Path(PATH), clock_hz=1, reset=line, clock=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        bus.reset()
    assert line.events == [(True, 0), (False, 0)]


def test_without_a_reset_line_there_is_no_reset() -> None:
    with pytest.raises(Unsupported, match="no reset line"):
        Bench().bus.reset()


def test_pirq_is_awaited_between_two_messages() -> None:
    bench = Bench(irq=True)
    line = bench.bus._irq
    assert isinstance(line, Line)
    line.low = lambda: True
    steps: list[Step] = [DID_VID, AwaitIrq(0.5), DID_VID]
    assert bench.bus.limits.awaits_irq
    assert bench.bus.run(steps) == [Captured(1, IDENTITY)] * 2
    assert (line.events, bench.bus.counters.ioctls) == ([0.5], 2)
    line.low = lambda: False
    with pytest.raises(Timeout, match="PIRQ# did not come"):
        bench.bus.run(steps)
    assert bench.bus.counters.ioctls == 3
    assert not bench.wire.low


def test_without_a_line_nothing_is_sent() -> None:
    bench = Bench()
    with pytest.raises(UsageError, match="PIRQ#"):
        bench.bus.run([DID_VID, AwaitIrq(0.5)])
    assert bench.bus.counters.ioctls == 0


def test_a_closed_bus_says_so() -> None:
    bench = Bench()
    bench.bus.close()
    bench.bus.close()
    assert bench.file.closed == 1
    calls: list[Callable[[], object]] = [
        lambda: bench.bus.run([DID_VID]),
        lambda: bench.bus.stretch(DID_VID, 1),
        bench.bus.reset,
    ]
    for call in calls:
        with pytest.raises(UsageError, match="closed"):
            call()


def test_the_reference_master_sees_the_same() -> None:
    bench = Bench(replace(SLB9670, read_waits=(0, 1, 5), write_waits=(2, 0)))
    other = Bench(replace(SLB9670, read_waits=(0, 1, 5), write_waits=(2, 0)))
    bench.bus.stretch(DID_VID, 10)
    master = NaiveMaster(other.chip, other.clock, STRICT)
    master.read(0xF00, 4)
    for transfer in (DID_VID, REQUEST_USE, STS, ACCESS, read_transfer(0x24, 64)) * 3:
        address = int.from_bytes(transfer.header[2:], "big")
        if transfer.data:
            master.write(address, transfer.data)
            seen = b""
        else:
            seen = master.read(address, transfer.size)
        assert bench.bus.stretch(transfer, 10) == seen
