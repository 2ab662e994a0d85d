"""Changing AuthData (Part 3 section 17; the asymmetric way, section 27.4)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import OWNER_ENTITY, Call, Refuse, serves
from hwtpm.softtpm.engine.keys import LoadedKey
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.rsa import decrypt_given, sign_digest
from hwtpm.softtpm.engine.wrapping import check_properties, new_key, require_storage
from hwtpm.tpm12.commands.authdata import ChangeAuth, ChangeAuthOwner, ChangeAuthReply
from hwtpm.tpm12.commands.deprecated import (
    ChangeAuthAsymFinish,
    ChangeAuthAsymFinishReply,
    ChangeAuthAsymStart,
    ChangeAuthAsymStartReply,
)
from hwtpm.tpm12.const import (
    DIGEST_SIZE,
    PROTOCOL_ADCP,
    AuthDataUsage,
    EntityType,
    KeyFlag,
    KeyHandleValue,
    KeyUsage,
    Payload,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types import LEGACY_FORM, Key, SealedData, StoreAsymKey
from hwtpm.tpm12.types.certify import CertifyInfo, ChangeAuthValidate
from hwtpm.wire import WireError

__all__: list[str] = []

_WRAPPED_ENTITY: Final = (int(EntityType.KEY), b"")
"""No OSAP session is ever bound to an entity that is not loaded."""
_FORMS: Final[dict[int, tuple[type[StoreAsymKey] | type[SealedData], tuple[Payload, ...]]]] = {
    EntityType.DATA: (SealedData, (Payload.SEAL,)),
    EntityType.KEY: (
        StoreAsymKey,
        (Payload.ASYM, Payload.MIGRATE_RESTRICTED, Payload.MIGRATE_EXTERNAL),
    ),
}
"""What can be changed: its structure, and the payload types that it may have."""

_Entity = StoreAsymKey | SealedData


def _open_entity(parent: LoadedKey, kind: int, enc_data: bytes) -> _Entity:
    """What is encrypted in a wrapped key (TPM_ET_KEY) or sealed blob (TPM_ET_DATA).

    Raises:
        Refuse: INVALID_STRUCTURE if it is no such entity (17.1 action 10); what `decrypt_given`
            raises.
    """
    plain = decrypt_given(parent.private, enc_data)
    structure, payloads = _FORMS[kind]
    try:
        entity = structure.decode(plain)
    except WireError:
        raise Refuse(Rc.INVALID_STRUCTURE) from None
    if entity.payload not in payloads:
        raise Refuse(Rc.INVALID_STRUCTURE)
    return entity


def _auth_of(entity: _Entity) -> bytes:
    return entity.usage_auth if isinstance(entity, StoreAsymKey) else entity.auth_data


def _enc_data(call: Call, parent: LoadedKey, entity: _Entity, auth: bytes) -> bytes:
    """The entity with another AuthData, encrypted to its parent."""
    changed: _Entity
    if isinstance(entity, StoreAsymKey):
        changed = replace(entity, usage_auth=auth)
    else:
        changed = replace(entity, auth_data=auth)
    return call.tpm.entropy.encrypt_oaep(parent.private.public_key(), changed.encode())


@serves(ChangeAuth)
def change_auth(call: Call, request: ChangeAuth) -> ChangeAuthReply:
    """17.1. Both sessions end."""
    parent = call.keys[0]
    if request.entity_type not in _FORMS:
        raise Refuse(Rc.WRONG_ENTITYTYPE)
    of_parent, of_entity = call.sessions
    if of_parent.entity is None or of_entity.entity is not None:
        raise Refuse(Rc.BAD_MODE)
    if request.protocol_id != PROTOCOL_ADCP:
        raise Refuse(Rc.BAD_PARAMETER)
    call.authorise_key(parent)
    check_release(call, parent.condition)
    require_storage(parent)
    entity = _open_entity(parent, request.entity_type, request.enc_data)
    call.authorise(_auth_of(entity), _WRAPPED_ENTITY)
    auth = call.new_auth(request.new_auth)
    call.tails[1].continue_session = 0
    return ChangeAuthReply(_enc_data(call, parent, entity, auth))


@serves(ChangeAuthOwner)
def change_auth_owner(call: Call, request: ChangeAuthOwner) -> NoReply:
    """17.2."""
    auth = call.new_auth(request.new_auth)
    if request.protocol_id != PROTOCOL_ADCP:
        raise Refuse(Rc.BAD_PARAMETER)
    tpm = call.tpm
    permanent = tpm.permanent
    assert permanent.srk is not None  # the dispatcher has proven the owner
    if request.entity_type == EntityType.OWNER:
        tpm.permanent = replace(permanent, owner_auth=auth)
    elif request.entity_type == EntityType.SRK:
        tpm.permanent = replace(permanent, srk=replace(permanent.srk, usage_auth=auth))
    else:
        raise Refuse(Rc.WRONG_ENTITYTYPE)
    call.end_sessions_of(OWNER_ENTITY)
    # Action 8, "active or saved"; action 9 allows it for all.
    tpm.stclear = replace(tpm.volatile, context_list=())
    return NoReply()


@serves(ChangeAuthAsymStart)
def change_auth_asym_start(call: Call, request: ChangeAuthAsymStart) -> ChangeAuthAsymStartReply:
    """27.4.1."""
    identity = call.keys[0]
    check_release(call, identity.condition)
    if identity.key.key_usage != KeyUsage.IDENTITY:
        raise Refuse(Rc.INVALID_KEYUSAGE)
    template = Key(
        form=LEGACY_FORM,
        key_usage=KeyUsage.AUTHCHANGE,
        key_flags=KeyFlag.VOLATILE,
        auth_data_usage=AuthDataUsage.NEVER,
        algorithm_parms=request.temp_key,
        pcr_info=b"",
        pub_key=b"",
        enc_data=b"",
    )
    check_properties(call, template)
    handle = call.tpm.keys.new_handle()
    key, private = new_key(call, template)
    call.tpm.keys.put(
        LoadedKey(
            handle=handle,
            key=key,
            usage_auth=bytes(DIGEST_SIZE),
            migration_auth=bytes(DIGEST_SIZE),
            payload=Payload.ASYM,
            private=private,
            condition=None,
        )
    )
    info = CertifyInfo(
        key.key_usage,
        key.key_flags,
        key.auth_data_usage,
        key.algorithm_parms,
        hashlib.sha1(key.pub_key).digest(),
        request.anti_replay,
        parent_pcr_status=False,
        pcr_info=b"",
    )
    signature = sign_digest(identity.private, hashlib.sha1(info.encode()).digest())
    return ChangeAuthAsymStartReply(info, signature, handle, key)


@serves(ChangeAuthAsymFinish)
def change_auth_asym_finish(call: Call, request: ChangeAuthAsymFinish) -> ChangeAuthAsymFinishReply:
    """27.4.2."""
    parent = call.keys[0]
    _authorise_parent(call, parent)
    check_release(call, parent.condition)
    require_storage(parent)
    if request.entity_type not in _FORMS:
        raise Refuse(Rc.WRONG_ENTITYTYPE)
    entity = _open_entity(parent, request.entity_type, request.enc_data)
    ephemeral = call.tpm.key(request.eph_handle)  # action 4
    if ephemeral.key.key_usage != KeyUsage.AUTHCHANGE:
        raise Refuse(Rc.BAD_PARAMETER)
    new = _open_new_auth(ephemeral, request.enc_new_auth)
    call.require_no_lockout()  # this, too, is a try at an AuthData, and no session may be there
    link = hmac.digest(_auth_of(entity), new.new_auth_secret, "sha1")
    if not hmac.compare_digest(link, request.new_auth_link):
        call.tpm.note_auth_failure()
        raise Refuse(Rc.AUTHFAIL)
    salt = call.tpm.random(DIGEST_SIZE)
    proof = hmac.digest(new.new_auth_secret, salt + new.n1, "sha1")
    call.after(lambda: call.tpm.drop_key(ephemeral))
    changed = _enc_data(call, parent, entity, new.new_auth_secret)
    return ChangeAuthAsymFinishReply(changed, salt, proof)


def _authorise_parent(call: Call, parent: LoadedKey) -> None:
    """For the SRK "the HMAC key MUST be built using the TPM Owner authentication"."""
    if parent.handle == KeyHandleValue.SRK:
        call.authorise_owner()
    else:
        call.authorise_use(parent)


def _open_new_auth(ephemeral: LoadedKey, encrypted: bytes) -> ChangeAuthValidate:
    """Action 4."""
    plain = decrypt_given(ephemeral.private, encrypted)
    try:
        return ChangeAuthValidate.decode(plain)
    except WireError:
        raise Refuse(Rc.BAD_PARAM_SIZE) from None
