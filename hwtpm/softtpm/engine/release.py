"""PCR and locality conditions: when a key may be used or sealed data released."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hwtpm.softtpm.engine.keys import ReleaseCondition, check_selection, parse_pcr_info
from hwtpm.softtpm.engine.refusal import Refuse
from hwtpm.softtpm.engine.state import ZERO_DIGEST, Stclear
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PcrComposite, PcrInfo, PcrSelection

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.call import Call

__all__ = ["check_release", "composite_of", "created_pcr_info"]


def composite_of(stclear: Stclear, selection: PcrSelection) -> PcrComposite:
    """The selected PCRs with their present values.

    Raises:
        Refuse: INVALID_PCR_INFO if the selection is empty or larger than this TPM's PCRs.
    """
    check_selection(selection)
    return PcrComposite(selection, b"".join(stclear.pcrs[i] for i in selection.indices))


def check_release(call: Call, condition: ReleaseCondition | None) -> None:
    """Let the command go on only in the state that the condition names.

    Raises:
        Refuse: WRONGPCRVAL; BAD_LOCALITY.
    """
    if condition is None:
        return
    if not condition.localities >> call.locality & 1:
        raise Refuse(Rc.BAD_LOCALITY)
    if not condition.indices:
        return
    selection = PcrSelection.decode(condition.pcr_selection)
    if composite_of(call.tpm.volatile, selection).digest() != condition.digest:
        raise Refuse(Rc.WRONGPCRVAL)


def created_pcr_info(call: Call, form: int, info: bytes) -> bytes:
    """The caller's pcrInfo for a new key or sealed blob of that form, with the digest and the
    locality at creation filled in; empty if there is none.

    Raises:
        Refuse: INVALID_PCR_INFO.
    """
    if not info:
        return b""
    parsed = parse_pcr_info(form, info)
    stclear = call.tpm.volatile
    if isinstance(parsed, PcrInfo):
        digest = _digest_at_creation(stclear, parsed.pcr_selection)
        return replace(parsed, digest_at_creation=digest).encode()
    return replace(
        parsed,
        locality_at_creation=1 << call.locality,
        digest_at_creation=_digest_at_creation(stclear, parsed.creation_pcr_selection),
    ).encode()


def _digest_at_creation(stclear: Stclear, selection: PcrSelection) -> bytes:
    """Zeros if no PCR is selected (Part 2 section 8.1 action 4.a)."""
    composite = composite_of(stclear, selection)
    return composite.digest() if composite.values else ZERO_DIGEST
