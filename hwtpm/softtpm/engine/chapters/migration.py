"""Migration of keys that know their own migration secret (Part 3 sections 11.1 to 11.4).

Where the actions name no return code, the codes are those of libtpms.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.migrating import (
    decrypt_masked,
    encrypt_masked,
    encrypt_to,
    layer,
    unlayer,
)
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.rsa import decrypt_given, public_key, rsa_parms
from hwtpm.softtpm.engine.wrapping import open_private_part, require_storage, wrap
from hwtpm.tpm12.commands.migration import (
    AuthorizeMigrationKey,
    AuthorizeMigrationKeyReply,
    ConvertMigrationBlob,
    ConvertMigrationBlobReply,
    CreateMigrationBlob,
    CreateMigrationBlobReply,
    MigrateKey,
    MigrateKeyReply,
)
from hwtpm.tpm12.const import EncScheme, EntityType, KeyUsage, MigrateScheme, Payload
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PubKey
from hwtpm.tpm12.types.migration import MigrationKeyAuth

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = ["check_migration_key", "require_strong"]

_MIGRATED_ENTITY: Final = (int(EntityType.KEY), b"")
_STRONG_BITS: Final = 2048


def require_strong(key: PubKey) -> RSAPublicKey:
    """A public key from outside that is as strong as RSA with 2048 bits (11.3 action 1).

    Raises:
        Refuse: BAD_KEY_PROPERTY; BAD_PARAM_SIZE if its parameters do not decode.
    """
    if rsa_parms(key.algorithm_parms).key_length < _STRONG_BITS:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    return public_key(key)


def _authorisation_digest(call: Call, key: PubKey, scheme: int) -> bytes:
    """11.3 actions 7 and 8."""
    proof = call.tpm.permanent.tpm_proof
    return hashlib.sha1(key.encode() + scheme.to_bytes(2, "big") + proof).digest()


def check_migration_key(call: Call, authorised: MigrationKeyAuth) -> RSAPublicKey:
    """The public key, if this TPM's owner authorised it (11.1 action 5, 11.9 action 5).

    Raises:
        Refuse: AUTHFAIL.
    """
    expected = _authorisation_digest(call, authorised.migration_key, authorised.migration_scheme)
    if not hmac.compare_digest(expected, authorised.digest):
        raise Refuse(Rc.AUTHFAIL)
    return public_key(authorised.migration_key)


@serves(CreateMigrationBlob)
def create_migration_blob(call: Call, request: CreateMigrationBlob) -> CreateMigrationBlobReply:
    """11.1. A parent that needs no authorisation may come with the migrated key's session alone.

    The scheme that the owner authorised has to be the one that is asked for: Part 2 section 4.10
    gives a TPM_MS_MIGRATE key to all modes but the rewrap one.
    """
    parent, authorised = call.keys[0], request.migration_key_auth
    check_release(call, parent.condition)
    require_storage(parent)
    store = open_private_part(parent, request.enc_data)
    if store.payload != Payload.ASYM:
        raise Refuse(Rc.BAD_MIGRATION)
    if call.sessions[-1].entity is not None:
        raise Refuse(Rc.BAD_MODE)  # OSAP has no entity type for a key that is not loaded
    call.authorise(store.migration_auth, _MIGRATED_ENTITY)
    destination = check_migration_key(call, authorised)
    if request.migration_type != authorised.migration_scheme:
        raise Refuse(Rc.BAD_PARAMETER)
    if request.migration_type == MigrateScheme.REWRAP:
        return CreateMigrationBlobReply(b"", encrypt_to(call, destination, store.encode()))
    if request.migration_type != MigrateScheme.MIGRATE:
        raise Refuse(Rc.BAD_PARAMETER)
    o1 = layer(replace(store, payload=Payload.MIGRATE))
    return CreateMigrationBlobReply(*encrypt_masked(call, destination, o1))


@serves(ConvertMigrationBlob)
def convert_migration_blob(call: Call, request: ConvertMigrationBlob) -> ConvertMigrationBlobReply:
    """11.2."""
    parent = call.keys[0]
    check_release(call, parent.condition)
    require_storage(parent)
    store = unlayer(decrypt_masked(parent.private, request.in_data, request.random))
    if store.payload != Payload.MIGRATE:
        raise Refuse(Rc.BAD_MIGRATION)
    store = replace(store, payload=Payload.ASYM)
    return ConvertMigrationBlobReply(wrap(call, parent, store))


@serves(AuthorizeMigrationKey)
def authorize_migration_key(
    call: Call, request: AuthorizeMigrationKey
) -> AuthorizeMigrationKeyReply:
    """11.3. The key is looked at before the authorisation (actions 1 and 2)."""
    key, scheme = request.migration_key, request.migration_scheme
    require_strong(key)
    call.authorise_owner()
    if key.algorithm_parms.enc_scheme != EncScheme.RSA_OAEP_SHA1_MGF1:
        raise Refuse(Rc.INAPPROPRIATE_ENC)
    digest = _authorisation_digest(call, key, scheme)
    return AuthorizeMigrationKeyReply(MigrationKeyAuth(key, scheme, digest))


@serves(MigrateKey)
def migrate_key(call: Call, request: MigrateKey) -> MigrateKeyReply:
    """11.4. A migration key encrypts by OAEP alone, which is checked when it is loaded."""
    authority = call.keys[0]
    check_release(call, authority.condition)
    if authority.key.key_usage != KeyUsage.MIGRATE:
        raise Refuse(Rc.INVALID_KEYUSAGE)
    if request.pub_key.algorithm_parms.enc_scheme != EncScheme.RSA_OAEP_SHA1_MGF1:
        raise Refuse(Rc.INAPPROPRIATE_ENC)
    destination = public_key(request.pub_key)
    blob = decrypt_given(authority.private, request.in_data)
    return MigrateKeyReply(encrypt_to(call, destination, blob))
