"""What is longer than the modulus that should decrypt it, wherever a command takes ciphertext.

The specification mostly has no code for it; libtpms has this one for all commands.
"""

from __future__ import annotations

from dataclasses import replace

from conformance_rig import NO_HANDLE, OWNER, SRK, SRK_HANDLE, USAGE, ZEROS, Device

from hwtpm.client import keys
from hwtpm.client.rsa import oaep_encrypt, to_public_key
from hwtpm.tpm12.commands.authdata import ChangeAuth
from hwtpm.tpm12.commands.deprecated import ChangeAuthAsymFinish, ChangeAuthAsymStart
from hwtpm.tpm12.commands.identity import ActivateIdentity
from hwtpm.tpm12.commands.migration import (
    AuthorizeMigrationKey,
    ConvertMigrationBlob,
    CreateMigrationBlob,
    MigrateKey,
)
from hwtpm.tpm12.commands.ownership import TakeOwnership
from hwtpm.tpm12.commands.storage import LoadKey2, UnBind
from hwtpm.tpm12.commands.transport import EstablishTransport
from hwtpm.tpm12.const import EncScheme, EntityType, KeyUsage, SigScheme, TransportAttribute
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types.transport import TransportPublic

TOO_LONG = bytes(257)


def test_keys_that_are_loaded_or_migrated(owned: Device) -> None:
    assert owned.prepared.srk is not None
    key = replace(owned.key("signing"), enc_data=TOO_LONG)
    assert owned.refusal(LoadKey2(SRK_HANDLE, key), SRK) == Rc.BAD_DATASIZE
    allowed = owned.run(AuthorizeMigrationKey(1, owned.prepared.srk), OWNER).out_data
    create = CreateMigrationBlob(SRK_HANDLE, 1, allowed, TOO_LONG)
    assert owned.refusal(create, SRK, USAGE) == Rc.BAD_DATASIZE
    convert = ConvertMigrationBlob(SRK_HANDLE, TOO_LONG, bytes(198))
    assert owned.refusal(convert, SRK) == Rc.BAD_DATASIZE


def test_a_blob_for_a_migration_authority(owned: Device) -> None:
    assert owned.prepared.srk is not None
    root = keys.srk(SRK)
    template = replace(keys.storage_key(), key_usage=KeyUsage.MIGRATE)
    authority = keys.load(
        owned.client, root, keys.create(owned.client, root, template, USAGE), USAGE
    )
    request = MigrateKey(authority.handle, owned.prepared.srk, TOO_LONG)
    assert owned.refusal(request, USAGE) == Rc.BAD_DATASIZE


def test_new_auth_for_what_was_not_wrapped_here(owned: Device) -> None:
    with owned.osap_srk() as session, owned.client.oiap(USAGE) as old:
        auth = session.encrypt_auth(USAGE)
        request = ChangeAuth(SRK_HANDLE, 4, auth, EntityType.KEY, TOO_LONG)
        assert owned.refusal_in(request, session, old) == Rc.BAD_DATASIZE


def test_secrets_of_keys_and_sessions(owned: Device) -> None:
    hidden = TransportPublic(TransportAttribute.ENCRYPT, 7, 1)
    identity, bind = owned.load("identity").handle, owned.load("bind").handle
    for request, secrets in (
        (ActivateIdentity(identity, TOO_LONG), (USAGE, OWNER)),
        (UnBind(bind, bytes(129)), (USAGE,)),
        (EstablishTransport(SRK_HANDLE, hidden, TOO_LONG), (SRK,)),
    ):
        assert owned.refusal(request, *secrets) == Rc.BAD_DATASIZE, request


def test_new_auth_under_an_ephemeral_key(owned: Device) -> None:
    parms = keys.binding_key(bits=1024).algorithm_parms
    assert (parms.enc_scheme, parms.sig_scheme) == (EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE)
    start = ChangeAuthAsymStart(owned.load("identity").handle, ZEROS, parms)
    ephemeral = owned.run(start, USAGE).eph_handle
    enc_data = owned.key("signing").enc_data
    finish = ChangeAuthAsymFinish(
        SRK_HANDLE, ephemeral, EntityType.KEY, ZEROS, bytes(129), enc_data
    )
    assert owned.refusal(finish, OWNER) == Rc.BAD_DATASIZE
    # Actions 2 and 3 look at the entity before action 4 wants the ephemeral key.
    no_entity = replace(finish, enc_data=TOO_LONG)
    assert owned.refusal(no_entity, OWNER) == Rc.BAD_DATASIZE
    for handle in (SRK_HANDLE, NO_HANDLE):
        other = replace(finish, eph_handle=handle, enc_data=bytes(256))
        assert owned.refusal(other, OWNER) == Rc.DECRYPT_ERROR


def test_the_first_owner(endorsed: Device) -> None:
    good = oaep_encrypt(to_public_key(endorsed.ek), OWNER.reveal())
    request = TakeOwnership(5, TOO_LONG, good, keys.storage_key())
    assert endorsed.refusal(request, OWNER) == Rc.BAD_DATASIZE
