"""The requests a sans-IO TIS driver makes, and the pump that answers them on a real port."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from hwtpm.clock import Clock
from hwtpm.errors import BusError

__all__ = [
    "Answer",
    "Flow",
    "Now",
    "Port",
    "Read",
    "Request",
    "Wait",
    "Write",
    "drive",
    "now",
    "pump",
    "read",
    "wait",
    "write",
]

A = TypeVar("A")
Q = TypeVar("Q")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Read:
    """Read `size` bytes of the register at an address of the TIS window; answered with bytes."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Write:
    """Write bytes to the register at an address of the TIS window; answered with None."""

    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass; answered with None."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class Now:
    """Tell the time; answered with seconds on a monotonic clock."""


Request: TypeAlias = Read | Write | Wait | Now
Answer: TypeAlias = bytes | float | None
Flow: TypeAlias = Generator[Request, Answer, T]


class Port(Protocol):
    """A way to the registers of one TPM. Addresses are those of the TIS window, from 0.

    Errors of the link are raised as `hwtpm.errors.BusError`.
    """

    def read(self, address: int, size: int) -> bytes:
        """One register access or FIFO burst of `size` bytes."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """One register access or FIFO burst."""
        ...

    def close(self) -> None:
        """Let the link go."""
        ...


def read(address: int, size: int) -> Flow[bytes]:
    """Ask for a register's bytes; raises BusError if their number is not what was asked for."""
    data = yield Read(address, size)
    if not isinstance(data, bytes) or len(data) != size:
        raise BusError(f"reading {size} bytes at {address:#06x} gave {data!r}")
    return data


def write(address: int, data: bytes) -> Flow[None]:
    """Ask for a register write."""
    yield Write(address, data)


def wait(duration_s: float) -> Flow[None]:
    """Ask for time to pass."""
    yield Wait(duration_s)


def now() -> Flow[float]:
    """Ask for the time in seconds."""
    time_s = yield Now()
    assert isinstance(time_s, float)
    return time_s


def drive(flow: Flow[T], port: Port, clock: Clock) -> T:
    """Run a driver operation on a port to its end.

    Errors of the port are thrown into the flow, so that it can leave the chip in order.
    """
    return pump(flow, lambda request: _answer(request, port, clock))


def pump(flow: Generator[Q, A, T], answer: Callable[[Q], A]) -> T:
    """Answer a flow's requests until it ends; what `answer` raises is thrown into the flow."""
    try:
        request = next(flow)
        while True:
            try:
                reply = answer(request)
            except BaseException as error:
                request = flow.throw(error)
            else:
                request = flow.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _answer(request: Request, port: Port, clock: Clock) -> Answer:
    match request:
        case Read(address, size):
            return port.read(address, size)
        case Write(address, data):
            port.write(address, data)
        case Wait(duration_s):
            clock.sleep(duration_s)
        case Now():
            return float(clock.now())
    return None
