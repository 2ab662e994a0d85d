"""The driver of a TPM on SPI, sans-IO: TIS exchanges as batches, with as few round trips as safe.

Three plans. *slow*: one register access at a time with all the wait states a chip may need; that
is `hwtpm.tis.TisHost`. *strict*, for chips nobody knows: two round trips for a short command.
*fast*, for chips that did well under strict: one. PIRQ# takes the place of polls in fast, where it
is wired.

A surprise never becomes an answer. The planner then steps down, and a command is sent again only
where the chip certainly did not start it; if it did, its response is fetched the slow way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum, auto
from typing import Final

from hwtpm.errors import HwtpmError, ProtocolError, Timeout
from hwtpm.tis.evidence import (
    ABSENT,
    ChipInfo,
    check_command,
    check_locality,
)
from hwtpm.tis.flow import Flow, Wait
from hwtpm.tis.host import TisHost
from hwtpm.tis.registers import (
    ACCESS,
    INT_ENABLE,
    INT_VECTOR,
    STS,
    Access,
    Interrupt,
    IntfCapability,
    Sts,
)
from hwtpm.tis.timing import Timeouts
from hwtpm.tis_spi.bus import BusLimits
from hwtpm.tis_spi.exchange import BLIND_S, Exchange, Footing, Standing, Surprise, clock
from hwtpm.tis_spi.flow import SpiFlow, Stretch, T, read_transfer, run, slowly
from hwtpm.tis_spi.learnt import Learnt, Memory
from hwtpm.tis_spi.opening import look, search
from hwtpm.tis_spi.quirks import STRICT, Quirks, quirks_of
from hwtpm.tis_spi.steps import Results, Steps, is_ready

__all__ = ["Plan", "SpiHost"]

_PROOFS: Final = 3
"""Commands without a surprise before a chip is tried with fast."""

_STRIKES: Final = 3
"""Surprises under strict before a chip stays slow."""

_CONVICTIONS: Final = 3
"""Equal reads of STS in a row that count as its state: one of them may be noise."""

_CONVICTION_GAP_S: Final = 0.001
_IRQS_MISSED: Final = 2
"""Times PIRQ# did not come before it counts as not wired."""

_ENABLED: Final = Interrupt.GLOBAL | Interrupt.DATA_AVAIL | Interrupt.POLARITY.put(1)


class Plan(IntEnum):
    """How much is sent blind."""

    SLOW = auto()
    STRICT = auto()
    FAST = auto()


