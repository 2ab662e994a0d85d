"""How long a TPM 2.0 may take for a command.

The PC Client Platform TPM Profile, section on command durations, bounds the quick ones; makers of
keys have no bound there, so these are what drivers in use have learnt to give: up to 300 s.
"""

from __future__ import annotations

from typing import Final

from hwtpm.tpm20.const import Code

__all__ = ["DURATIONS_S", "KEYS_S", "MEDIUM_S", "SHORT_S", "UNBOUNDED_S", "duration_s"]

SHORT_S: Final = 0.75
MEDIUM_S: Final = 2.0
UNBOUNDED_S: Final = 120.0
KEYS_S: Final = 300.0

DURATIONS_S: Final[dict[int, float]] = {
    Code.STARTUP: SHORT_S,
    Code.SHUTDOWN: SHORT_S,
    Code.GET_CAPABILITY: SHORT_S,
    Code.PCR_EXTEND: SHORT_S,
    Code.PCR_READ: SHORT_S,
    Code.READ_CLOCK: SHORT_S,
    Code.FLUSH_CONTEXT: SHORT_S,
    Code.HASH_SEQUENCE_START: SHORT_S,
    Code.SEQUENCE_UPDATE: SHORT_S,
    Code.SEQUENCE_COMPLETE: SHORT_S,
    Code.GET_TEST_RESULT: SHORT_S,
    Code.GET_RANDOM: MEDIUM_S,
    Code.NV_READ: MEDIUM_S,
    Code.SELF_TEST: MEDIUM_S,
    Code.CREATE: KEYS_S,
    Code.CREATE_PRIMARY: KEYS_S,
    Code.CREATE_LOADED: KEYS_S,
    Code.VERIFY_SIGNATURE: KEYS_S,
}
"""Seconds by TPM_CC; what is not here gets `UNBOUNDED_S`."""

_FIRST: Final = min(Code)
_LAST: Final = 0x1FF
_VENDOR: Final = 0x20000000


def duration_s(code: int) -> float | None:
    """Seconds that a TPM 2.0 may take for a command; None where this is no TPM 2.0 command code.

    The codes of the two families do not overlap, so that an ordinal tells its family.
    """
    if _FIRST <= code <= _LAST or code & ~0xFFFF == _VENDOR:
        return DURATIONS_S.get(code, UNBOUNDED_S)
    return None
