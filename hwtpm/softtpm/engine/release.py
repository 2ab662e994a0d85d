"""PCR and locality conditions: when a key may be used or sealed data released."""

from __future__ import annotations

from hwtpm.softtpm.engine.call import Call, Refuse
from hwtpm.softtpm.engine.keys import ReleaseCondition
from hwtpm.tpm12.const import NUM_PCRS
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PcrComposite, PcrSelection

__all__ = ["check_release"]


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
    if condition.indices[-1] >= NUM_PCRS:
        raise Refuse(Rc.WRONGPCRVAL)
    pcrs = call.tpm.volatile.pcrs
    selection = PcrSelection.decode(condition.pcr_selection)
    composite = PcrComposite(selection, b"".join(pcrs[i] for i in condition.indices))
    if composite.digest() != condition.digest:
        raise Refuse(Rc.WRONGPCRVAL)
