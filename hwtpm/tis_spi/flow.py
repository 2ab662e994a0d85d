"""The requests a sans-IO driver of an SPI bus makes, and the pump that answers them on a real one.

Beside those of `hwtpm.tis.flow` (waiting, time) there are two: a batch, and one transfer with as
many wait states as the chip likes. `slowly` makes a flow of register accesses into such transfers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias, TypeVar

from hwtpm.clock import Clock
from hwtpm.errors import BusError, Timeout
from hwtpm.tis.flow import Answer, Flow, Now, Read, Wait, Write, pump
from hwtpm.tis_spi.bus import BusLimits, Captured, SpiBus, Step, Transfer
from hwtpm.tis_spi.framing import Header
from hwtpm.tis_spi.quirks import Quirks

__all__ = [
    "Batch",
    "Request",
    "SpiFlow",
    "Stretch",
    "drive",
    "read_transfer",
    "run",
    "slowly",
    "write_transfer",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """Do steps in one round trip; answered with a list of what was captured."""

    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Do one transfer that may wait; answered with the bytes read.

    `trust_header` is False for a chip whose header says ready too early.
    """

    transfer: Transfer
    most_waits: int
    trust_header: bool = True


Request: TypeAlias = Batch | Stretch | Wait | Now
SpiAnswer: TypeAlias = list[Captured] | bytes | float | None
SpiFlow: TypeAlias = Generator[Request, SpiAnswer, T]


@cache
def _header(reading: bool, address: int, size: int) -> bytes:
    return Header.within(reading, address, size).encode()


@cache
def read_transfer(address: int, size: int) -> Transfer:
    """Read `size` bytes at an address of the TIS window."""
    return Transfer(_header(True, address, size), size=size)


def write_transfer(address: int, data: bytes) -> Transfer:
    """Write `data` to an address of the TIS window."""
    return Transfer(_header(False, address, len(data)), data)


def run(steps: Sequence[Step], limits: BusLimits) -> SpiFlow[list[Captured]]:
    """Steps in as few round trips as the bus has room for.

    A wait state ends it early, with fewer results than transfers: after one nothing can be trusted,
    so what has not been sent by then is not sent at all.

    Raises:
        BusError: the bus gave another number of results than there were transfers.
    """
    captured: list[Captured] = []
    piece: list[Step] = []
    transfers = bytes_in = 0
    for step in steps:
        if isinstance(step, Transfer):
            if transfers + 1 > limits.transfers or bytes_in + 1 + step.size > limits.bytes_in:
                captured += yield from _one(piece, transfers)
                if not all(answer.ready for answer in captured):
                    return captured
                piece, transfers, bytes_in = [], 0, 0
            transfers += 1
            bytes_in += 1 + step.size
        piece.append(step)
    captured += yield from _one(piece, transfers)
    return captured


def _one(steps: list[Step], transfers: int) -> SpiFlow[list[Captured]]:
    answer = yield Batch(steps)
    if not isinstance(answer, list) or len(answer) != transfers:
        raise BusError(f"a batch of {transfers} transfers gave {answer!r}")
    return answer


def slowly(flow: Flow[T], quirks: Quirks) -> SpiFlow[T]:
    """A flow of register accesses, one transfer each, with all the waits the chip may need."""
    try:
        request = next(flow)
        while True:
            try:
                answer = yield from _access(request, quirks)
            except GeneratorExit:
                flow.close()
                raise
            except BaseException as error:
                request = flow.throw(error)
            else:
                request = flow.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _access(request: Read | Write | Wait | Now, quirks: Quirks) -> SpiFlow[Answer]:
    match request:
        case Read(address, size):
            transfer = read_transfer(address, size)
        case Write(address, data):
            transfer = write_transfer(address, data)
        case Wait() | Now():
            time_s = yield request
            assert not isinstance(time_s, list)
            return time_s
    if quirks.gap_s:
        yield Wait(quirks.gap_s)
    try:
        answer = yield Stretch(transfer, quirks.max_waits, quirks.header_bit_valid)
    except Timeout as error:
        # To whoever waits for a register's content, a chip that never gets ready is a dead bus.
        raise BusError(error.message, hint=error.hint) from error
    if isinstance(request, Write):
        return None
    assert isinstance(answer, bytes)
    return answer


def drive(flow: SpiFlow[T], bus: SpiBus, clock: Clock) -> T:
    """Run a driver operation on a bus to its end.

    Errors of the bus are thrown into the flow, so that it can leave the chip in order.
    """
    return pump(flow, lambda request: _answer(request, bus, clock))


def _answer(request: Request, bus: SpiBus, clock: Clock) -> SpiAnswer:
    match request:
        case Batch(steps):
            return bus.run(steps)
        case Stretch(transfer, most_waits, trust_header):
            return bus.stretch(transfer, most_waits, trust_header=trust_header)
        case Wait(duration_s):
            clock.sleep(duration_s)
        case Now():
            return float(clock.now())
    return None
