"""Flushing what a user of a TPM 2.0 leaves behind, as a resource manager does.

A chip has room for three objects and as many sessions; whoever ends without flushing takes it from
the next one.
"""

from __future__ import annotations

from typing import Final

from hwtpm.tpm12.frame import HEADER_SIZE, ordinal_of, return_code_of
from hwtpm.tpm20.commands import flush, open_handles
from hwtpm.tpm20.const import Code
from hwtpm.tpm20.frame import is_tpm2
from hwtpm.transport.base import Transport, Wrapper

__all__ = ["Tidy"]

_OPENING: Final = frozenset(
    {
        Code.CONTEXT_LOAD,
        Code.CREATE_LOADED,
        Code.CREATE_PRIMARY,
        Code.HASH_SEQUENCE_START,
        Code.HMAC_START,
        Code.LOAD,
        Code.LOAD_EXTERNAL,
        Code.START_AUTH_SESSION,
    }
)
_HANDLE_END: Final = HEADER_SIZE + 4


class Tidy(Wrapper):
    """Knows the handles that were opened through it; asks the TPM only if there are any."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner)
        self._opened: set[int] = set()

    def execute(self, command: bytes) -> bytes:
        """See `Transport.execute`."""
        response = self._inner.execute(command)
        if (
            is_tpm2(response)
            and ordinal_of(command) in _OPENING
            and len(response) >= _HANDLE_END
            and not return_code_of(response)
        ):
            self._opened.add(int.from_bytes(response[HEADER_SIZE:_HANDLE_END], "big"))
        return response

    def tidy(self) -> None:
        """Flush the transient objects and loaded sessions that were opened through this and are
        still there; saved sessions and contexts stay good.

        Raises: what `execute` raises; TpmError.
        """
        if self._opened:
            for handle in sorted(self._opened.intersection(open_handles(self._inner.execute))):
                flush(self._inner.execute, handle)
        self._opened.clear()
