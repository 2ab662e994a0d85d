"""Traffic in the log: every command and response, named, timed, with secrets masked."""

from __future__ import annotations

import logging
from typing import Final

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import HwtpmError
from hwtpm.transport.base import Transport, Wrapper
from hwtpm.transport.frames import command_name, result_name

__all__ = ["LOGGER", "TRAFFIC", "Trace"]

TRAFFIC: Final = 5
"""Log level of bytes on the wire, below DEBUG."""

LOGGER: Final = "hwtpm.traffic"


class Trace(Wrapper):
    """Logs what passes at level TRAFFIC to the logger `hwtpm.traffic`."""

    def __init__(self, inner: Transport, *, clock: Clock | None = None) -> None:
        super().__init__(inner)
        self._clock = clock or RealClock()
        self._log = logging.getLogger(LOGGER)

    def execute(self, command: bytes) -> bytes:
        """See `Transport.execute`."""
        if not self._log.isEnabledFor(TRAFFIC):
            return self._inner.execute(command)
        # It needs the table of all commands, which takes its time to load.
        from hwtpm.transport.redact import command_text, response_text

        address = self.attached.address
        name = command_name(command)
        self._log.log(TRAFFIC, "%s > %s: %s", address, name, command_text(command))
        start_s = self._clock.now()
        try:
            response = self._inner.execute(command)
        except HwtpmError as error:
            self._log.log(TRAFFIC, "%s < %s: no answer (%s)", address, name, error.kind)
            raise
        spent_ms = 1000 * (self._clock.now() - start_s)
        self._log.log(
            TRAFFIC,
            "%s < %s %s in %.3f ms: %s",
            address,
            name,
            result_name(response),
            spent_ms,
            response_text(command, response),
        )
        return response
