"""Certified migration keys: migration authorities decide where they go (Part 3 sections 11.5 to
11.10).

A ticket is an HMAC with tpmProof over a structure of Part 2 section 5: this TPM's note to itself.
Where the actions name no return code, the codes are those of libtpms.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.chapters.migration import check_migration_key
from hwtpm.softtpm.engine.keys import LoadedKey
from hwtpm.softtpm.engine.migrating import decrypt_masked, encrypt_masked, layer, unlayer
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.rsa import public_key, verifies
from hwtpm.softtpm.engine.wrapping import (
    check_properties,
    new_key,
    open_private_part,
    private_of,
    private_part,
    require_storage,
    wrap,
)
from hwtpm.tpm12.commands.migration import (
    CmkApproveMA,
    CmkApproveMAReply,
    CmkConvertMigration,
    CmkConvertMigrationReply,
    CmkCreateBlob,
    CmkCreateBlobReply,
    CmkCreateKey,
    CmkCreateKeyReply,
    CmkCreateTicket,
    CmkCreateTicketReply,
    CmkSetRestrictions,
)
from hwtpm.tpm12.const import (
    DIGEST_SIZE,
    CmkDelegate,
    EncScheme,
    KeyAlgorithm,
    KeyFlag,
    KeyUsage,
    MigrateScheme,
    Payload,
    SigScheme,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types import KEY12_FORM, Key, PubKey
from hwtpm.tpm12.types.migration import (
    CmkAuth,
    CmkMaApproval,
    CmkMigAuth,
    CmkSigTicket,
    MsaComposite,
)
from hwtpm.wire import WireError

__all__: list[str] = []

_RESTRICTIONS: Final = sum(int(bit) for bit in CmkDelegate)
_CMK_PAYLOADS: Final = (Payload.MIGRATE_RESTRICTED, Payload.MIGRATE_EXTERNAL)


def _ticket(call: Call, noted: CmkMaApproval | CmkMigAuth | CmkSigTicket) -> bytes:
    return hmac.digest(call.tpm.permanent.tpm_proof, noted.encode(), "sha1")


def _require_fixed_storage(key: LoadedKey) -> None:
    """A parent that stays in this TPM."""
    if key.key.migratable:
        raise Refuse(Rc.INVALID_KEYUSAGE)
    require_storage(key)


def _authorities(msa_list: MsaComposite | None) -> MsaComposite:
    """The list of authorities, one or more (Part 2 section 5.15)."""
    if msa_list is None:
        raise Refuse(Rc.BAD_PARAM_SIZE)
    if not msa_list.mig_auth_digest:
        raise Refuse(Rc.INVALID_STRUCTURE)
    return msa_list


def _check_signature_ticket(call: Call, msa: MsaComposite, ticket: bytes, signed: bytes) -> None:
    """One of the authorities signed `signed` (11.9 action 9.a.i, 11.10 action 11)."""
    digest = hashlib.sha1(signed).digest()
    for authority in msa.mig_auth_digest:
        if hmac.compare_digest(_ticket(call, CmkSigTicket(authority, digest)), ticket):
            return
    raise Refuse(Rc.MA_TICKET_SIGNATURE)


def _label_digest(msa: MsaComposite, source: bytes) -> bytes:
    """pHash of 11.9 action 13.b."""
    return hashlib.sha1(msa.digest() + source).digest()


@serves(CmkSetRestrictions)
def cmk_set_restrictions(call: Call, request: CmkSetRestrictions) -> NoReply:
    """11.5. Reserved bits are zero by Part 2 section 5.17."""
    if request.restriction & ~_RESTRICTIONS:
        raise Refuse(Rc.BAD_PARAMETER)
    permanent = call.tpm.permanent
    if permanent.restrict_delegate != request.restriction:
        call.tpm.permanent = replace(permanent, restrict_delegate=request.restriction)
    return NoReply()


@serves(CmkApproveMA)
def cmk_approve_ma(call: Call, request: CmkApproveMA) -> CmkApproveMAReply:
    """11.6."""
    return CmkApproveMAReply(_ticket(call, CmkMaApproval(request.migration_authority_digest)))


@serves(CmkCreateKey)
def cmk_create_key(call: Call, request: CmkCreateKey) -> CmkCreateKeyReply:
    """11.7."""
    parent, template = call.keys[0], request.key_info
    msa_digest = request.migration_authority_digest
    usage_auth = call.new_auth(request.data_usage_auth)
    check_release(call, parent.condition)
    check_properties(call, template)
    _require_fixed_storage(parent)
    _require_cmk_flags(template)
    approval = _ticket(call, CmkMaApproval(msa_digest))
    if not hmac.compare_digest(approval, request.migration_authority_approval):
        raise Refuse(Rc.MA_AUTHORITY)
    if template.key_usage in (KeyUsage.IDENTITY, KeyUsage.AUTHCHANGE):
        raise Refuse(Rc.INVALID_KEYUSAGE)
    if template.form != KEY12_FORM:
        raise Refuse(Rc.INVALID_STRUCTURE)
    key, private = new_key(call, template)
    migration_auth = _ticket(call, CmkMigAuth(msa_digest, _public(key).digest()))
    payload = Payload.MIGRATE_RESTRICTED
    store = private_part(key, private, payload, usage_auth, migration_auth)
    return CmkCreateKeyReply(replace(key, enc_data=wrap(call, parent, store)))


def _require_cmk_flags(key: Key) -> None:
    """11.7 actions 6 and 7, 11.10 actions 15 and 16."""
    if not key.migratable or not key.key_flags & KeyFlag.MIGRATE_AUTHORITY:
        raise Refuse(Rc.INVALID_KEYUSAGE)


def _public(key: Key) -> PubKey:
    return PubKey(key.algorithm_parms, key.pub_key)


@serves(CmkCreateTicket)
def cmk_create_ticket(call: Call, request: CmkCreateTicket) -> CmkCreateTicketReply:
    """11.8."""
    key = request.verification_key
    parms = key.algorithm_parms
    if parms.algorithm_id != KeyAlgorithm.RSA:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    if parms.enc_scheme != EncScheme.NONE:
        raise Refuse(Rc.INAPPROPRIATE_ENC)
    if parms.sig_scheme not in (SigScheme.RSA_PKCS_V15_SHA1, SigScheme.RSA_PKCS_V15_INFO):
        raise Refuse(Rc.INVALID_KEYUSAGE)
    if not verifies(public_key(key), request.signature_value, request.signed_data):
        raise Refuse(Rc.BAD_SIGNATURE)
    return CmkCreateTicketReply(_ticket(call, CmkSigTicket(key.digest(), request.signed_data)))


@serves(CmkCreateBlob)
def cmk_create_blob(call: Call, request: CmkCreateBlob) -> CmkCreateBlobReply:
    """11.9. The scheme that the owner authorised decides; migrationType is ignored (action 2.a)."""
    parent, source = call.keys[0], request.pub_source_key_digest
    msa, scheme = _authorities(request.msa_list), request.migration_key_auth.migration_scheme
    check_release(call, parent.condition)
    _require_fixed_storage(parent)
    store = open_private_part(parent, request.enc_data)
    destination = check_migration_key(call, request.migration_key_auth)
    if store.payload not in _CMK_PAYLOADS:
        raise Refuse(Rc.INVALID_STRUCTURE)
    migration_auth = _ticket(call, CmkMigAuth(msa.digest(), source))
    if not hmac.compare_digest(store.migration_auth, migration_auth):
        raise Refuse(Rc.MA_AUTHORITY)
    if scheme == MigrateScheme.RESTRICT_MIGRATE:
        _check_is_authority(request, msa)
    elif scheme == MigrateScheme.RESTRICT_APPROVE:
        _check_approved(call, request, msa)
    else:
        raise Refuse(Rc.BAD_PARAMETER)
    label_digest = _label_digest(msa, source)
    o1 = layer(replace(store, payload=Payload.CMK_MIGRATE, migration_auth=label_digest))
    return CmkCreateBlobReply(*encrypt_masked(call, destination, o1))


def _check_is_authority(request: CmkCreateBlob, msa: MsaComposite) -> None:
    """11.9 action 8: the destination is a migration authority."""
    key = request.migration_key_auth.migration_key
    if key.digest() not in msa.mig_auth_digest:
        raise Refuse(Rc.MA_TICKET_SIGNATURE)
    if key.algorithm_parms.enc_scheme != EncScheme.RSA_OAEP_SHA1_MGF1:
        raise Refuse(Rc.INAPPROPRIATE_ENC)
    if key.algorithm_parms.sig_scheme != SigScheme.NONE:
        raise Refuse(Rc.INVALID_KEYUSAGE)
    if request.restrict_ticket or request.sig_ticket:
        raise Refuse(Rc.BAD_PARAMETER)


def _check_approved(call: Call, request: CmkCreateBlob, msa: MsaComposite) -> None:
    """11.9 action 9: a migration authority approved of the destination."""
    if len(request.sig_ticket) != DIGEST_SIZE:
        raise Refuse(Rc.BAD_PARAM_SIZE)
    _check_signature_ticket(call, msa, request.sig_ticket, request.restrict_ticket)
    try:
        approved = CmkAuth.decode(request.restrict_ticket)
    except WireError:
        raise Refuse(Rc.BAD_PARAM_SIZE) from None
    if approved.destination_key_digest != request.migration_key_auth.migration_key.digest():
        raise Refuse(Rc.MA_DESTINATION)
    if approved.source_key_digest != request.pub_source_key_digest:
        raise Refuse(Rc.MA_SOURCE)


@serves(CmkConvertMigration)
def cmk_convert_migration(call: Call, request: CmkConvertMigration) -> CmkConvertMigrationReply:
    """11.10."""
    parent, key, approved = call.keys[0], request.migrated_key, request.restrict_ticket
    msa, source = _authorities(request.msa_list), _public(key).digest()
    check_release(call, parent.condition)
    require_storage(parent)
    store = unlayer(decrypt_masked(parent.private, key.enc_data, request.random))
    if not hmac.compare_digest(store.migration_auth, _label_digest(msa, source)):
        raise Refuse(Rc.AUTHFAIL)
    _require_fixed_storage(parent)
    if store.payload != Payload.CMK_MIGRATE:
        raise Refuse(Rc.BAD_MIGRATION)
    _check_signature_ticket(call, msa, request.sig_ticket, approved.encode())
    if approved.destination_key_digest != parent.public.digest():
        raise Refuse(Rc.MA_DESTINATION)
    private_of(key, store)
    _require_cmk_flags(key)
    if approved.source_key_digest != source:
        raise Refuse(Rc.MA_SOURCE)
    migration_auth = _ticket(call, CmkMigAuth(msa.digest(), source))
    store = replace(store, payload=Payload.MIGRATE_EXTERNAL, migration_auth=migration_auth)
    return CmkConvertMigrationReply(wrap(call, parent, store))
