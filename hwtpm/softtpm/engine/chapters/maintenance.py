"""Maintenance: SRK and tpmProof go to another TPM by way of the manufacturer (Part 3 section 12).

Only a TPM that was made for it has the feature (`state.fresh_permanent`). In all others the place
of the manufacturer's key is closed, which is the NULL key that section 12.4 speaks of.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

from hwtpm.softtpm.engine import rsa
from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.chapters.migration import require_strong
from hwtpm.softtpm.engine.chapters.ownership import check_srk_params, clear_owner
from hwtpm.softtpm.engine.migrating import decrypt_masked, encrypt_to, layer, unlayer
from hwtpm.softtpm.engine.oaep import mgf1, xor
from hwtpm.softtpm.engine.state import MAINTENANCE_KEY_AWAITED, RootKey
from hwtpm.softtpm.engine.wrapping import private_of
from hwtpm.tpm12.commands.maintenance import (
    CreateMaintenanceArchive,
    CreateMaintenanceArchiveReply,
    KillMaintenanceFeature,
    LoadMaintenanceArchive,
    LoadManuMaintPub,
    LoadManuMaintPubReply,
    ReadManuMaintPub,
    ReadManuMaintPubReply,
)
from hwtpm.tpm12.const import EncScheme, KeyHandleValue, Payload
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types import Key, PubKey, StoreAsymKey
from hwtpm.wire import WireError

__all__: list[str] = []


def _manufacturer(call: Call) -> PubKey:
    """manuMaintPub; Refuse(KEYNOTFOUND) if there is none."""
    key = call.tpm.permanent.maintenance_key
    if key is None or key == MAINTENANCE_KEY_AWAITED:
        raise Refuse(Rc.KEYNOTFOUND)
    return key


@serves(CreateMaintenanceArchive)
def create_maintenance_archive(
    call: Call, request: CreateMaintenanceArchive
) -> CreateMaintenanceArchiveReply:
    """12.1. Whether the feature is there is said before the authorisation (actions 1 and 2)."""
    if not call.tpm.permanent.flags.allow_maintenance:
        raise Refuse(Rc.DISABLED_CMD)
    call.authorise_owner()
    manufacturer = rsa.public_key(_manufacturer(call))
    permanent = call.tpm.permanent
    srk = permanent.srk
    assert srk is not None  # the owner has been authorised
    o1 = layer(
        StoreAsymKey(
            payload=Payload.MAINT,
            usage_auth=permanent.tpm_proof,
            migration_auth=permanent.owner_auth,
            pub_data_digest=srk.key.digest_of_public_part(),
            priv_key=srk.prime,
        )
    )
    random = call.tpm.random(len(o1)) if request.generate_random else b""
    x1 = xor(o1, random or mgf1(permanent.owner_auth, len(o1)))
    archive = replace(srk.key, enc_data=encrypt_to(call, manufacturer, x1))
    flags = replace(permanent.flags, maintenance_done=True)
    call.tpm.permanent = replace(permanent, flags=flags)
    return CreateMaintenanceArchiveReply(random, archive.encode())


@serves(LoadMaintenanceArchive)
def load_maintenance_archive(call: Call, request: LoadMaintenanceArchive) -> NoReply:
    """12.2. The manufacturer decrypts an archive, encrypts it to this TPM's SRK, and signs the
    TPM_KEY that this makes by RSASSA-PKCS1-v1_5 with SHA-1.

    It is refused where TPM_OwnerClear is disabled: its actions are part of this (action 5), so the
    TPM is disabled and deactivated afterwards.
    """
    manufacturer = rsa.public_key(_manufacturer(call))
    digest = hashlib.sha1(request.archive).digest()
    if not rsa.verifies(manufacturer, request.sig, digest):
        raise Refuse(Rc.BAD_SIGNATURE)
    try:
        key = Key.decode(request.archive)
    except WireError:
        raise Refuse(Rc.BAD_PARAM_SIZE) from None
    check_srk_params(call, key)
    store = _unpacked(call, key.enc_data, request.random)
    private = private_of(key, store)
    permanent = call.tpm.permanent
    if permanent.flags.disable_owner_clear:
        raise Refuse(Rc.CLEAR_DISABLED)
    clear_owner(call)
    permanent = call.tpm.permanent
    owner_auth = store.migration_auth
    call.tpm.permanent = replace(
        permanent,
        flags=replace(permanent.flags, maintenance_done=True),
        srk=RootKey(replace(key, enc_data=b""), rsa.prime_of(private), usage_auth=owner_auth),
        tpm_proof=store.usage_auth,
        owner_auth=owner_auth,
    )
    return NoReply()


def _unpacked(call: Call, blob: bytes, random: bytes) -> StoreAsymKey:
    """m1 of 12.1, with the AuthData of the owner there as its migrationAuth.

    Without a random string both owners have to have the same AuthData.
    """
    srk = call.tpm.root_key(KeyHandleValue.SRK)
    owner_auth = call.tpm.permanent.owner_auth
    if random:
        store = unlayer(decrypt_masked(srk.private, blob, random))
    else:
        x1 = rsa.decrypt_given(srk.private, blob)
        store = unlayer(xor(x1, mgf1(owner_auth, len(x1))))
        if not hmac.compare_digest(store.migration_auth, owner_auth):
            raise Refuse(Rc.DECRYPT_ERROR)
    if store.payload != Payload.MAINT:
        raise Refuse(Rc.BAD_MIGRATION)
    return store


@serves(KillMaintenanceFeature)
def kill_maintenance_feature(call: Call, request: KillMaintenanceFeature) -> NoReply:
    """12.3."""
    permanent = call.tpm.permanent
    if permanent.flags.allow_maintenance:
        flags = replace(permanent.flags, allow_maintenance=False)
        call.tpm.permanent = replace(permanent, flags=flags)
    return NoReply()


@serves(LoadManuMaintPub)
def load_manu_maint_pub(call: Call, request: LoadManuMaintPub) -> LoadManuMaintPubReply:
    """12.4. A key without a modulus is the NULL key: it closes the place for ever."""
    permanent, key = call.tpm.permanent, request.pub_key
    if permanent.maintenance_key != MAINTENANCE_KEY_AWAITED:
        raise Refuse(Rc.DISABLED_CMD)
    if key.pub_key:
        require_strong(key)
        if key.algorithm_parms.enc_scheme != EncScheme.RSA_OAEP_SHA1_MGF1:
            raise Refuse(Rc.INAPPROPRIATE_ENC)
    call.tpm.permanent = replace(permanent, maintenance_key=key if key.pub_key else None)
    return LoadManuMaintPubReply(_checksum(key, request.anti_replay))


@serves(ReadManuMaintPub)
def read_manu_maint_pub(call: Call, request: ReadManuMaintPub) -> ReadManuMaintPubReply:
    """12.5."""
    return ReadManuMaintPubReply(_checksum(_manufacturer(call), request.anti_replay))


def _checksum(key: PubKey, anti_replay: bytes) -> bytes:
    return hashlib.sha1(key.encode() + anti_replay).digest()
