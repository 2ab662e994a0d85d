"""Authorization sessions (Part 3 section 18)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeVar

from hwtpm.softtpm.engine.call import OWNER_ENTITY, Call, Refuse, serves
from hwtpm.softtpm.engine.delegation import (
    auth_of,
    check_family,
    check_integrity,
    decode_blob,
    delegate_row,
    key_digest,
)
from hwtpm.softtpm.engine.sessions import Session
from hwtpm.tpm12.auth import ADIP, osap_shared_secret
from hwtpm.tpm12.commands.sessions import (
    DSAP,
    OIAP,
    OSAP,
    DSAPReply,
    OIAPReply,
    OSAPReply,
    SetOwnerPointer,
)
from hwtpm.tpm12.const import ET_XOR, EntityType, KeyHandleValue
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types.delegation import (
    DelegateKeyBlob,
    DelegateOwnerBlob,
    DelegatePublic,
    DelegateTableRow,
)

__all__: list[str] = []

_INDEX_SIZE: Final = 4  # TPM_DELEGATE_INDEX

Entity = tuple[int, bytes]
B = TypeVar("B", DelegateOwnerBlob, DelegateKeyBlob)


@serves(OIAP)
def oiap(call: Call, request: OIAP) -> OIAPReply:
    """18.1."""
    tpm = call.tpm
    session = Session(tpm.sessions.new_handle(), tpm.random(20))
    tpm.sessions.put(session)
    return OIAPReply(session.handle, session.nonce_even)


def _check_adip(call: Call, scheme: int) -> None:
    """18.2 action 5; a FIPS TPM encrypts AuthData with a symmetric cipher (Part 1 section 13.5)."""
    if scheme not in ADIP or (scheme == ET_XOR and call.tpm.permanent.flags.fips):
        raise Refuse(Rc.INAPPROPRIATE_ENC)


# --- 18.2 TPM_OSAP -----------------------------------------------------------------------------


def _entity(call: Call, kind: int, value: int) -> tuple[Entity, bytes, DelegatePublic | None]:
    """What an OSAP session is bound to, its AuthData, and the delegation that AuthData is of."""
    tpm = call.tpm
    permanent = tpm.permanent
    if kind == EntityType.OWNER:
        reference = tpm.volatile.owner_reference
        if reference == KeyHandleValue.OWNER:
            return OWNER_ENTITY, permanent.owner_auth, None
        row = _valid_row(call, reference)
        return OWNER_ENTITY, row.auth_value, row.pub
    if kind in (EntityType.SRK, EntityType.KEYHANDLE):
        handle = int(KeyHandleValue.SRK) if kind == EntityType.SRK else value
        if handle == KeyHandleValue.OPERATOR:
            raise Refuse(Rc.BAD_HANDLE)
        key = tpm.key(handle)
        return key.entity, key.usage_auth, None
    entity = (kind, value.to_bytes(4, "big"))
    if kind == EntityType.COUNTER:
        counter = permanent.counter(value)
        if counter is None:
            raise Refuse(Rc.BAD_COUNTER)
        return entity, counter.auth, None
    if kind == EntityType.NV:
        area = permanent.nv_area(value)
        if area is None:
            raise Refuse(Rc.BADINDEX)
        return entity, area.auth, None
    raise Refuse(Rc.BAD_PARAMETER)


@serves(OSAP)
def osap(call: Call, request: OSAP) -> OSAPReply:
    """18.2."""
    tpm = call.tpm
    handle = tpm.sessions.new_handle()
    adip, kind = divmod(request.entity_type, 256)
    _check_adip(call, adip)
    entity, auth, delegation = _entity(call, kind, request.entity_value)
    nonce_even, nonce_even_osap = tpm.random(20), tpm.random(20)
    shared_secret = osap_shared_secret(auth, nonce_even_osap, request.nonce_odd_osap)
    tpm.sessions.put(Session(handle, nonce_even, entity, shared_secret, adip, delegation))
    return OSAPReply(handle, nonce_even, nonce_even_osap)


# --- 18.3 TPM_DSAP -----------------------------------------------------------------------------


def _valid_row(call: Call, index: int) -> DelegateTableRow:
    """The row of the delegate table at that index, good for use (18.3 action 2, 18.4 action 2)."""
    row = delegate_row(call.tpm.permanent, index)
    check_family(call.tpm.permanent, row.pub)
    return row


def _valid_blob(call: Call, kind: type[B], value: bytes) -> B:
    """The blob of that kind, good for use (actions 1 and 3)."""
    try:
        blob = decode_blob(kind, value)
    except Refuse:
        raise Refuse(Rc.WRONG_ENTITYTYPE) from None
    check_family(call.tpm.permanent, blob.pub)
    check_integrity(call.tpm.permanent, blob)
    return blob


def _owner_delegation(call: Call, value: bytes) -> tuple[DelegatePublic, bytes]:
    """Action 1: the delegation in an owner blob and its AuthData."""
    blob = _valid_blob(call, DelegateOwnerBlob, value)
    return blob.pub, auth_of(call.tpm.permanent, blob, Rc.BAD_DELEGATE)


def _row_delegation(call: Call, value: bytes) -> tuple[DelegatePublic, bytes]:
    """Action 2: the delegation in a row of the TPM's table and its AuthData."""
    if len(value) != _INDEX_SIZE:
        raise Refuse(Rc.BAD_PARAM_SIZE)
    row = _valid_row(call, int.from_bytes(value, "big"))
    return row.pub, row.auth_value


