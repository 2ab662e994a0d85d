"""Commands in, responses out, over any port to TIS registers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from hwtpm.clock import Clock
from hwtpm.errors import HwtpmError, UsageError
from hwtpm.tis.flow import Port, drive
from hwtpm.tis.host import ChipInfo, TisHost

__all__ = ["ChipTransport", "Driver", "Operation", "Run", "TisTransport"]

T = TypeVar("T")

Operation: TypeAlias = Generator[Any, Any, T]
"""A driver's operation; its requests are a matter between the driver and whoever runs it."""


class Run(Protocol):
    """Does an operation on a link, to its end."""

    def __call__(self, operation: Operation[T], /) -> T:
        """The operation's result."""
        ...


_ORDINAL = slice(6, 10)


class Driver(Protocol):
    """A sans-IO driver of one chip, as `hwtpm.tis.TisHost` is one."""

    @property
    def locality(self) -> int | None:
        """The locality we own, as far as we know."""
        ...

    def probe(self) -> Operation[ChipInfo]:
        """Find out what the chip is."""
        ...

    def request_locality(self, number: int) -> Operation[None]:
        """Own locality `number`."""
        ...

    def release_locality(self) -> Operation[None]:
        """Give the locality back."""
        ...

    def transmit(
        self, command: bytes, duration_s: float, cancelled: Callable[[], bool]
    ) -> Operation[bytes]:
        """Execute one command and return its response."""
        ...


class ChipTransport:
    """One TPM; holds its locality from the first command until `close`.

    `duration_s` tells how long the command with an ordinal may take; `run` does a driver's
    operation on the link, and `let_go` closes that. One caller at a time; only `cancel` may be
    called from another thread, while `execute` runs.
    """

    def __init__(
        self,
        driver: Driver,
        run: Run,
        let_go: Callable[[], None],
        *,
        duration_s: Callable[[int], float],
        device: str,
        locality: int = 0,
    ) -> None:
        self._driver = driver
        self._do = run
        self._let_go = let_go
        self._duration_s = duration_s
        self._device = device
        self._wanted_locality = locality
        self._cancelled = False
        self._closed = False

    def probe(self) -> ChipInfo:
        """What the chip says it is; errors as the driver's `probe`."""
        return self._run(self._driver.probe())

    def execute(self, command: bytes) -> bytes:
        """The chip's response to one command; errors as the driver's `transmit`."""
        self._cancelled = False
        if self._driver.locality != self._wanted_locality:
            self._run(self._driver.request_locality(self._wanted_locality))
        duration_s = self._duration_s(int.from_bytes(command[_ORDINAL], "big"))
        return self._run(self._driver.transmit(command, duration_s, lambda: self._cancelled))

    def cancel(self) -> None:
        """Make the command that another thread executes end soon."""
        self._cancelled = True

    def set_locality(self, number: int) -> None:
        """Send the following commands from locality `number`."""
        self._run(self._driver.request_locality(number))
        self._wanted_locality = number

    def close(self) -> None:
        """Release the locality and the link; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(HwtpmError):
                self._do(self._driver.release_locality())
        finally:
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, operation: Operation[T]) -> T:
        if self._closed:
            raise UsageError(f"{self._device}: the transport is closed")
        return self._do(operation)


class TisTransport(ChipTransport):
    """One TPM behind a port to its registers; see `ChipTransport`."""

    def __init__(
        self,
        port: Port,
        clock: Clock,
        *,
        duration_s: Callable[[int], float],
        host: TisHost | None = None,
        locality: int = 0,
    ) -> None:
        self.host = host or TisHost()
        super().__init__(
            self.host,
            lambda operation: drive(operation, port, clock),
            port.close,
            duration_s=duration_s,
            device=self.host.device,
            locality=locality,
        )
