"""Sending a command again where, and only where, the TPM says that this is the thing to do.

Source: TPM Main 1.2, Part 2 section 16.2 (non-fatal errors): the command had no effect, sessions
and nonces are as before, so that the very same bytes may be sent again. The same of a TPM 2.0 is
TPM_RC_RETRY, TPM_RC_YIELDED and TPM_RC_TESTING (Library Specification, Part 2, section 6.6).
"""

from __future__ import annotations

import logging
from typing import Final

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import Timeout
from hwtpm.tpm12.frame import build_request, return_code_of
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm20.frame import is_tpm2
from hwtpm.tpm20.rc import RESUBMIT
from hwtpm.transport.base import Transport, Wrapper
from hwtpm.transport.frames import command_name, result_name

__all__ = ["Retry"]

_log: Final = logging.getLogger(__name__)
_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.5
_WORTH_IT: Final = frozenset({Rc.RETRY, Rc.DOING_SELFTEST, Rc.NEEDS_SELFTEST})
_CONTINUE_SELF_TEST: Final = build_request(0x53, b"")


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
            tpm2 = is_tpm2(response)
            if rc not in (RESUBMIT if tpm2 else _WORTH_IT):
                return response
            name, result = command_name(command), result_name(response)
            if self._clock.now() + pause_s > deadline:
                raise Timeout(
                    f"{self.attached.address}: the TPM still answers {name} with"
                    f" {result} after {self._limit_s:g} s",
                    hint="power cycle the TPM, then look at `hwtpm selftest`",
                )
            _log.debug("%s: %s again after %s", self.attached.address, name, result)
            if rc == Rc.NEEDS_SELFTEST and not tpm2:
                # Its own answer does not matter: the repeated command's does.
                self._inner.execute(_CONTINUE_SELF_TEST)
            self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