def _key_delegation(call: Call, value: bytes, handle: int) -> tuple[Entity, DelegatePublic, bytes]:
    """Action 3: the key that a key blob delegates, the delegation and its AuthData."""
    blob = _valid_blob(call, DelegateKeyBlob, value)
    key = call.tpm.key(handle)
    if key_digest(key) != blob.pub_key_digest:
        raise Refuse(Rc.KEYNOTFOUND)
    return key.entity, blob.pub, auth_of(call.tpm.permanent, blob, Rc.BAD_DELEGATE)


@serves(DSAP)
def dsap(call: Call, request: DSAP) -> DSAPReply:
    """18.3."""
    tpm = call.tpm
    adip, kind = divmod(request.entity_type, 256)
    entity = OWNER_ENTITY
    if kind == EntityType.DEL_OWNER_BLOB:
        delegation, auth = _owner_delegation(call, request.entity_value)
    elif kind == EntityType.DEL_ROW:
        delegation, auth = _row_delegation(call, request.entity_value)
    elif kind == EntityType.DEL_KEY_BLOB:
        entity, delegation, auth = _key_delegation(call, request.entity_value, request.key_handle)
    else:
        raise Refuse(Rc.BAD_PARAMETER)
    handle = tpm.sessions.new_handle()
    _check_adip(call, adip)
    nonce_even, nonce_even_dsap = tpm.random(20), tpm.random(20)
    shared_secret = osap_shared_secret(auth, nonce_even_dsap, request.nonce_odd_dsap)
    tpm.sessions.put(Session(handle, nonce_even, entity, shared_secret, adip, delegation))
    return DSAPReply(handle, nonce_even, nonce_even_dsap)


# --- 18.4 TPM_SetOwnerPointer ------------------------------------------------------------------


@serves(SetOwnerPointer)
def set_owner_pointer(call: Call, request: SetOwnerPointer) -> NoReply:
    """18.4."""
    reference = int(KeyHandleValue.OWNER)
    if request.entity_type == EntityType.DEL_ROW:
        _valid_row(call, request.entity_value)
        reference = request.entity_value
    elif request.entity_type != EntityType.OWNER:
        raise Refuse(Rc.BAD_PARAMETER)
    call.tpm.stclear = replace(call.tpm.volatile, owner_reference=reference)
    return NoReply()
