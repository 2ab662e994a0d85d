"""Delegation commands (Part 3 section 19)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.chapters.nv import count_write
from hwtpm.softtpm.engine.delegation import (
    auth_of,
    authenticated,
    check_family,
    check_integrity,
    check_public,
    decode_blob,
    delegate_row,
    family,
    key_digest,
    sealed,
)
from hwtpm.softtpm.engine.state import (
    MAX_DELEGATE_ROWS,
    MAX_FAMILIES,
    ZERO_DIGEST,
    DelegateSlot,
    Permanent,
)
from hwtpm.tpm12.commands.delegation import (
    CreateKeyDelegation,
    CreateKeyDelegationReply,
    CreateOwnerDelegation,
    CreateOwnerDelegationReply,
    DelegateManage,
    DelegateManageReply,
    DelegateReadTable,
    DelegateReadTableReply,
    LoadOwnerDelegation,
    UpdateVerification,
    UpdateVerificationReply,
    VerifyDelegation,
)
from hwtpm.tpm12.const import DelegateType, FamilyFlag, FamilyOperation, KeyHandleValue, Tag
from hwtpm.tpm12.delegation import is_subset
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types.delegation import (
    DelegateKeyBlob,
    DelegateOwnerBlob,
    DelegatePublic,
    DelegateSensitive,
    DelegateTableRow,
    FamilyTableEntry,
)
from hwtpm.wire import WireError

__all__: list[str] = []

_INDEX_SIZE: Final = 4  # TPM_DELEGATE_INDEX


def _plus_one(value: int) -> int:
    return (value + 1) & 0xFFFFFFFF


def _with_family(permanent: Permanent, entry: FamilyTableEntry) -> Permanent:
    families = tuple(
        entry if other.family_id == entry.family_id else other for other in permanent.families
    )
    return replace(permanent, families=families)


def _with_row(permanent: Permanent, index: int, row: DelegateTableRow) -> Permanent:
    others = (slot for slot in permanent.delegations if slot.index != index)
    slots = sorted((*others, DelegateSlot(index, row)), key=lambda slot: slot.index)
    return replace(permanent, delegations=tuple(slots))


def _invalidate_sessions(call: Call) -> None:
    """What 19.1 action 4, 19.3 action 6 and 19.4 actions 11 and 12.c have in common."""
    call.end_delegated_sessions()
    call.tpm.stclear = replace(call.tpm.volatile, owner_reference=KeyHandleValue.OWNER)


def _check_same_family(call: Call, family_id: int) -> None:
    """Refuse a delegation that meddles with another family than its own."""
    by = call.delegated[0]
    if by is not None and by.family_id != family_id:
        raise Refuse(Rc.DELEGATE_FAMILY)


# --- 19.1 TPM_Delegate_Manage ------------------------------------------------------------------


@serves(DelegateManage)
def delegate_manage(call: Call, request: DelegateManage) -> DelegateManageReply:
    """19.1."""
    tpm = call.tpm
    entry = None
    if request.op_code != FamilyOperation.CREATE:
        entry = family(tpm.permanent, request.family_id)
    if call.sessions:
        if not tpm.owned:
            raise Refuse(Rc.AUTHFAIL)
        call.authorise_owner()
        if entry is not None:
            _check_same_family(call, entry.family_id)
    else:
        if tpm.owned:
            raise Refuse(Rc.AUTHFAIL)
        if entry is not None and entry.flags & FamilyFlag.ADMIN_LOCK:
            raise Refuse(Rc.DELEGATE_LOCK)
        tpm.permanent = count_write(call)
    _invalidate_sessions(call)
    if entry is None:
        return _create_family(call, request.op_data)
    if request.op_code == FamilyOperation.INVALIDATE:
        families = tuple(other for other in tpm.permanent.families if other is not entry)
        tpm.permanent = replace(tpm.permanent, families=families)
    else:
        flag = _flag_of(request.op_code)
        flags = entry.flags | flag if _boolean(request.op_data) else entry.flags & ~flag
        tpm.permanent = _with_family(tpm.permanent, replace(entry, flags=flags))
    return DelegateManageReply(b"")


def _create_family(call: Call, label: bytes) -> DelegateManageReply:
    """Action 5."""
    permanent = call.tpm.permanent
    if len(permanent.families) >= MAX_FAMILIES:
        raise Refuse(Rc.RESOURCES)
    if len(label) != 1:
        raise Refuse(Rc.BAD_PARAM_SIZE)
    family_id = _plus_one(permanent.last_family_id)
    entry = FamilyTableEntry(label[0], family_id, 1, 0)
    call.tpm.permanent = replace(
        permanent, last_family_id=family_id, families=(*permanent.families, entry)
    )
    return DelegateManageReply(family_id.to_bytes(4, "big"))


def _flag_of(op_code: int) -> FamilyFlag:
    """The flag that actions 7 and 8 set; action 10."""
    if op_code == FamilyOperation.ADMIN:
        return FamilyFlag.ADMIN_LOCK
    if op_code == FamilyOperation.ENABLE:
        return FamilyFlag.ENABLED
    raise Refuse(Rc.BAD_PARAMETER)


def _boolean(data: bytes) -> bool:
    """Actions 7.a and 8.a."""
    if len(data) != 1:
        raise Refuse(Rc.BAD_PARAM_SIZE)
    if data[0] > 1:
        raise Refuse(Rc.BAD_PARAMETER)
    return bool(data[0])


# --- 19.2 TPM_Delegate_CreateKeyDelegation, 19.3 TPM_Delegate_CreateOwnerDelegation -------------


def _family_for_new(call: Call, pub: DelegatePublic, kind: DelegateType) -> FamilyTableEntry:
    """The family that a new delegation joins (actions 2 to 5 of 19.2 and 19.3)."""
    check_public(pub)
    entry = family(call.tpm.permanent, pub.family_id)
    by = call.delegated[0]
    if by is not None:
        _check_same_family(call, pub.family_id)
        if not is_subset(pub.permissions, by.permissions):
            raise Refuse(Rc.AUTHFAIL)
    if pub.permissions.delegate_type != kind:
        raise Refuse(Rc.BAD_PARAMETER)
    if call.sessions[0].entity is None:
        raise Refuse(Rc.INVALID_AUTHHANDLE)
    return entry


@serves(CreateKeyDelegation)
def create_key_delegation(call: Call, request: CreateKeyDelegation) -> CreateKeyDelegationReply:
    """19.2. The family may be disabled, the key may be bound to other PCRs."""
    tpm = call.tpm
    entry = _family_for_new(call, request.public_info, DelegateType.KEY)
    auth = call.new_auth(request.del_auth)
    pub = replace(request.public_info, verification_count=entry.verification_count)
    blob = DelegateKeyBlob(pub, ZERO_DIGEST, key_digest(call.keys[0]), b"", b"")
    return CreateKeyDelegationReply(sealed(tpm.permanent, tpm.random, blob, auth).encode())


@serves(CreateOwnerDelegation)
def create_owner_delegation(
    call: Call, request: CreateOwnerDelegation
) -> CreateOwnerDelegationReply:
    """19.3."""
    tpm = call.tpm
    entry = _family_for_new(call, request.public_info, DelegateType.OWNER)
    if request.increment:
        entry = replace(entry, verification_count=_plus_one(entry.verification_count))
        tpm.permanent = _with_family(tpm.permanent, entry)
        _invalidate_sessions(call)
    auth = call.new_auth(request.del_auth)
    pub = replace(request.public_info, verification_count=entry.verification_count)
    blob = DelegateOwnerBlob(pub, ZERO_DIGEST, b"", b"")
    return CreateOwnerDelegationReply(sealed(tpm.permanent, tpm.random, blob, auth).encode())


# --- 19.4 TPM_Delegate_LoadOwnerDelegation ------------------------------------------------------


@serves(LoadOwnerDelegation)
def load_owner_delegation(call: Call, request: LoadOwnerDelegation) -> NoReply:
    """19.4."""
    tpm = call.tpm
    blob = decode_blob(DelegateOwnerBlob, request.blob)
    entry = family(tpm.permanent, blob.pub.family_id)
    if tpm.owned:
        if not call.sessions:
            raise Refuse(Rc.AUTHFAIL)
        call.authorise_owner()
        _check_same_family(call, blob.pub.family_id)
    else:
        if call.sessions:
            raise Refuse(Rc.AUTHFAIL)
        if entry.flags & FamilyFlag.ADMIN_LOCK:
            raise Refuse(Rc.DELEGATE_LOCK)
        tpm.permanent = count_write(call)
    if not entry.flags & FamilyFlag.ENABLED:
        raise Refuse(Rc.DISABLED_CMD)
    if tpm.owned:
        check_integrity(tpm.permanent, blob)
        auth = auth_of(tpm.permanent, blob, Rc.INVALID_STRUCTURE)
    else:
        auth = _plain_auth(blob.sensitive_area)
    if request.index >= MAX_DELEGATE_ROWS:
        raise Refuse(Rc.BADINDEX)
    _invalidate_sessions(call)
    tpm.permanent = _with_row(tpm.permanent, request.index, DelegateTableRow(blob.pub, auth))
    return NoReply()


def _plain_auth(sensitive_area: bytes) -> bytes:
    """Actions 8 and 9 without an owner."""
    try:
        return DelegateSensitive.decode(sensitive_area).auth_value
    except WireError:
        raise Refuse(Rc.INVALID_STRUCTURE) from None


# --- 19.5 to 19.7 ------------------------------------------------------------------------------


@serves(DelegateReadTable)
def delegate_read_table(call: Call, request: DelegateReadTable) -> DelegateReadTableReply:
    """19.5."""
    permanent = call.tpm.permanent
    return DelegateReadTableReply(
        b"".join(entry.encode() for entry in permanent.families),
        b"".join(
            slot.index.to_bytes(_INDEX_SIZE, "big") + slot.row.pub.encode()
            for slot in permanent.delegations
        ),
    )


def _blob_of(data: bytes) -> DelegateOwnerBlob | DelegateKeyBlob:
    """The blob in `data`, by its tag (19.7 actions 1 to 3)."""
    tag = int.from_bytes(data[:2], "big")
    if tag == Tag.DELEGATE_OWNER_BLOB:
        return decode_blob(DelegateOwnerBlob, data)
    if tag == Tag.DELEGATE_KEY_BLOB:
        return decode_blob(DelegateKeyBlob, data)
    raise Refuse(Rc.BAD_PARAMETER)


@serves(UpdateVerification)
def update_verification(call: Call, request: UpdateVerification) -> UpdateVerificationReply:
    """19.6."""
    if len(request.input_data) == _INDEX_SIZE:
        index = int.from_bytes(request.input_data, "big")
        row = delegate_row(call.tpm.permanent, index)
        pub = _up_to_date(call, row.pub)
        call.tpm.permanent = _with_row(call.tpm.permanent, index, replace(row, pub=pub))
        return UpdateVerificationReply(b"")
    blob = _blob_of(request.input_data)
    check_integrity(call.tpm.permanent, blob)
    pub = _up_to_date(call, blob.pub)
    renewed = authenticated(call.tpm.permanent, replace(blob, pub=pub))
    return UpdateVerificationReply(renewed.encode())


def _up_to_date(call: Call, pub: DelegatePublic) -> DelegatePublic:
    """Actions 4 to 8. That a delegation's own family is enabled was checked at authorisation."""
    entry = family(call.tpm.permanent, pub.family_id)
    _check_same_family(call, pub.family_id)
    return replace(pub, verification_count=entry.verification_count)


@serves(VerifyDelegation)
def verify_delegation(call: Call, request: VerifyDelegation) -> NoReply:
    """19.7."""
    permanent = call.tpm.permanent
    blob = _blob_of(request.delegation)
    check_family(permanent, blob.pub)
    check_integrity(permanent, blob)
    auth_of(permanent, blob, Rc.BAD_PARAMETER)
    return NoReply()
