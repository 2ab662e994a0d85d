"""One command over SPI in as few round trips as the bus allows: what is sent blind, what proves it.

An `Exchange` runs once. It ends with the response, or with a `Surprise` when the chip does
something else than planned; then the exchange's attributes say how far it certainly got, so that
somebody more careful can carry on. It never returns bytes that the chip has not vouched for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from hwtpm.tis.evidence import ABSENT, HEADER_SIZE, SIZE_FIELD_END, answered
from hwtpm.tis.flow import Now, Wait
from hwtpm.tis.registers import INT_STATUS, STS, Interrupt, Sts
from hwtpm.tis_spi.bus import BusLimits
from hwtpm.tis_spi.flow import SpiFlow, run
from hwtpm.tis_spi.learnt import Learnt
from hwtpm.tis_spi.steps import Results, Steps, is_ready

__all__ = ["BLIND_S", "Exchange", "Footing", "Standing", "Surprise", "clock"]

BLIND_S: Final = 0.020
"""A batch does not last longer: nobody can cancel a command while it runs."""

_SLICE_S: Final = 0.005
_STRICT_POLLS: Final = 4
_FAST_TRANSFERS: Final = 9
_FAST_POLLS: Final = 3
_FIRST_PAUSE_S: Final = 0.0005
_SLOWEST_PAUSE_S: Final = 0.005
_IRQ_SLACK_S: Final = 0.005


class Surprise(Exception):
    """The chip did something else than planned; with `harmless` it did nothing wrong."""

    def __init__(self, what: str, *, harmless: bool = False) -> None:
        super().__init__(what)
        self.harmless = harmless


class Standing(Enum):
    """What is known of the command state between two commands."""

    UNKNOWN = auto()
    READY = auto()  # seen: a command can be written
    ANSWERED = auto()  # the response has been read, commandReady is owed


@dataclass(slots=True)
class Footing:
    """What the planner knows about chip and bus when it builds a batch.

    `chunk` is the largest FIFO transfer, `burst` what STS announced when the chip was ready,
    `nudges` how many commandReady lead at once from a response to ready; None if not yet seen.
    """

    limits: BusLimits
    locality: int = 0
    chunk: int = 64
    burst: int = 0
    static: bool = False
    status_before_chunk: bool = True
    poll_s: float = 0.0
    max_response: int = 4096
    nudges: int | None = None
    standing: Standing = Standing.UNKNOWN
    irq: bool = False

    def steps(self) -> Steps:
        """An empty batch."""
        return Steps(self.locality, self.chunk)


def clock() -> SpiFlow[float]:
    """Ask for the time in seconds."""
    time_s = yield Now()
    assert isinstance(time_s, float)
    return time_s


class Exchange:
    """One command and its response.

    Attributes:
        go: tpmGo may have reached the chip.
        clean: what reached the FIFO is the command, byte for byte, or nothing.
        accepted: the chip executes the command, or has; certain.
        read: response bytes may have been taken out of the FIFO and must come again.
        waits: the chip inserted a wait state.
        go_s: when tpmGo was written.
    """

    def __init__(
        self,
        footing: Footing,
        learnt: Learnt,
        command: bytes,
        duration_s: float,
        cancelled: Callable[[], bool],
    ) -> None:
        self.go = self.accepted = self.read = self.waits = False
        self.clean = True
        self.go_s = 0.0
        self._footing = footing
        self._learnt = learnt
        self._command = command
        self._duration_s = duration_s
        self._cancelled = cancelled
        self._ready = footing.standing is Standing.READY
        footing.standing = Standing.UNKNOWN

    # -- the two plans

    def strict(self) -> SpiFlow[bytes]:
        """Command, tpmGo and a few polls in one round trip, the response in the next.

        The FIFO is read only when an answer has been seen, and never beyond the burst count.
        """
        footing = self._footing
        steps, rest = footing.steps(), self._command
        head = self._head(steps)
        credit = footing.burst
        while True:
            piece = rest if footing.static else rest[:credit]
            rest = rest[len(piece) :]
            steps.send(piece)
            check = steps.get()
            if not rest:
                break
            results = yield from self._run(steps)
            self._judge_head(results, head, len(piece))
            self._all_made(results)
            sts = self._sound(results.value(check))
            credit = Sts.BURST_COUNT.of(sts)
            if not (sts & Sts.VALID and sts & Sts.EXPECT and credit):
                raise Surprise(f"no room for the rest of the command (STS {sts:#010x})")
            steps, head = footing.steps(), None
        go = steps.put(STS, Sts.GO)
        long = (self._learnt.delay_s or 0.0) > BLIND_S
        wanted = _STRICT_POLLS + 1 - (footing.nudges or 1)
        polls = self._poll(steps, 1 if long else wanted, paused=not long)
        results = yield from self._start(steps, go)
        self.clean = results.void >= check
        self._judge_head(results, head, len(piece))
        if results.void > check:
            sts = self._sound(results.value(check))
            self.accepted = bool(sts & Sts.VALID) and not sts & Sts.EXPECT and results.void > go
            if sts & Sts.VALID and sts & Sts.EXPECT:
                raise Surprise(f"wants more than the command (STS {sts:#010x})")
        self._all_made(results)
        found = self._judge(results, polls)
        if found is None:
            found = yield from self._await(len(polls))
        return (yield from self._fetch(found, self._learnt.size or HEADER_SIZE))

    def fast(self) -> SpiFlow[bytes]:
        """Everything in one round trip: the response is read as long as the last one was, unseen.

        Only for a chip to which reading the FIFO early does no harm. The last poll before the read
        decides whether what was read is the response.
        """
        footing = self._footing
        steps = footing.steps()
        head = self._head(steps)
        pieces = self._pieces(len(self._command))
        bursts: list[tuple[int, int]] = []
        at = 0
        for size in pieces:
            if at:
                bursts.append((steps.get(), size))
            steps.send(self._command[at : at + size])
            at += size
        written = steps.transfers
        if footing.irq:
            steps.put(INT_STATUS, Interrupt.DATA_AVAIL)
        go = steps.put(STS, Sts.GO)
        polls = self._fast_polls(steps)
        reads = self._plan_read(steps, polls[-1][0])
        final = steps.get()
        results = yield from self._start(steps, go)
        self.read = results.made > reads[0][1][0]
        self.clean = results.void >= written
        self._judge_head(results, head, pieces[0])
        for number, size in bursts:
            if results.void > number and Sts.BURST_COUNT.of(results.value(number)) < size:
                self.clean = False
        if self.clean and results.void > go:
            seen = [results.value(number) for number, _ in polls if number < results.void]
            self.accepted = any(sts != ABSENT and _runs(sts) for sts in seen)
        self._all_made(results)
        if not self.clean:
            raise Surprise("the burst count shrank within a command")
        sts = self._judge(results, polls)
        if sts is None:
            sts = yield from self._await(len(polls))
            return (yield from self._fetch(sts, self._learnt.size))
        data = self._gathered(results, reads, b"")
        return (yield from self._fetch(self._sound(results.value(final)), len(data), data))

    # -- pieces of both

    def _head(self, steps: Steps) -> int | None:
        """The owed commandReady, and the STS that shows the chip ready; None if it was seen."""
        if self._ready:
            return None
        for _ in range(self._footing.nudges or 1):
            steps.put(STS, Sts.COMMAND_READY)
        return steps.get()

    def _judge_head(self, results: Results, head: int | None, first: int) -> None:
        if head is None or results.void <= head:
            return
        sts = results.value(head)
        burst = Sts.BURST_COUNT.of(sts)
        if not is_ready(sts) or not burst or (burst < first and not self._footing.static):
            self.clean = False
            raise Surprise(f"not ready for the command (STS {sts:#010x})")
        self._footing.burst = burst

    def _pieces(self, size: int, *, reading: bool = False) -> list[int]:
        """How many bytes may go through the FIFO before STS is read again, up to `size`."""
        footing = self._footing
        most = size if footing.static else footing.burst
        if reading and footing.status_before_chunk:
            most = min(most, footing.chunk)
        return [min(most, size - at) for at in range(0, size, most)]

    def _plan_read(self, steps: Steps, deciding: int) -> list[tuple[int | None, list[int], int]]:
        """(number of the STS before, numbers of the FIFO reads, their bytes) of each burst."""
        reads: list[tuple[int | None, list[int], int]] = []
        number = deciding
        for size in self._pieces(self._learnt.size, reading=True):
            if reads:
                number = steps.get()
            reads.append((number, steps.fetch(size), size))
        return reads

    def _fast_polls(self, steps: Steps) -> list[tuple[int, float]]:
        if self._footing.irq:
            timeout_s = BLIND_S + _IRQ_SLACK_S
            steps.await_irq(min(timeout_s, max(self._duration_s, _IRQ_SLACK_S)))
            return [(steps.get(), 0.0)]
        pieces = self._pieces(self._learnt.size, reading=True)
        bursts, reads = len(pieces), self._transfers(pieces)
        writes = self._transfers(self._pieces(len(self._command)))
        room = _FAST_TRANSFERS + (writes - 1) + (reads - 1)
        # After the polls come the reads, an STS before each further burst, and a final one.
        room -= steps.transfers + reads + bursts
        return self._poll(steps, min(max(room, 1), _FAST_POLLS))

    def _transfers(self, pieces: list[int]) -> int:
        return sum(-(-piece // self._footing.chunk) for piece in pieces)

    def _poll(self, steps: Steps, wanted: int, *, paused: bool = True) -> list[tuple[int, float]]:
        """(number, time since tpmGo) of STS reads; as many as the learnt busy ones, and more."""
        footing = self._footing
        longest_s = min(footing.limits.longest_pause_s, BLIND_S)
        count = self._learnt.polls(wanted)
        if not longest_s and footing.poll_s:
            count = 1
        pauses = self._learnt.pauses_s(count, footing.poll_s, longest_s if paused else 0.0)
        polls, at_s = [], 0.0
        for pause_s in pauses:
            steps.pause(pause_s)
            at_s += pause_s
            polls.append((steps.get(), at_s))
        return polls

    def _start(self, steps: Steps, go: int) -> SpiFlow[Results]:
        """Do the batch with tpmGo."""
        self.go = True  # unless the results say that it did not come so far
        self.go_s = yield from clock()
        results = yield from self._run(steps)
        self.go = results.made > go
        self.go_s = (yield from clock()) - steps.paused_s
        return results

    def _run(self, steps: Steps) -> SpiFlow[Results]:
        captured = yield from run(steps.steps, self._footing.limits)
        return Results(captured, steps.transfers)

    def _all_made(self, results: Results) -> None:
        if not results.whole:
            self.waits = True
            raise Surprise(f"a wait state in transfer {results.void} of {results.transfers}")

    def _sound(self, sts: int) -> int:
        if sts == ABSENT:
            raise Surprise("STS reads all ones")
        return sts

    def _judge(self, results: Results, polls: list[tuple[int, float]]) -> int | None:
        """What the last poll shows, if it shows the answer; teaches when the answer came."""
        found = self._answer(results, polls)
        if found is None:
            return None
        if not self._footing.irq:
            last = 0 < found == len(polls) - 1
            self._learnt.hit(polls[found][1], found, last=last)
        return results.value(polls[-1][0])

    def _answer(self, results: Results, polls: list[tuple[int, float]]) -> int | None:
        """The first poll that shows the answer, if the last one shows it, too."""
        seen = [self._sound(results.value(number)) for number, _ in polls]
        for sts in seen:
            if is_ready(sts) or (sts & Sts.VALID and sts & Sts.EXPECT):
                raise Surprise(f"does not execute the command (STS {sts:#010x})")
        if not answered(seen[-1]):
            return None
        self.accepted = True
        return [answered(sts) for sts in seen].index(True)

    def _await(self, busy: int) -> SpiFlow[int]:
        """Poll until the answer is there; what was read too early is asked for again."""
        footing, start_s = self._footing, self.go_s
        pause_s = max(_FIRST_PAUSE_S, footing.poll_s)
        # An Expect that was late to clear has swallowed tpmGo; a chip that executes ignores it.
        go_again = not self.accepted
        while True:
            elapsed_s = (yield from clock()) - start_s
            if self._cancelled() or elapsed_s >= self._duration_s:
                raise Surprise("no answer yet", harmless=True)
            left_s = (self._learnt.delay_s or 0.0) - elapsed_s
            if left_s > BLIND_S:
                yield Wait(min(_SLICE_S, left_s))
                continue
            pausing = footing.limits.longest_pause_s > 0
            if not pausing:
                yield Wait(pause_s)
            steps = footing.steps()
            if go_again:
                check = steps.get()
                steps.put(STS, Sts.GO)
            if self.read:
                steps.put(STS, Sts.RETRY)
            polls = []
            for _ in range(_STRICT_POLLS if pausing else 1):
                if pausing:
                    steps.pause(min(pause_s, footing.limits.longest_pause_s))
                polls.append((steps.get(), 0.0))
            results = yield from self._run(steps)
            self._all_made(results)
            if go_again:
                sts = self._sound(results.value(check))
                self.accepted = _runs(sts)
                go_again = not self.accepted
            self.read = False
            busy += len(polls)
            found = self._answer(results, polls)
            if found is not None:
                after_s = (yield from clock()) - start_s
                self._learnt.missed(after_s, busy - len(polls) + found)
                return results.value(polls[-1][0])
            pause_s = min(2 * pause_s, max(_SLOWEST_PAUSE_S, footing.poll_s))

    def _fetch(self, sts: int, size: int, data: bytes = b"") -> SpiFlow[bytes]:
        """The response, of which `data` have been read and `size` bytes are expected.

        `sts` was read after `data`, and allows to read on.
        """
        footing = self._footing
        self.read = True
        while True:
            if len(data) >= SIZE_FIELD_END:
                size = self._size(data)
                if len(data) >= size:
                    return self._finished(data[:size], sts)
            burst = Sts.BURST_COUNT.of(sts)
            if not answered(sts) or not burst:
                raise Surprise(f"no burst count within the response (STS {sts:#010x})")
            want = size - len(data)
            if not footing.static:
                want = min(want, burst)
            steps = footing.steps()
            reads: list[tuple[int | None, list[int], int]] = []
            chunk = footing.chunk if footing.status_before_chunk else want
            for at in range(0, want, chunk):
                number = steps.get() if at else None
                step = min(chunk, want - at)
                reads.append((number, steps.fetch(step), step))
            final = steps.get()
            results = yield from self._run(steps)
            self._all_made(results)
            data = self._gathered(results, reads, data)
            sts = self._sound(results.value(final))

    def _gathered(
        self, results: Results, reads: Sequence[tuple[int | None, list[int], int]], data: bytes
    ) -> bytes:
        """`data` and what was read after it, if no read went beyond the burst count before it."""
        at = len(data)
        data += results.data([number for _, numbers, _ in reads for number in numbers])
        end = self._size(data) if len(data) >= SIZE_FIELD_END else len(data)
        for number, _, wanted in reads:
            if number is not None and not self._footing.static:
                credit = Sts.BURST_COUNT.of(results.value(number))
                if min(wanted, end - at) > credit:
                    raise Surprise(f"the burst count shrank to {credit} within a response")
            at += wanted
        return data

    def _size(self, data: bytes) -> int:
        size = int.from_bytes(data[2:SIZE_FIELD_END], "big")
        if len(data) < SIZE_FIELD_END or not HEADER_SIZE <= size <= self._footing.max_response:
            raise Surprise(f"response starts {data[:HEADER_SIZE].hex(' ')}")
        return size

    def _finished(self, response: bytes, sts: int) -> bytes:
        if not sts & Sts.VALID or sts & Sts.DATA_AVAIL:
            raise Surprise(f"after {len(response)} response bytes STS is {sts:#010x}")
        if response[-1] == 0xFF:
            # That is what a FIFO returns that ran dry, too: read it again with care.
            raise Surprise("the response may end early", harmless=True)
        if response[SIZE_FIELD_END:HEADER_SIZE] == bytes(4):
            self._learnt.size = len(response)
        self._footing.standing = Standing.ANSWERED
        return response


def _runs(sts: int) -> bool:
    """Whether the chip has a whole command: it executes, or has answered."""
    return bool(sts & Sts.VALID) and not sts & (Sts.EXPECT | Sts.COMMAND_READY)
