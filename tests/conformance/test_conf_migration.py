"""Migration of keys with a migration secret of their own (Part 3 sections 11.1 to 11.4)."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from conformance_rig import MIGRATION, OWNER, SRK, SRK_HANDLE, USAGE, WRONG, ZEROS, Device
from cryptography.hazmat.primitives.asymmetric import rsa
from engine_rig import OAEP

from hwtpm.client import keys
from hwtpm.client.rsa import from_public_key, oaep_encrypt, public_part, rsa_parms, to_public_key
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.migration import (
    AuthorizeMigrationKey,
    ConvertMigrationBlob,
    CreateMigrationBlob,
    CreateMigrationBlobReply,
    MigrateKey,
)
from hwtpm.tpm12.const import EncScheme, KeyFlag, KeyUsage, MigrateScheme, Payload, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import Key, PubKey, StoreAsymKey
from hwtpm.tpm12.types.migration import MigrateAsymKey, MigrationKeyAuth

OUTSIDE = rsa.generate_private_key(65537, 2048)
OUTSIDE_PUBLIC = from_public_key(
    OUTSIDE.public_key(), enc_scheme=EncScheme.RSA_OAEP_SHA1_MGF1, sig_scheme=SigScheme.NONE
)
SMALL_PUBLIC = replace(
    from_public_key(rsa.generate_private_key(65537, 1024).public_key()),
    algorithm_parms=rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE, bits=1024),
)
MIGRATE, REWRAP = MigrateScheme.MIGRATE, MigrateScheme.REWRAP


def authorised(tpm: Device, key: PubKey, scheme: int = MIGRATE) -> MigrationKeyAuth:
    return tpm.run(AuthorizeMigrationKey(scheme, key), OWNER).out_data


def migratable(tpm: Device, bits: int = 1024) -> Key:
    template = keys.signing_key(bits=bits, flags=KeyFlag.MIGRATABLE)
    return keys.create(tpm.client, keys.srk(SRK), template, USAGE, MIGRATION)


def blob_of(tpm: Device, key: Key, to: PubKey) -> CreateMigrationBlobReply:
    request = CreateMigrationBlob(SRK_HANDLE, MIGRATE, authorised(tpm, to), key.enc_data)
    return tpm.run(request, SRK, MIGRATION)


def can_sign(tpm: Device, key: Key) -> bool:
    ref = keys.load(tpm.client, keys.srk(SRK), key, USAGE)
    signature = keys.sign(tpm.client, ref, ZEROS)
    keys.flush(tpm.client, ref.handle)
    return len(signature) == len(key.pub_key)


# --- 11.3 TPM_AuthorizeMigrationKey ---------------------------------------------------------------


def test_an_authorised_key_comes_back_with_its_digest(owned: Device) -> None:
    given = authorised(owned, OUTSIDE_PUBLIC, REWRAP)
    assert (given.migration_key, given.migration_scheme) == (OUTSIDE_PUBLIC, REWRAP)
    assert given == authorised(owned, OUTSIDE_PUBLIC, REWRAP)
    assert given.digest != authorised(owned, OUTSIDE_PUBLIC, MIGRATE).digest


def test_only_strong_encryption_keys_are_authorised(owned: Device) -> None:
    def refusal(key: PubKey, *secrets: Secret) -> int:
        return owned.refusal(AuthorizeMigrationKey(MIGRATE, key), *(secrets or (OWNER,)))

    assert refusal(SMALL_PUBLIC) == Rc.BAD_KEY_PROPERTY
    assert refusal(SMALL_PUBLIC, WRONG) == Rc.BAD_KEY_PROPERTY  # action 1 before action 2
    oaep, none = EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE
    explicit = replace(
        OUTSIDE_PUBLIC, algorithm_parms=rsa_parms(oaep, none, exponent=b"\x01\x00\x01")
    )
    assert refusal(explicit) == Rc.SUCCESS
    three = replace(OUTSIDE_PUBLIC, algorithm_parms=rsa_parms(oaep, none, exponent=b"\x03"))
    assert refusal(three) == Rc.BAD_KEY_PROPERTY
    assert refusal(from_public_key(OUTSIDE.public_key())) == Rc.INAPPROPRIATE_ENC
    assert refusal(from_public_key(OUTSIDE.public_key()), WRONG) == Rc.AUTHFAIL
    other = replace(OUTSIDE_PUBLIC.algorithm_parms, algorithm_id=4)
    assert refusal(replace(OUTSIDE_PUBLIC, algorithm_parms=other)) == Rc.BAD_KEY_PROPERTY
    short = replace(OUTSIDE_PUBLIC, pub_key=OUTSIDE_PUBLIC.pub_key[:128])
    code = owned.expected("migration key whose modulus is too short", Rc.BAD_KEY_PROPERTY)
    assert refusal(short) == code


# --- 11.1 TPM_CreateMigrationBlob -----------------------------------------------------------------


@pytest.mark.parametrize(("bits", "size"), [(2048, 198), (1024, 134), (512, 102)])
def test_a_migration_blob_is_the_key_in_all_its_layers(owned: Device, bits: int, size: int) -> None:
    """Taken apart here, by `hashlib` and `cryptography` alone."""
    key = migratable(owned, bits)
    blob = blob_of(owned, key, OUTSIDE_PUBLIC)
    x1 = OUTSIDE.decrypt(blob.out_data, OAEP)
    assert len(x1) == len(blob.random) == size
    o1 = bytes(a ^ b for a, b in zip(x1, blob.random, strict=True))

    def mask(seed: bytes, length: int) -> bytes:
        parts = (hashlib.sha1(seed + i.to_bytes(4, "big")).digest() for i in range(13))
        return b"".join(parts)[:length]

    seed = bytes(a ^ b for a, b in zip(o1[:20], mask(o1[20:], 20), strict=True))
    db = bytes(a ^ b for a, b in zip(o1[20:], mask(seed, size - 20), strict=True))
    assert db[:20] == MIGRATION.reveal()
    m1 = MigrateAsymKey.decode(db[21:])
    assert db[20:21] == b"\x01"
    assert m1.payload == Payload.MIGRATE
    assert m1.usage_auth == USAGE.reveal()
    assert m1.pub_data_digest == hashlib.sha1(key.public_part()).digest()
    assert int.from_bytes(seed[:4], "big") == bits // 16
    prime = int.from_bytes(seed[4:] + m1.part_priv_key, "big")
    assert int.from_bytes(key.pub_key, "big") % prime == 0
    assert 1 < prime.bit_length() <= bits // 2


def test_the_rewrap_mode_keeps_the_contents(owned: Device) -> None:
    key = migratable(owned)
    auth = authorised(owned, OUTSIDE_PUBLIC, REWRAP)
    blob = owned.run(CreateMigrationBlob(SRK_HANDLE, REWRAP, auth, key.enc_data), SRK, MIGRATION)
    assert blob.random == b""
    store = StoreAsymKey.decode(OUTSIDE.decrypt(blob.out_data, OAEP))
    assert store.payload == Payload.ASYM
    assert (store.usage_auth, store.migration_auth) == (USAGE.reveal(), MIGRATION.reveal())
    assert store.pub_data_digest == hashlib.sha1(key.public_part()).digest()


def test_a_rewrapped_key_loads_under_its_new_parent(owned: Device) -> None:
    parent = owned.load("storage")
    key = migratable(owned)
    auth = authorised(owned, public_part(owned.key("storage")), REWRAP)
    blob = owned.run(CreateMigrationBlob(SRK_HANDLE, REWRAP, auth, key.enc_data), SRK, MIGRATION)
    child = keys.load(owned.client, parent, replace(key, enc_data=blob.out_data), USAGE)
    assert len(keys.sign(owned.client, child, ZEROS)) == 128


def test_what_a_migration_blob_needs(owned: Device) -> None:
    key = migratable(owned)
    auth, rewrap = authorised(owned, OUTSIDE_PUBLIC), authorised(owned, OUTSIDE_PUBLIC, REWRAP)

    def refusal(
        kind: int = MIGRATE,
        given: MigrationKeyAuth = auth,
        enc_data: bytes = key.enc_data,
        secrets: tuple[Secret, ...] = (SRK, MIGRATION),
    ) -> int:
        return owned.refusal(CreateMigrationBlob(SRK_HANDLE, kind, given, enc_data), *secrets)

    assert refusal(secrets=(WRONG, MIGRATION)) == Rc.AUTHFAIL
    assert refusal(secrets=(SRK, WRONG)) == Rc.AUTH2FAIL
    assert refusal(secrets=(MIGRATION,)) == Rc.AUTHFAIL
    assert refusal(enc_data=owned.key("signing").enc_data) == Rc.AUTH2FAIL  # only tpmProof does
    assert refusal(enc_data=bytes(256)) == Rc.DECRYPT_ERROR
    assert refusal(enc_data=b"") == Rc.DECRYPT_ERROR
    assert refusal(given=replace(auth, digest=ZEROS)) == Rc.AUTHFAIL
    assert refusal(9, replace(auth, digest=ZEROS)) == Rc.AUTHFAIL
    assert refusal(given=replace(auth, migration_scheme=REWRAP)) == Rc.AUTHFAIL
    assert refusal(9) == Rc.BAD_PARAMETER
    assert refusal(9, authorised(owned, OUTSIDE_PUBLIC, 9)) == Rc.BAD_PARAMETER
    code = owned.expected("authorised for another migration scheme", Rc.BAD_PARAMETER)
    assert refusal(REWRAP, auth) == code
    assert refusal(MIGRATE, rewrap) == code
    signing = owned.load("signing")
    request = CreateMigrationBlob(signing.handle, MIGRATE, auth, key.enc_data)
    assert owned.refusal(request, USAGE, MIGRATION) == Rc.INVALID_KEYUSAGE


def test_the_session_of_the_migrated_key_is_an_oiap_one(owned: Device) -> None:
    key, auth = migratable(owned), authorised(owned, OUTSIDE_PUBLIC)
    request = CreateMigrationBlob(SRK_HANDLE, MIGRATE, auth, key.enc_data)
    with owned.osap_srk() as parent, owned.osap_srk() as entity:
        assert owned.refusal_in(request, parent, entity) == Rc.BAD_MODE


def test_a_parent_without_authorisation_leaves_one_session(owned: Device) -> None:
    root = keys.srk(SRK)
    made = keys.create(owned.client, root, keys.storage_key(needs_auth=False))
    parent = keys.load(owned.client, root, made)
    template = keys.signing_key(bits=1024, flags=KeyFlag.MIGRATABLE)
    key = keys.create(owned.client, parent, template, USAGE, MIGRATION)
    request = CreateMigrationBlob(
        parent.handle, MIGRATE, authorised(owned, OUTSIDE_PUBLIC), key.enc_data
    )
    assert owned.refusal(request, MIGRATION) == Rc.SUCCESS


@pytest.mark.parametrize("payload", range(1, 9))
def test_only_ordinary_keys_get_a_migration_blob(owned: Device, payload: int) -> None:
    assert owned.prepared.srk is not None
    store = StoreAsymKey(payload, ZEROS, MIGRATION.reveal(), ZEROS, bytes(128))
    enc_data = oaep_encrypt(to_public_key(owned.prepared.srk), store.encode())
    auth = authorised(owned, OUTSIDE_PUBLIC)
    request = CreateMigrationBlob(SRK_HANDLE, MIGRATE, auth, enc_data)
    cmk = payload in (Payload.MIGRATE_RESTRICTED, Payload.MIGRATE_EXTERNAL)
    expected = Rc.BAD_MIGRATION if cmk else Rc.INVALID_STRUCTURE
    code = owned.refusal(request, SRK, MIGRATION)
    assert code == (Rc.SUCCESS if payload == Payload.ASYM else expected)


# --- 11.2 TPM_ConvertMigrationBlob ----------------------------------------------------------------


def test_a_converted_key_is_the_key_again(owned: Device) -> None:
    assert owned.prepared.srk is not None
    key = migratable(owned)
    blob = blob_of(owned, key, owned.prepared.srk)
    request = ConvertMigrationBlob(SRK_HANDLE, blob.out_data, blob.random)
    converted = replace(key, enc_data=owned.run(request, SRK).out_data)
    assert can_sign(owned, converted)
    again = blob_of(owned, converted, OUTSIDE_PUBLIC)  # its migration secret came along
    assert len(again.random) == 134


def test_what_a_conversion_needs(owned: Device) -> None:
    assert owned.prepared.srk is not None
    blob = blob_of(owned, migratable(owned), owned.prepared.srk)

    def refusal(in_data: bytes, random: bytes, *secrets: Secret) -> int:
        return owned.refusal(ConvertMigrationBlob(SRK_HANDLE, in_data, random), *secrets)

    assert refusal(blob.out_data, blob.random, WRONG) == Rc.AUTHFAIL
    assert refusal(blob.out_data, blob.random) == Rc.AUTHFAIL
    assert refusal(blob.out_data, blob.random[:-1], SRK) == Rc.BAD_PARAMETER
    assert refusal(blob.out_data, b"", SRK) == Rc.BAD_PARAMETER
    assert refusal(blob.out_data, bytes(134), SRK) == Rc.DECRYPT_ERROR
    assert refusal(bytes(256), blob.random, SRK) == Rc.DECRYPT_ERROR
    signing = owned.load("signing")
    request = ConvertMigrationBlob(signing.handle, blob.out_data, blob.random)
    assert owned.refusal(request, USAGE) == Rc.INVALID_KEYUSAGE


def encoded(m1: bytes, seed: bytes) -> bytes:
    """OAEP without padding and with a zero label digest."""

    def masked(data: bytes, by: bytes) -> bytes:
        stream = b"".join(hashlib.sha1(by + i.to_bytes(4, "big")).digest() for i in range(13))
        return bytes(a ^ b for a, b in zip(data, stream, strict=False))

    db = masked(ZEROS + b"\x01" + m1, seed)
    return masked(seed, db) + db


M1 = MigrateAsymKey(Payload.MIGRATE, ZEROS, ZEROS, bytes(112)).encode()
SEED = (128).to_bytes(4, "big") + bytes(16)


@pytest.mark.parametrize(
    ("m1", "seed", "code"),
    [
        (M1, SEED, Rc.SUCCESS),
        (bytes([Payload.CMK_MIGRATE]) + M1[1:], SEED, Rc.BAD_MIGRATION),
        (bytes([Payload.MAINT]) + M1[1:], SEED, Rc.BAD_MIGRATION),
        (M1, b"\x00\x00\xff\xff" + bytes(16), Rc.BAD_PARAM_SIZE),
        (b"\x03abc", SEED, Rc.BAD_PARAM_SIZE),
        (M1 + b"x", SEED, "trailing bytes in a migration blob"),
        (M1, (127).to_bytes(4, "big") + bytes(16), "trailing bytes in a migration blob"),
    ],
)
def test_what_is_in_a_migration_blob(
    owned: Device, m1: bytes, seed: bytes, code: int | str
) -> None:
    assert owned.prepared.srk is not None
    o1 = encoded(m1, seed)
    in_data = oaep_encrypt(to_public_key(owned.prepared.srk), o1)
    request = ConvertMigrationBlob(SRK_HANDLE, in_data, bytes(len(o1)))
    if isinstance(code, str):
        code = owned.expected(code, Rc.BAD_PARAM_SIZE)
    assert owned.refusal(request, SRK) == code


# --- 11.4 TPM_MigrateKey --------------------------------------------------------------------------


@pytest.fixture
def authority(owned: Device) -> tuple[keys.KeyRef, PubKey]:
    root = keys.srk(SRK)
    template = replace(keys.storage_key(), key_usage=KeyUsage.MIGRATE)
    key = keys.create(owned.client, root, template, USAGE)
    return keys.load(owned.client, root, key, USAGE), public_part(key)


def test_an_authority_passes_a_blob_on(
    owned: Device, authority: tuple[keys.KeyRef, PubKey]
) -> None:
    assert owned.prepared.srk is not None
    ref, public = authority
    key = migratable(owned)
    blob = blob_of(owned, key, public)
    passed = owned.run(MigrateKey(ref.handle, owned.prepared.srk, blob.out_data), USAGE).out_data
    request = ConvertMigrationBlob(SRK_HANDLE, passed, blob.random)
    assert can_sign(owned, replace(key, enc_data=owned.run(request, SRK).out_data))


def test_what_an_authority_needs(owned: Device, authority: tuple[keys.KeyRef, PubKey]) -> None:
    ref, public = authority
    blob = oaep_encrypt(to_public_key(public), bytes(198))

    def refusal(
        to: PubKey, data: bytes = blob, handle: int = ref.handle, secret: Secret = USAGE
    ) -> int:
        return owned.refusal(MigrateKey(handle, to, data), secret)

    assert refusal(OUTSIDE_PUBLIC, secret=WRONG) == Rc.AUTHFAIL
    assert refusal(OUTSIDE_PUBLIC, handle=SRK_HANDLE, secret=SRK) == Rc.INVALID_KEYUSAGE
    assert refusal(OUTSIDE_PUBLIC, bytes(256)) == Rc.DECRYPT_ERROR
    assert refusal(OUTSIDE_PUBLIC, b"") == Rc.DECRYPT_ERROR
    assert refusal(SMALL_PUBLIC) == Rc.BAD_DATASIZE
    assert refusal(SMALL_PUBLIC, bytes(256)) == Rc.DECRYPT_ERROR
    assert refusal(from_public_key(OUTSIDE.public_key())) == Rc.INAPPROPRIATE_ENC
    other = replace(OUTSIDE_PUBLIC.algorithm_parms, algorithm_id=4)
    assert refusal(replace(OUTSIDE_PUBLIC, algorithm_parms=other)) == Rc.BAD_KEY_PROPERTY
    v15 = rsa_parms(EncScheme.RSA_PKCS_V15, SigScheme.NONE)
    code = owned.expected("migrating to a key without OAEP", Rc.INAPPROPRIATE_ENC)
    assert refusal(replace(OUTSIDE_PUBLIC, algorithm_parms=v15)) == code
    short = replace(OUTSIDE_PUBLIC, pub_key=OUTSIDE_PUBLIC.pub_key[:128])
    code = owned.expected("migrating to a modulus too short", Rc.BAD_KEY_PROPERTY)
    assert refusal(short) == code
