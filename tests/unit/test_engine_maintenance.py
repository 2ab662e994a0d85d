"""Maintenance (Part 3 section 12) against a manufacturer made of `cryptography` and `hashlib`.

No other implementation at hand has these commands.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from engine_rig import (
    DATA_AUTH,
    OAEP,
    OWNER_AUTH,
    SRK,
    SRK_AUTH,
    Identity,
    Rig,
    new_identity,
    public_of,
)

from hwtpm.client.rsa import from_public_key, rsa_parms
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.state import encode_permanent, fresh_permanent
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.maintenance import (
    CreateMaintenanceArchive,
    KillMaintenanceFeature,
    LoadMaintenanceArchive,
    LoadManuMaintPub,
    ReadManuMaintPub,
)
from hwtpm.tpm12.commands.optin import PhysicalEnable, PhysicalSetDeactivated
from hwtpm.tpm12.commands.ownership import DisableOwnerClear, OwnerClear, PhysicalPresence
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.commands.storage import Unseal
from hwtpm.tpm12.const import EncScheme, KeyFlag, Payload, SigScheme, StartupType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import Key, KeyParms, PubKey
from hwtpm.tpm12.types.migration import MigrateAsymKey

MANUFACTURER = rsa.generate_private_key(65537, 2048)
PUBLIC = from_public_key(
    MANUFACTURER.public_key(), enc_scheme=EncScheme.RSA_OAEP_SHA1_MGF1, sig_scheme=SigScheme.NONE
)
NULL_KEY = PubKey(KeyParms(0, 0, 0, b""), b"")
NONCE = b"n" * 20
O1_SIZE = 198


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def xored(data: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, mask, strict=True))


def mgf1(seed: bytes, size: int) -> bytes:
    return b"".join(sha1(seed + i.to_bytes(4, "big")) for i in range(size // 20 + 1))[:size]


# --- TPMs -----------------------------------------------------------------------------------------


def made(*, maintenance: bool = True) -> Rig:
    """A TPM from the factory, started."""
    storage = MemoryStorage()
    state = fresh_permanent(lambda size: b"\x5a" * size, maintenance=maintenance)
    storage.store(StateName.PERMANENT, encode_permanent(state))
    rig = Rig(Engine(storage))
    restart(rig)
    return rig


def engine_of(rig: Rig) -> Engine:
    assert isinstance(rig.wire.tpm, Engine)
    return rig.wire.tpm


def restart(rig: Rig) -> None:
    engine_of(rig).power_on()
    rig.run(Startup(StartupType.CLEAR))


def own(rig: Rig, identity: Identity, owner_auth: bytes = OWNER_AUTH) -> Rig:
    engine = engine_of(rig)
    engine.permanent = replace(
        engine.permanent,
        ek=identity.ek,
        srk=identity.srk,
        tpm_proof=identity.tpm_proof,
        owner_auth=owner_auth,
    )
    return rig


def maintained(identity: Identity, owner_auth: bytes = OWNER_AUTH) -> Rig:
    """An owned TPM that knows the manufacturer."""
    rig = made()
    rig.run(LoadManuMaintPub(NONCE, PUBLIC))
    return own(rig, identity, owner_auth)


@pytest.fixture(scope="module")
def identities() -> tuple[Identity, Identity]:
    return new_identity(), replace(new_identity(), tpm_proof=sha1(b"another"))


@pytest.fixture
def source(identities: tuple[Identity, Identity]) -> Rig:
    return maintained(identities[0])


@pytest.fixture
def target(identities: tuple[Identity, Identity]) -> Rig:
    return maintained(identities[1])


# --- the manufacturer -----------------------------------------------------------------------------


def signed(archive: bytes, by: rsa.RSAPrivateKey = MANUFACTURER) -> bytes:
    return by.sign(archive, padding.PKCS1v15(), hashes.SHA1())


def readdressed(archive: bytes, target: Rig) -> bytes:
    """What the manufacturer does: decrypt, and encrypt to the SRK of the replacement."""
    key = Key.decode(archive)
    srk = target.run(OwnerReadInternalPub(SRK), OWNER_AUTH).public_portion
    return repacked(key, MANUFACTURER.decrypt(key.enc_data, OAEP), srk.pub_key)


def repacked(key: Key, x1: bytes, modulus: bytes) -> bytes:
    return replace(key, enc_data=public_of(modulus).encrypt(x1, OAEP)).encode()


def loading(archive: bytes, random: bytes = b"") -> LoadMaintenanceArchive:
    return LoadMaintenanceArchive(archive, signed(archive), random)


def flags_of(rig: Rig) -> tuple[bool, bool]:
    """allowMaintenance and maintenanceDone."""
    flags = engine_of(rig).permanent.flags
    return flags.allow_maintenance, flags.maintenance_done


def revived(rig: Rig) -> None:
    """TPM_OwnerClear leaves a TPM disabled and deactivated."""
    rig.run(PhysicalPresence(0x0020))
    rig.run(PhysicalPresence(0x0008))
    rig.run(PhysicalEnable())
    rig.run(PhysicalSetDeactivated(False))
    restart(rig)


# --- 12.4 and 12.5: the manufacturer's key --------------------------------------------------------


def test_the_manufacturers_key_is_taken_once() -> None:
    rig = made()
    assert rig.refusal(ReadManuMaintPub(NONCE)) == Rc.KEYNOTFOUND
    checksum = sha1(PUBLIC.encode() + NONCE)
    assert rig.run(LoadManuMaintPub(NONCE, PUBLIC)).checksum == checksum
    assert rig.refusal(LoadManuMaintPub(NONCE, PUBLIC)) == Rc.DISABLED_CMD
    restart(rig)
    assert rig.run(ReadManuMaintPub(NONCE)).checksum == checksum
    assert rig.refusal(LoadManuMaintPub(NONCE, PUBLIC)) == Rc.DISABLED_CMD


def test_a_key_that_is_refused_leaves_the_place_open() -> None:
    rig = made()
    small = rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE, bits=1024)
    for parms, modulus, code in (
        (small, PUBLIC.pub_key[:128], Rc.BAD_KEY_PROPERTY),
        (PUBLIC.algorithm_parms, PUBLIC.pub_key[:128], Rc.BAD_KEY_PROPERTY),
        (from_public_key(MANUFACTURER.public_key()).algorithm_parms, PUBLIC.pub_key, 0x0E),
    ):
        assert rig.refusal(LoadManuMaintPub(NONCE, PubKey(parms, modulus))) == code
    assert rig.refusal(LoadManuMaintPub(NONCE, PUBLIC)) == Rc.SUCCESS


def test_the_null_key_closes_the_place_for_ever(
    identities: tuple[Identity, Identity],
) -> None:
    rig = made()
    assert rig.run(LoadManuMaintPub(NONCE, NULL_KEY)).checksum == sha1(NULL_KEY.encode() + NONCE)
    assert rig.refusal(LoadManuMaintPub(NONCE, PUBLIC)) == Rc.DISABLED_CMD
    own(rig, identities[0])
    assert rig.refusal(CreateMaintenanceArchive(False), OWNER_AUTH) == Rc.KEYNOTFOUND
    rig.run(OwnerClear(), OWNER_AUTH)
    assert flags_of(rig) == (False, False)


def test_a_tpm_made_without_the_feature_gets_it_in_no_way(
    identities: tuple[Identity, Identity],
) -> None:
    rig = own(made(maintenance=False), identities[0])
    assert flags_of(rig) == (False, False)
    assert rig.refusal(LoadManuMaintPub(NONCE, PUBLIC)) == Rc.DISABLED_CMD
    assert rig.refusal(ReadManuMaintPub(NONCE)) == Rc.KEYNOTFOUND
    assert rig.refusal(CreateMaintenanceArchive(True), OWNER_AUTH) == Rc.DISABLED_CMD
    assert rig.refusal(CreateMaintenanceArchive(True), b"w" * 20) == Rc.DISABLED_CMD
    assert rig.refusal(loading(bytes(600)), OWNER_AUTH) == Rc.KEYNOTFOUND
    rig.run(KillMaintenanceFeature(), OWNER_AUTH)
    rig.run(OwnerClear(), OWNER_AUTH)
    assert flags_of(rig) == (False, False)


# --- 12.1: the archive ----------------------------------------------------------------------------


@pytest.mark.parametrize("random", [True, False])
def test_the_archive_is_laid_out_as_12_1_says(
    source: Rig, identities: tuple[Identity, Identity], random: bool
) -> None:
    reply = source.run(CreateMaintenanceArchive(random), OWNER_AUTH)
    srk = identities[0].srk
    key = Key.decode(reply.archive)
    assert replace(key, enc_data=b"") == srk.key
    x1 = MANUFACTURER.decrypt(key.enc_data, OAEP)
    assert len(x1) == O1_SIZE
    assert len(reply.random) == (O1_SIZE if random else 0)
    o1 = xored(x1, reply.random or mgf1(OWNER_AUTH, O1_SIZE))
    seed = xored(o1[:20], mgf1(o1[20:], 20))
    db = xored(o1[20:], mgf1(seed, O1_SIZE - 20))
    assert db[:20] == OWNER_AUTH
    assert db[20:21] == b"\x01"
    m1 = MigrateAsymKey.decode(db[21:])
    assert m1.payload == Payload.MAINT
    assert m1.usage_auth == identities[0].tpm_proof
    assert m1.pub_data_digest == sha1(srk.key.public_part())
    assert seed + m1.part_priv_key == (128).to_bytes(4, "big") + srk.prime
    assert flags_of(source) == (True, True)


def test_two_random_archives_differ(source: Rig) -> None:
    first, second = (source.run(CreateMaintenanceArchive(True), OWNER_AUTH) for _ in range(2))
    assert first.random != second.random


def test_what_an_archive_needs(identities: tuple[Identity, Identity], source: Rig) -> None:
    assert source.refusal(CreateMaintenanceArchive(False), b"w" * 20) == Rc.AUTHFAIL
    assert flags_of(source) == (True, False)
    rig = own(made(), identities[0])
    assert rig.refusal(CreateMaintenanceArchive(False), OWNER_AUTH) == Rc.KEYNOTFOUND
    assert flags_of(rig) == (True, False)


# --- 12.3 and 6.2: killed, and back after a clear -------------------------------------------------


def test_a_killed_feature_comes_back_with_the_next_owner(
    source: Rig, identities: tuple[Identity, Identity]
) -> None:
    source.run(CreateMaintenanceArchive(False), OWNER_AUTH)
    assert source.refusal(KillMaintenanceFeature(), b"w" * 20) == Rc.AUTHFAIL
    source.run(KillMaintenanceFeature(), OWNER_AUTH)
    restart(source)
    assert flags_of(source) == (False, True)
    assert source.refusal(CreateMaintenanceArchive(False), OWNER_AUTH) == Rc.DISABLED_CMD
    source.run(OwnerClear(), OWNER_AUTH)
    assert flags_of(source) == (True, False)
    revived(source)
    own(source, identities[1])
    assert source.run(ReadManuMaintPub(NONCE)).checksum == sha1(PUBLIC.encode() + NONCE)
    assert source.refusal(CreateMaintenanceArchive(False), OWNER_AUTH) == Rc.SUCCESS


# --- 12.2: into the replacement -------------------------------------------------------------------


@pytest.mark.parametrize("random", [True, False])
def test_the_replacement_unseals_what_the_first_sealed(
    source: Rig, identities: tuple[Identity, Identity], random: bool
) -> None:
    """With a random string the two owners need not have the same AuthData."""
    blob = source.seal(b"sealed by the first")
    reply = source.run(CreateMaintenanceArchive(random), OWNER_AUTH)
    old_auth = b"p" * 20 if random else OWNER_AUTH
    target = maintained(identities[1])
    archive = readdressed(reply.archive, target)
    engine = engine_of(target)
    engine.permanent = replace(engine.permanent, owner_auth=old_auth)

    target.run(loading(archive, reply.random), old_auth)

    permanent = engine.permanent
    assert permanent.flags.disable
    assert permanent.flags.deactivated
    assert flags_of(target) == (True, True)
    assert permanent.ek == identities[1].ek
    assert permanent.srk is not None
    assert permanent.srk.key == identities[0].srk.key
    assert permanent.srk.usage_auth == OWNER_AUTH  # action 6.a.i
    assert (permanent.tpm_proof, permanent.owner_auth) == (identities[0].tpm_proof, OWNER_AUTH)
    revived(target)
    assert target.run(Unseal(SRK, blob), OWNER_AUTH, DATA_AUTH).secret == b"sealed by the first"
    assert source.unseal(blob, parent_auth=SRK_AUTH) == b"sealed by the first"


def test_an_archive_without_random_needs_the_same_owner_auth(
    source: Rig, identities: tuple[Identity, Identity]
) -> None:
    reply = source.run(CreateMaintenanceArchive(False), OWNER_AUTH)
    target = maintained(identities[1])
    archive = readdressed(reply.archive, target)
    engine = engine_of(target)
    engine.permanent = replace(engine.permanent, owner_auth=b"p" * 20)
    before = engine.permanent
    assert target.refusal(loading(archive), b"p" * 20) == Rc.DECRYPT_ERROR
    assert engine.permanent == before


def test_what_a_replacement_takes(source: Rig, target: Rig) -> None:
    reply = source.run(CreateMaintenanceArchive(True), OWNER_AUTH)
    archive, random = readdressed(reply.archive, target), reply.random
    before = engine_of(target).permanent
    stranger = rsa.generate_private_key(65537, 2048)

    def refusal(request: LoadMaintenanceArchive, auth: bytes = OWNER_AUTH) -> int:
        return target.refusal(request, auth)

    for sig in (b"", signed(archive, stranger), signed(reply.archive), bytes(256)):
        assert refusal(LoadMaintenanceArchive(archive, sig, random)) == Rc.BAD_SIGNATURE
    assert refusal(loading(reply.archive, random)) == Rc.DECRYPT_ERROR  # not for this TPM's SRK
    assert refusal(loading(reply.archive)) == Rc.DECRYPT_ERROR
    assert refusal(loading(archive, bytes(O1_SIZE))) == Rc.DECRYPT_ERROR
    assert refusal(loading(archive, random[:-1])) == Rc.BAD_PARAMETER
    assert refusal(loading(archive)) == Rc.DECRYPT_ERROR
    assert refusal(loading(archive + b"x", random)) == Rc.BAD_PARAM_SIZE
    assert refusal(loading(b"", random)) == Rc.BAD_PARAM_SIZE
    key = Key.decode(archive)
    for changed, code in (
        (replace(key, key_flags=int(KeyFlag.MIGRATABLE)), Rc.INVALID_KEYUSAGE),
        (replace(key, key_usage=0x10), Rc.INVALID_KEYUSAGE),
        (replace(key, auth_data_usage=0), Rc.AUTHFAIL),  # not what pubDataDigest is of
        (replace(key, pub_key=PUBLIC.pub_key), Rc.AUTHFAIL),
    ):
        assert refusal(loading(changed.encode(), random)) == code
    assert engine_of(target).permanent == before
    assert refusal(loading(archive, random), b"w" * 20) == Rc.AUTHFAIL


@pytest.mark.parametrize(
    ("payload", "prime", "owner", "code"),
    [
        (Payload.MAINT, True, OWNER_AUTH, Rc.SUCCESS),
        (Payload.MIGRATE, True, OWNER_AUTH, Rc.BAD_MIGRATION),
        (Payload.MAINT, False, OWNER_AUTH, Rc.BAD_PARAMETER),
        (Payload.MAINT, True, b"p" * 20, Rc.DECRYPT_ERROR),  # whoever knows this owner, not that
    ],
)
def test_what_is_in_an_archive(
    source: Rig,
    target: Rig,
    identities: tuple[Identity, Identity],
    payload: int,
    prime: bool,
    owner: bytes,
    code: int,
) -> None:
    """Built here from 12.1, by what the manufacturer could know and no TPM."""
    srk = identities[0].srk
    k1k2 = (128).to_bytes(4, "big") + (srk.prime if prime else bytes(127) + b"\x03")
    m1 = MigrateAsymKey(payload, bytes(20), sha1(srk.key.public_part()), k1k2[20:]).encode()
    db = owner + b"\x01" + m1
    masked = xored(db, mgf1(k1k2[:20], len(db)))
    o1 = xored(k1k2[:20], mgf1(masked, 20)) + masked
    archive = repacked(srk.key, xored(o1, mgf1(OWNER_AUTH, len(o1))), identities[1].srk.key.pub_key)
    assert target.refusal(loading(archive), OWNER_AUTH) == code


def test_an_owner_who_disabled_the_clear_disabled_this(source: Rig, target: Rig) -> None:
    reply = source.run(CreateMaintenanceArchive(True), OWNER_AUTH)
    archive = readdressed(reply.archive, target)
    target.run(DisableOwnerClear(), OWNER_AUTH)
    assert target.refusal(loading(archive, reply.random), OWNER_AUTH) == Rc.CLEAR_DISABLED
