"""What our engine and libtpms may answer differently, and what the specification has to say.

The fuzzer stops at every difference that is neither here nor among the damaged forms that the
conformance suite declares (`differences.FORMS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from differences import FORMS, LACKING
from fuzz_sides import Plan

from hwtpm.tpm12.rc import Rc

__all__ = ["COMPARABLE", "KNOWN", "OPAQUE", "VENDOR_TEXT", "Known", "explanation"]


def _always(plan: Plan) -> bool:
    return True


def _damaged(plan: Plan) -> bool:
    return plan.damage is not None


@dataclass(frozen=True)
class Known:
    """Return codes of ours and libtpms' for some commands ("*": any), and why.

    `when` looks at the command: a row is for what it says and for nothing else.
    """

    commands: str
    ours: Iterable[int]
    theirs: Iterable[int]
    why: str
    when: Callable[[Plan], bool] = _always

    def explains(self, plan: Plan, ours: int, theirs: int) -> bool:
        return (
            ours in self.ours
            and theirs in self.theirs
            and (self.commands == "*" or plan.row.name in self.commands.split())
            and self.when(plan)
        )


MALFORMED: Final = frozenset(
    {
        Rc.AUTHFAIL,  # a session's HMAC does not cover the damage
        Rc.AUTH2FAIL,
        Rc.BAD_PARAMETER,
        Rc.INVALID_KEYHANDLE,
        Rc.INVALID_AUTHHANDLE,
        Rc.SIZE,
        Rc.BAD_PARAM_SIZE,
        Rc.BADTAG,
        Rc.BAD_MODE,
        Rc.BAD_KEY_PROPERTY,
        Rc.INVALID_STRUCTURE,
    }
)

KNOWN: Final[tuple[Known, ...]] = (
    Known(
        "*",
        MALFORMED,
        MALFORMED,
        "two faults in one damaged frame, refused by both: Part 3 gives the checks before a"
        " command's actions no order",
        _damaged,
    ),
    Known(
        " ".join(sorted(LACKING)),
        frozenset(Rc),
        {Rc.BAD_ORDINAL},
        "optional commands that libtpms is built without",
    ),
)

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


COMPARABLE: Final[dict[tuple[str, str], Callable[[Plan, Any], Any]]] = {}
"""What is left to compare of a field that is partly random or the maker's own."""

VENDOR_TEXT: Final = frozenset({"TPM_GetTestResult"})
"""Commands whose answer is the maker's own text, of any size (Part 3 section 4.3)."""


def explanation(plan: Plan, ours: int, theirs: int) -> str | None:
    """Why the two codes differ, None if nobody knows."""
    for command in (plan.row.name, "*"):
        if (form := FORMS.get((command, ours, theirs))) is not None:
            return form
    for known in KNOWN:
        if known.explains(plan, ours, theirs):
            return known.why
    return None
