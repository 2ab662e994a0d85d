"""What makes a delegation valid: its row, its family, its permissions (Part 3 sections 18, 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtpm.softtpm.engine.keys import ReleaseCondition
from hwtpm.softtpm.engine.refusal import Refuse
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.state import Permanent
from hwtpm.tpm12.const import FamilyFlag
from hwtpm.tpm12.delegation import permits
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types.delegation import DelegatePublic, DelegateTableRow, FamilyTableEntry

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.call import Call

__all__ = ["check_family", "check_use", "delegate_row", "enabled_family", "family"]


def family(permanent: Permanent, family_id: int) -> FamilyTableEntry:
    """The family with that ID.

    Raises:
        Refuse: BADINDEX.
    """
    for entry in permanent.families:
        if entry.family_id == family_id:
            return entry
    raise Refuse(Rc.BADINDEX)


def enabled_family(permanent: Permanent, family_id: int) -> FamilyTableEntry:
    """The family with that ID.

    Raises:
        Refuse: BADINDEX; DISABLED_CMD.
    """
    entry = family(permanent, family_id)
    if not entry.flags & FamilyFlag.ENABLED:
        raise Refuse(Rc.DISABLED_CMD)
    return entry


def check_family(permanent: Permanent, pub: DelegatePublic) -> None:
    """Refuse a delegation whose family is disabled or has moved on.

    Raises:
        Refuse: BADINDEX; DISABLED_CMD; FAMILYCOUNT.
    """
    if enabled_family(permanent, pub.family_id).verification_count != pub.verification_count:
        raise Refuse(Rc.FAMILYCOUNT)


def delegate_row(permanent: Permanent, index: int) -> DelegateTableRow:
    """The row of the delegate table at that index.

    Raises:
        Refuse: BADINDEX if there is none.
    """
    for slot in permanent.delegations:
        if slot.index == index:
            return slot.row
    raise Refuse(Rc.BADINDEX)


def check_use(call: Call, pub: DelegatePublic, kind: int, failed: Rc) -> None:
    """Let a delegation authorise the command under way.

    Its family is checked again, as a session may come back from a saved context.

    Args:
        call: the command.
        pub: the delegation.
        kind: TPM_DEL_OWNER_BITS or TPM_DEL_KEY_BITS, whichever the command needs here.
        failed: what to answer when the command is not delegated.

    Raises:
        Refuse: `failed`; BADINDEX; DISABLED_CMD; FAMILYCOUNT; WRONGPCRVAL; BAD_LOCALITY.
    """
    if pub.permissions.delegate_type != kind or not permits(pub.permissions, call.row.name):
        raise Refuse(failed)
    check_family(call.tpm.permanent, pub)
    check_release(call, ReleaseCondition.of_short(pub.pcr_info))
