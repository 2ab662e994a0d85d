"""What makes a delegation valid: its row, its family, its permissions (Part 3 sections 18, 19)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from hwtpm.softtpm.engine.keys import LoadedKey, ReleaseCondition
from hwtpm.softtpm.engine.refusal import Refuse
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.state import ZERO_DIGEST, Permanent
from hwtpm.tpm12.aes import AES_BLOCK_SIZE, aes128_ctr
from hwtpm.tpm12.const import EVERY_LOCALITY, DelegateType, FamilyFlag
from hwtpm.tpm12.delegation import is_well_formed, permits
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types.delegation import (
    DelegateKeyBlob,
    DelegateOwnerBlob,
    DelegatePublic,
    DelegateSensitive,
    DelegateTableRow,
    FamilyTableEntry,
)
from hwtpm.wire import Fault, WireError

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.call import Call

__all__ = [
    "auth_of",
    "authenticated",
    "check_family",
    "check_integrity",
    "check_public",
    "check_use",
    "decode_blob",
    "delegate_row",
    "enabled_family",
    "family",
    "key_digest",
    "sealed",
]

_TYPE_OF: Final[dict[type, DelegateType]] = {
    DelegateOwnerBlob: DelegateType.OWNER,
    DelegateKeyBlob: DelegateType.KEY,
}
_HAS_WRONG_SIZE: Final = (Fault.SHORT, Fault.TRAILING, Fault.LIMIT)

B = TypeVar("B", DelegateOwnerBlob, DelegateKeyBlob)
AnyBlob = TypeVar("AnyBlob", bound=DelegateOwnerBlob | DelegateKeyBlob)


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


def check_public(pub: DelegatePublic) -> None:
    """Refuse a delegation that sets reserved bits (Part 2 sections 8.6, 20.2.1, 20.2.3) or selects
    PCRs that are not there.

    Raises:
        Refuse: BAD_PARAMETER for permissions; INVALID_STRUCTURE for localities; INVALID_PCR_INFO.
    """
    if not is_well_formed(pub.permissions):
        raise Refuse(Rc.BAD_PARAMETER)
    if not 0 < pub.pcr_info.locality_at_release <= EVERY_LOCALITY:
        raise Refuse(Rc.INVALID_STRUCTURE)
    ReleaseCondition.of_short(pub.pcr_info)


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


def key_digest(key: LoadedKey) -> bytes:
    """pubKeyDigest of a key's delegations: SHA-1 of the TPM_STORE_PUBKEY (Part 2 section 20.13)."""
    modulus = key.key.pub_key
    return hashlib.sha1(len(modulus).to_bytes(4, "big") + modulus).digest()


# --- blobs -------------------------------------------------------------------------------------


def decode_blob(kind: type[B], data: bytes) -> B:
    """The blob of that kind in `data`; who made it is for `check_integrity` to say.

    Raises:
        Refuse: BAD_PARAM_SIZE; INVALID_STRUCTURE; what `check_public` raises.
    """
    try:
        blob = kind.decode(data)
    except WireError as error:
        wrong_size = error.fault in _HAS_WRONG_SIZE
        raise Refuse(Rc.BAD_PARAM_SIZE if wrong_size else Rc.INVALID_STRUCTURE) from None
    if blob.pub.permissions.delegate_type != _TYPE_OF[kind]:
        raise Refuse(Rc.INVALID_STRUCTURE)
    check_public(blob.pub)
    return blob


def sealed(permanent: Permanent, random: Callable[[int], bytes], blob: B, auth: bytes) -> B:
    """The blob with that AuthData inside: encrypted under delegateKey by AES-128 in counter mode,
    the first counter value in its additionalArea, and authenticated."""
    counter = random(AES_BLOCK_SIZE)
    sensitive = aes128_ctr(permanent.delegate_key, counter, DelegateSensitive(auth).encode())
    return authenticated(
        permanent, replace(blob, additional_area=counter, sensitive_area=sensitive)
    )


def authenticated(permanent: Permanent, blob: AnyBlob) -> AnyBlob:
    """The blob with the integrityDigest that its other fields ask for."""
    message = replace(blob, integrity_digest=ZERO_DIGEST).encode()
    return replace(blob, integrity_digest=hmac.digest(permanent.tpm_proof, message, "sha1"))


def check_integrity(permanent: Permanent, blob: DelegateOwnerBlob | DelegateKeyBlob) -> None:
    """Refuse a blob that this TPM has not made under its present owner.

    Raises:
        Refuse: AUTHFAIL.
    """
    expected = authenticated(permanent, blob).integrity_digest
    if not hmac.compare_digest(expected, blob.integrity_digest):
        raise Refuse(Rc.AUTHFAIL)


def auth_of(permanent: Permanent, blob: DelegateOwnerBlob | DelegateKeyBlob, wrong: Rc) -> bytes:
    """The AuthData inside an authentic blob.

    Raises:
        Refuse: `wrong` if there is no TPM_DELEGATE_SENSITIVE inside.
    """
    counter = blob.additional_area
    if len(counter) != AES_BLOCK_SIZE:
        raise Refuse(wrong)
    plain = aes128_ctr(permanent.delegate_key, counter, blob.sensitive_area)
    try:
        return DelegateSensitive.decode(plain).auth_value
    except WireError:
        raise Refuse(wrong) from None
