"""What our engine and libtpms may answer differently, and what the specification has to say.

The fuzzer stops at every difference that is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["KNOWN", "OPAQUE", "VENDOR_TEXT", "Known", "explanation"]


@dataclass(frozen=True)
class Known:
    """Return codes of ours and libtpms' for a command ("*": any), and why."""

    command: str
    ours: int
    theirs: int
    why: str


KNOWN: Final[tuple[Known, ...]] = ()

OPAQUE: Final[frozenset[tuple[str, str]]] = frozenset(
    {
        ("TPM_OIAP", "auth_handle"),
        ("TPM_OIAP", "nonce_even"),
        ("TPM_OSAP", "auth_handle"),
        ("TPM_OSAP", "nonce_even"),
        ("TPM_OSAP", "nonce_even_osap"),
        ("TPM_DSAP", "auth_handle"),
        ("TPM_DSAP", "nonce_even"),
        ("TPM_DSAP", "nonce_even_dsap"),
        ("TPM_GetRandom", "random_bytes"),
        ("TPM_LoadKey2", "inkey_handle"),
        ("TPM_LoadKey", "inkey_handle"),
        ("TPM_Seal", "sealed_data"),
        ("TPM_Sealx", "sealed_data"),
        ("TPM_Unseal", "secret"),  # encrypted with the session's secret if it came from Sealx
        ("TPM_CreateWrapKey", "wrapped_key"),
        ("TPM_CMK_CreateKey", "wrapped_key"),
        ("TPM_MakeIdentity", "id_key"),
        ("TPM_MakeIdentity", "identity_binding"),
        ("TPM_CreateCounter", "count_id"),
        ("TPM_CreateCounter", "counter_value"),
        ("TPM_IncrementCounter", "count"),
        ("TPM_ReadCounter", "count"),
        ("TPM_GetTicks", "current_time"),
        ("TPM_SHA1Start", "max_num_bytes"),
    }
)
"""Fields that hold random values or those of a maker; only their size is compared."""


VENDOR_TEXT: Final = frozenset({"TPM_GetTestResult"})
"""Commands whose answer is the maker's own text, of any size (Part 3 section 4.3)."""


def explanation(command: str, ours: int, theirs: int) -> str | None:
    """Why the two codes differ, None if nobody knows."""
    for known in KNOWN:
        if known.command in (command, "*") and (known.ours, known.theirs) == (ours, theirs):
            return known.why
    return None
