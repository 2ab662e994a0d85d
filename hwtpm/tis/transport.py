"""Commands in, responses out, over any port to TIS registers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from hwtpm.clock import Clock
from hwtpm.errors import HwtpmError, UsageError
from hwtpm.tis.flow import Port, drive
from hwtpm.tis.host import ChipInfo, TisHost

__all__ = ["TisTransport"]

_ORDINAL = slice(6, 10)


class TisTransport:
    """One TPM behind a port; holds its locality from the first command until `close`.

    `duration_s` tells how long the command with an ordinal may take. One caller at a time; only
    `cancel` may be called from another thread, while `execute` runs.
    """

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
        self._port = port
        self._clock = clock
        self._duration_s = duration_s
        self._wanted_locality = locality
        self._cancelled = False
        self._closed = False

    def probe(self) -> ChipInfo:
        """What the chip says it is; errors as `TisHost.probe`."""
        return drive(self.host.probe(), self._usable_port(), self._clock)

    def execute(self, command: bytes) -> bytes:
        """The chip's response to one command; errors as `TisHost.transmit`."""
        port = self._usable_port()
        self._cancelled = False
        if self.host.locality != self._wanted_locality:
            drive(self.host.request_locality(self._wanted_locality), port, self._clock)
        duration_s = self._duration_s(int.from_bytes(command[_ORDINAL], "big"))
        flow = self.host.transmit(command, duration_s, lambda: self._cancelled)
        return drive(flow, port, self._clock)

    def cancel(self) -> None:
        """Make the command that another thread executes end soon."""
        self._cancelled = True

    def set_locality(self, number: int) -> None:
        """Send the following commands from locality `number`."""
        drive(self.host.request_locality(number), self._usable_port(), self._clock)
        self._wanted_locality = number

    def close(self) -> None:
        """Release the locality and the port; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(HwtpmError):
                drive(self.host.release_locality(), self._port, self._clock)
        finally:
            self._port.close()

    def __enter__(self) -> TisTransport:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _usable_port(self) -> Port:
        if self._closed:
            raise UsageError(f"{self.host.device}: the transport is closed")
        return self._port