class SpiHost:
    """Driver of one TPM on SPI; see `hwtpm.tis.TisHost`, whose rules and errors it has.

    `declared` tells a response's size from its command, 0 where it does not know. `plan` is the
    present plan; `most` bounds what it may become.
    """

    def __init__(
        self,
        limits: BusLimits,
        *,
        timeouts: Timeouts | None = None,
        quirks: Quirks | None = None,
        declared: Callable[[bytes], int] | None = None,
        max_response: int = 4096,
        device: str = "TPM",
        most: Plan = Plan.FAST,
    ) -> None:
        self.host = TisHost(timeouts=timeouts, max_response=max_response, device=device)
        self.most = most
        self.plan = min(Plan.STRICT, most)
        self.quirks = STRICT
        self._known_quirks = quirks
        self._memory = Memory(declared)
        self._footing = Footing(limits, max_response=max_response)
        self._capability = 0
        self._proofs = self._strikes = self._irqs_missed = 0
        self._responsive = False
        self._used_s: float | None = None
        if quirks is not None:
            self._heed(quirks)

    @property
    def locality(self) -> int | None:
        """The locality we own, as far as we know."""
        return self.host.locality

    @property
    def locality_limit_s(self) -> float:
        """No operation on localities and no probe takes longer, beside the time of the bus."""
        return self.host.locality_limit_s + self.host.timeouts.a_s

    def transmit_limit_s(self, duration_s: float) -> float:
        """No `transmit` with that duration takes longer, beside the time of the bus."""
        t = self.host.timeouts
        wasted_s = max(duration_s, 0.0) + t.b_s + t.c_s + 1.0
        return self.host.transmit_limit_s(duration_s) + wasted_s

    # -- identity

    def probe(self) -> SpiFlow[ChipInfo]:
        """Find out what the chip is, in one round trip of five transfers.

        Raises:
            DeviceNotFound: nothing drives the bus, or the wires are wrong; the hint tells which.
            Timeout: the registers do not become valid.
            Unsupported: the chip's interface is switched to CRB.
            BusError: the adapter failed.
        """
        yield from self._wake()
        device, limits = self.host.device, self._footing.limits
        # Where the ready bit lies, a batch tells nothing.
        readable = self.quirks.header_bit_valid
        info = (yield from look(device, limits)) if readable else None
        if info is None:
            info = yield from search(self.host, limits, self.quirks)
            if not readable or (yield from look(device, limits)) is None:
                self._step_down(waits=True)
        self.host.adopt_chip(info)
        self._capability = info.capability
        self._heed(self._known_quirks or quirks_of(info))
        return info

    def _heed(self, quirks: Quirks) -> None:
        self.quirks = quirks
        host, footing = self.host, self._footing
        host.max_transfer = footing.chunk = min(host.max_transfer, quirks.transfer_limit)
        host.resends, host.poll_s = quirks.status_resends, quirks.poll_s
        host.status_before_chunk = quirks.status_before_chunk
        host.canceled = lambda sts: quirks.shows_cancel(sts & ~Sts.SELF_TEST_DONE)
        footing.static, footing.poll_s = quirks.burst_static, quirks.poll_s
        footing.status_before_chunk = quirks.status_before_chunk
        if not quirks.header_bit_valid or quirks.gap_s:
            # No batch can be read without the ready bit, and none be sent without its gaps.
            self.most = self.plan = Plan.SLOW

    # -- localities

    def request_locality(self, number: int) -> SpiFlow[None]:
        """Own locality `number`, releasing another one we own; A.

        Raises:
            Timeout: it was not granted; the request is withdrawn.
        """
        if self.host.locality not in (None, number):
            yield from self.release_locality()
        self._footing.standing = Standing.UNKNOWN
        self._footing.irq = False
        if self.plan > Plan.SLOW and self.host.locality is None:
            yield from self._wake()
            if (yield from self._ask(number)):
                return
        yield from self._slowly(self.host.request_locality(number))
        self._footing.locality = number

    def _ask(self, number: int) -> SpiFlow[bool]:
        """Request a locality and become ready in one round trip; whether that worked at once."""
        check_locality(number)
        self._footing.locality = number
        steps = self._footing.steps()
        steps.put(ACCESS, Access.REQUEST)
        check = steps.get(ACCESS)
        steps.put(STS, Sts.COMMAND_READY)
        status = steps.get()
        results = yield from self._batch(steps)
        if not results.whole:
            self._step_down(waits=True)
            return False
        access = results.value(check)
        wanted = Access.VALID | Access.ACTIVE
        if access == 0xFF or access & (wanted | Access.BEEN_SEIZED) != wanted:
            return False
        self.host.adopt_locality(number)
        self._note_ready(results.value(status))
        return True

    def seize(self, number: int) -> SpiFlow[None]:
        """Take the TPM for `number` from a lower locality, aborting its command; A and B.

        Raises:
            Timeout: it was not granted, because the owner's locality is not lower.
        """
        self._footing.standing = Standing.UNKNOWN
        self._footing.irq = False
        yield from self._slowly(self.host.seize(number))
        self._footing.locality = number

    def release_locality(self) -> SpiFlow[None]:
        """Drop what is left of the last command and give the locality back; A.

        Raises:
            Timeout: the chip does not let it go.
        """
        number = self.host.locality
        if number is None:
            return
        self._footing.standing = Standing.UNKNOWN
        yield from self._wake()
        if self.plan > Plan.SLOW:
            steps = self._footing.steps()
            steps.put(STS, Sts.COMMAND_READY)
            steps.put(ACCESS, Access.ACTIVE)
            check = steps.get(ACCESS)
            results = yield from self._batch(steps)
            access = results.value(check) if results.whole else 0
            if access & Access.VALID and not access & Access.ACTIVE:
                self.host.adopt_locality(None)
                return
        yield from self._slowly(self.host.release_locality())

    # -- commands

    def transmit(
        self, command: bytes, duration_s: float, cancelled: Callable[[], bool] = lambda: False
    ) -> SpiFlow[bytes]:
        """Execute one command and return its response, both whole TPM frames.

        `duration_s` is how long the chip may execute; `cancelled` is asked while it does. Takes at
        most `transmit_limit_s(duration_s)`. The command is executed once, or not at all.

        Raises:
            UsageError: `command` is no TPM frame, or we own no locality.
            Cancelled: `cancelled` said so (TPM 2.0 answers a cancelled command instead).
            Timeout: the chip did not do its part in time.
            ProtocolError: it broke the protocol, or a higher locality took the TPM; where the
                message says that it may have been executed, nobody knows.
            BusError: the registers read all ones, or the adapter failed.
        """
        check_command(command)
        yield from self._wake()
        try:
            response = yield from self._execute(command, duration_s, cancelled)
        except BaseException:
            self._footing.standing = Standing.UNKNOWN
            raise
        with suppress(HwtpmError):
            # The response is complete; a link that fails now fails the next command.
            yield from self._prepare()
        return response

    def abort(self) -> SpiFlow[None]:
        """Drop whatever command is in the chip and make it ready; B.

        Raises:
            Timeout: the chip does not become ready.
        """
        self._footing.standing = Standing.UNKNOWN
        yield from self._slowly(self.host.abort())

    def _execute(
        self, command: bytes, duration_s: float, cancelled: Callable[[], bool]
    ) -> SpiFlow[bytes]:
        if not (yield from self._settled()):
            return (yield from self._slow(command, duration_s, cancelled))
        learnt = self._memory.about(command)
        exchange = Exchange(self._footing, learnt, command, duration_s, cancelled)
        try:
            if self._may_be_fast(learnt):
                response = yield from exchange.fast()
            else:
                response = yield from exchange.strict()
        except Surprise as seen:
            surprise = seen
        except Timeout as late:
            # Only PIRQ# times out in a batch, and it takes the batch's results with it.
            self._irqs_missed += 1
            self._footing.irq = False
            surprise = Surprise(late.message, harmless=True)
        except GeneratorExit:
            raise
        except BaseException:
            with suppress(HwtpmError):
                yield from self.abort()
            raise
        else:
            self._proofs += 1
            self._responsive = True
            return response
        return (yield from self._rescue(exchange, surprise, command, duration_s, cancelled))

    def _rescue(
        self,
        exchange: Exchange,
        surprise: Surprise,
        command: bytes,
        duration_s: float,
        cancelled: Callable[[], bool],
    ) -> SpiFlow[bytes]:
        """Carry on slowly, from as far as the exchange certainly got."""
        if not surprise.harmless:
            self._step_down(waits=exchange.waits)
        if not exchange.go:
            yield from self.abort()
            return (yield from self._slow(command, duration_s, cancelled))
        if not exchange.accepted:
            sts = yield from self._conviction()
            wants_more = sts & Sts.VALID and sts & Sts.EXPECT and not sts & Sts.DATA_AVAIL
            if wants_more or (is_ready(sts) and not exchange.clean):
                yield from self.abort()
                return (yield from self._slow(command, duration_s, cancelled))
            if not exchange.clean:
                with suppress(HwtpmError):
                    yield from self.abort()
                raise ProtocolError(
                    f"{self.host.device}: {surprise}; the command may have been executed or not",
                    hint="look at what it should have done before sending it again",
                )
        # A chip that executes, or has, ignores another tpmGo.
        flow = self.host.collect(
            duration_s,
            cancelled,
            go=not exchange.accepted,
            # Not without need: where the command never arrived, the last response would come again.
            again=exchange.read,
            since_s=exchange.go_s,
        )
        response = yield from self._slowly(flow)
        self._responsive = True
        return response

    def _conviction(self) -> SpiFlow[int]:
        """What STS shows several times in a row; what it shows at last if it never settles; C."""
        flags = Sts.VALID | Sts.COMMAND_READY | Sts.EXPECT | Sts.DATA_AVAIL
        deadline_s = (yield from clock()) + self.host.timeouts.c_s
        last, equal = -1, 0
        while True:
            sts = yield from self._slowly(self.host.status())
            equal = equal + 1 if sts & flags == last else 1
            last = sts & flags
            decided = equal >= _CONVICTIONS and last & (Sts.VALID | Sts.COMMAND_READY)
            if decided or (yield from clock()) >= deadline_s:
                return sts
            yield Wait(_CONVICTION_GAP_S)

    def _slow(
        self, command: bytes, duration_s: float, cancelled: Callable[[], bool]
    ) -> SpiFlow[bytes]:
        self._footing.standing = Standing.UNKNOWN
        flow = self.host.transmit(command, duration_s, cancelled)
        response = yield from self._slowly(flow)
        self._responsive = True
        return response

    # -- between commands

    def _settled(self) -> SpiFlow[bool]:
        """Whether the next command can be written in a batch; makes the chip ready if it must."""
        footing = self._footing
        if self.plan is Plan.SLOW or self.host.locality is None:
            return False
        if self.quirks.status_resends and not self._responsive:
            # The status may be stuck: tpmGo must wait until it is seen not to be.
            return False
        if footing.standing is Standing.READY or (
            footing.standing is Standing.ANSWERED and footing.nudges is not None
        ):
            return True
        standing, footing.standing = footing.standing, Standing.UNKNOWN
        # From COMPLETION it takes two writes on some chips and one on others.
        for nudges in (1, 2):
            steps = footing.steps()
            steps.put(STS, Sts.COMMAND_READY)
            number = steps.get()
            results = yield from self._batch(steps)
            if not results.whole:
                self._step_down(waits=True)
                return False
            self._note_ready(results.value(number))
            if footing.standing is Standing.READY:
                if standing is Standing.ANSWERED:
                    footing.nudges = nudges
                return True
        self._step_down()
        return False

    def _note_ready(self, sts: int) -> None:
        burst = Sts.BURST_COUNT.of(sts)
        if sts != ABSENT and is_ready(sts) and burst:
            self._footing.burst = burst
            self._footing.standing = Standing.READY

    def _prepare(self) -> SpiFlow[None]:
        """See how the chip gets ready again, and whether it can do better."""
        footing = self._footing
        if footing.standing is Standing.ANSWERED and footing.nudges is None:
            yield from self._settled()
        wants_irq = self._wants_irq() and not footing.irq
        promising = self.plan is Plan.STRICT and self._proofs >= _PROOFS and self.most is Plan.FAST
        if promising or (self.plan is Plan.FAST and wants_irq):
            yield from self._try_fast(wants_irq)

    def _try_fast(self, wants_irq: bool) -> SpiFlow[None]:
        """Read the FIFO of a chip that has nothing to say; enables PIRQ# on the way."""
        footing = self._footing
        if footing.standing is Standing.UNKNOWN:
            return
        footing.standing = Standing.UNKNOWN
        steps = footing.steps()
        for _ in range(footing.nudges or 1):
            steps.put(STS, Sts.COMMAND_READY)
        before = steps.get()
        steps.fetch(1)
        after = steps.get()
        if wants_irq:
            steps.put(INT_VECTOR, 1)  # means nothing on SPI, but some chips want it
            steps.put(INT_ENABLE, _ENABLED, INT_ENABLE.size)
        results = yield from self._batch(steps)
        if not results.whole:
            self._step_down(waits=True)
            return
        sts = results.value(before)
        if is_ready(sts) and sts == results.value(after):
            self.plan = Plan.FAST
            footing.irq = wants_irq
            self._note_ready(sts)
        else:
            self._step_down()
            self.most = self.plan

    def _wants_irq(self) -> bool:
        able = IntfCapability.DATA_AVAIL | IntfCapability.LEVEL_LOW
        return (
            self._footing.limits.awaits_irq
            and self._capability & able == able
            and self._irqs_missed < _IRQS_MISSED
        )

    def _may_be_fast(self, learnt: Learnt) -> bool:
        return (
            self.plan is Plan.FAST
            and learnt.size > 0
            and learnt.foreseeable(BLIND_S, pausing=self._footing.limits.longest_pause_s > 0)
        )

    def _step_down(self, *, waits: bool = False) -> None:
        self._proofs = 0
        self._strikes += 1
        if waits or self._strikes >= _STRIKES:
            self.plan = Plan.SLOW
        elif self.plan is Plan.FAST:
            self.plan = Plan.STRICT
        self.most = min(self.most, self.plan)

    # -- bus

    def _batch(self, steps: Steps) -> SpiFlow[Results]:
        return Results((yield from run(steps.steps, self._footing.limits)), steps.transfers)

    def _slowly(self, flow: Flow[T]) -> SpiFlow[T]:
        return slowly(flow, self.quirks)

    def _wake(self) -> SpiFlow[None]:
        """A chip that sleeps hears the first transfer as a knock only."""
        if not self.quirks.sleeps_after_s:
            return
        now_s = yield from clock()
        if self._used_s is None or now_s - self._used_s >= self.quirks.sleeps_after_s / 2:
            with suppress(HwtpmError):
                yield Stretch(
                    read_transfer(ACCESS.offset, ACCESS.size),
                    self.quirks.max_waits,
                    self.quirks.header_bit_valid,
                )
            yield Wait(self.quirks.wake_wait_s)
        self._used_s = now_s
