"""Sending a command again where, and only where, the TPM says that this is the thing to do.

Source: TPM Main 1.2, Part 2 section 16.2 (non-fatal errors): the command had no effect, sessions
and nonces are as before, so that the very same bytes may be sent again.
"""

from __future__ import annotations

import logging
from typing import Final

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import Timeout
from hwtpm.tpm12.commands import TABLE
from hwtpm.tpm12.commands.testing import ContinueSelfTest
from hwtpm.tpm12.frame import build_request, ordinal_of, return_code_of
from hwtpm.tpm12.rc import Rc, describe
from hwtpm.transport.base import Transport, Wrapper

__all__ = ["Retry"]

_log: Final = logging.getLogger(__name__)
_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.5
_WORTH_IT: Final = frozenset({Rc.RETRY, Rc.DOING_SELFTEST, Rc.NEEDS_SELFTEST})
_SELF_TEST: Final = build_request(ContinueSelfTest.command.ordinal, b"")


class Retry(Wrapper):
    """Repeats a command while the TPM is busy or tests itself, for `limit_s` at most.

    A TPM that needs its self test is told to run it. A wrong authorisation is never repeated: it
    would run into the lockout.
    """

    def __init__(
        self, inner: Transport, *, limit_s: float = 60.0, clock: Clock | None = None
    ) -> None:
        super().__init__(inner)
        self._limit_s = limit_s
        self._clock = clock or RealClock()

    def execute(self, command: bytes) -> bytes:
        """See `Transport.execute`.

        Raises:
            Timeout: the TPM is still busy after `limit_s`.
        """
        deadline = self._clock.now() + self._limit_s
        pause_s = _FIRST_PAUSE_S
        while True:
            response = self._inner.execute(command)
            rc = return_code_of(response)
            if rc not in _WORTH_IT:
                return response
            name = TABLE.name_of(ordinal_of(command))
            if self._clock.now() + pause_s > deadline:
                raise Timeout(
                    f"{self.attached.address}: the TPM still answers {name} with"
                    f" {describe(rc)[0]} after {self._limit_s:g} s",
                    hint="power cycle the TPM, then look at `hwtpm selftest`",
                )
            _log.debug("%s: %s again after %s", self.attached.address, name, describe(rc)[0])
            if rc == Rc.NEEDS_SELFTEST:
                # Its own answer does not matter: the repeated command's does.
                self._inner.execute(_SELF_TEST)
            self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
