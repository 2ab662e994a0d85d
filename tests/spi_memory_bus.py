"""An SPI bus without an adapter: batches clocked straight into a simulated chip, and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hwtpm.clock import Clock, FakeClock
from hwtpm.errors import DeviceNotFound, Timeout, Unsupported
from hwtpm.tis_lpc_sim import ExecutorTpm
from hwtpm.tis_spi.bus import AwaitIrq, BusLimits, Captured, Pause, Step, Transfer
from hwtpm.tis_spi.planner import Plan, SpiHost
from hwtpm.tis_spi.quirks import Quirks
from hwtpm.tis_spi.transport import SpiTis
from hwtpm.tis_spi.virtual import Habits, SpiSlave, VirtualSpiChip

LIMITS = BusLimits(
    transfers=64, bytes_in=1024, longest_pause_s=0.05, awaits_irq=False, clock_hz=10_000_000
)
_IRQ_POLL_S = 0.0001


class MemoryBus:
    """See `SpiBus`. The adapter vanishes when `gone_at` transfers have been made."""

    def __init__(
        self,
        slave: SpiSlave,
        clock: Clock,
        limits: BusLimits = LIMITS,
        *,
        irq: Callable[[], bool] = lambda: False,
        gone_at: int | None = None,
    ) -> None:
        self.slave = slave
        self.clock = clock
        self.limits = limits
        self.gone_at = gone_at
        self.runs: list[Sequence[Step]] = []
        self.transactions = self.stretches = 0
        self.closed = False
        self._irq = irq

    @property
    def round_trips(self) -> int:
        return len(self.runs) + self.stretches

    def run(self, steps: Sequence[Step]) -> list[Captured]:
        assert sum(isinstance(step, Transfer) for step in steps) <= self.limits.transfers
        assert sum(1 + s.size for s in steps if isinstance(s, Transfer)) <= self.limits.bytes_in
        self.runs.append(steps)
        captured = []
        for step in steps:
            match step:
                case Transfer(header, data, size):
                    status = self._select(header)
                    captured.append(Captured(status, self._clock_bytes(data, size)))
                    self.slave.select(False)
                case Pause(duration_s):
                    assert 0 < duration_s <= self.limits.longest_pause_s
                    self.clock.sleep(duration_s)
                case AwaitIrq(timeout_s):
                    self._await(timeout_s)
        return captured

    def stretch(self, transfer: Transfer, most_waits: int, *, trust_header: bool = True) -> bytes:
        self.stretches += 1
        try:
            ready = self._select(transfer.header) & trust_header
            for _ in range(most_waits):
                if ready:
                    break
                ready = self.slave.shift(0) & 1
            if not ready:
                raise Timeout(f"the chip waits for more than {most_waits} bytes")
            return self._clock_bytes(transfer.data, transfer.size)
        finally:
            self.slave.select(False)

    def reset(self) -> None:
        raise Unsupported("no reset line")

    def close(self) -> None:
        self.closed = True

    def _select(self, header: bytes) -> int:
        if self.gone_at is not None and self.transactions >= self.gone_at:
            raise DeviceNotFound("the adapter is gone")
        self.transactions += 1
        self.slave.select(True)
        return [self.slave.shift(byte) for byte in header][-1]

    def _clock_bytes(self, data: bytes, size: int) -> bytes:
        back = bytes(self.slave.shift(byte) for byte in data or bytes(size))
        return b"" if data else back

    def _await(self, timeout_s: float) -> None:
        until_s = self.clock.now() + timeout_s
        while not self._irq():
            if self.clock.now() >= until_s:
                raise Timeout("PIRQ# did not come")
            self.clock.sleep(_IRQ_POLL_S)


class SpiBench:
    """A driver, a bus, a simulated chip that `answer`s, and a clock turned by hand."""

    def __init__(
        self,
        habits: Habits,
        answer: Callable[[bytes, int], bytes],
        *,
        limits: BusLimits = LIMITS,
        declared: Callable[[bytes], int] | None = None,
        quirks: Quirks | None = None,
        most: Plan = Plan.FAST,
        duration_s: float = 2.0,
    ) -> None:
        self.executed: list[bytes] = []
        self.answer = answer
        self.clock = FakeClock()
        self.chip = VirtualSpiChip(ExecutorTpm(self._execute), habits, self.clock)
        self.chip.power_on()
        self.bus = MemoryBus(self.chip, self.clock, limits, irq=lambda: self.chip.irq)
        self.host = SpiHost(limits, quirks=quirks, declared=declared, device="bench-a", most=most)
        self.duration_s = duration_s
        self.tis = self.another()

    def another(self) -> SpiTis:
        """A transport over the same driver, bus and chip."""
        return SpiTis(self.bus, self.clock, duration_s=lambda _: self.duration_s, host=self.host)

    def cost(self, command: bytes) -> tuple[int, int]:
        """(transactions, round trips) of a command whose answer is checked."""
        before = self.bus.transactions, self.bus.round_trips
        executed = len(self.executed)
        expected = self.answer(command, 0)
        assert self.tis.execute(command) == expected
        assert self.executed[executed:] == [command]
        return self.bus.transactions - before[0], self.bus.round_trips - before[1]

    def warm_up(self, command: bytes, plan: Plan) -> None:
        """Commands until the driver has the plan and has seen the command under it."""
        for _ in range(8):
            self.cost(command)
            if self.host.plan is plan:
                break
        assert self.host.plan is plan
        self.cost(command)

    def _execute(self, command: bytes, locality: int) -> bytes:
        self.executed.append(command)
        return self.answer(command, locality)
