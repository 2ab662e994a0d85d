"""Keys that move between our engine and libtpms: two TPMs that share nothing but public keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from engine_rig import (
    KEY_AUTH,
    MIGRATION_AUTH,
    OWNER_AUTH,
    SRK,
    SRK_AUTH,
    Loaded,
    Rig,
    key12,
    new_identity,
    owned_engine,
    owned_libtpms,
    template,
    verify,
)

from hwtpm.client.rsa import from_public_key, public_part
from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.migration import (
    AuthorizeMigrationKey,
    CmkApproveMA,
    CmkConvertMigration,
    CmkCreateBlob,
    CmkCreateKey,
    CmkCreateTicket,
    ConvertMigrationBlob,
    CreateMigrationBlob,
    MigrateKey,
)
from hwtpm.tpm12.const import (
    AuthDataUsage,
    KeyFlag,
    KeyUsage,
    MigrateScheme,
    ResourceType,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import Key, PubKey
from hwtpm.tpm12.types.migration import CmkAuth, MigrationKeyAuth, MsaComposite

AUTHORITY = rsa.generate_private_key(65537, 2048)
SIGNS = from_public_key(AUTHORITY.public_key())
CMK = KeyFlag.MIGRATABLE | KeyFlag.MIGRATE_AUTHORITY


@dataclass(frozen=True)
class Tpms:
    """The two TPMs by name, and their SRKs."""

    rigs: dict[str, Rig]
    srks: dict[str, PubKey]

    def pair(self, source: str) -> tuple[Rig, Rig, PubKey]:
        """Source, destination, and the destination's SRK."""
        (destination,) = set(self.rigs) - {source}
        return self.rigs[source], self.rigs[destination], self.srks[destination]


@pytest.fixture(scope="module")
def tpms() -> Iterator[Tpms]:
    libtpms = owned_libtpms(MemoryStorage())
    rigs = {"engine": Rig(owned_engine(new_identity())), "libtpms": Rig(libtpms)}
    srks = {
        name: rig.run(OwnerReadInternalPub(SRK), OWNER_AUTH).public_portion
        for name, rig in rigs.items()
    }
    try:
        yield Tpms(rigs, srks)
    finally:
        libtpms.close()


either_way = pytest.mark.parametrize("source", ["engine", "libtpms"])


def authorise(rig: Rig, key: PubKey, scheme: int) -> MigrationKeyAuth:
    return rig.run(AuthorizeMigrationKey(scheme, key), OWNER_AUTH).out_data


def check_signs(rig: Rig, key: Key) -> None:
    """The key loads under the SRK and signs with its usage secret."""
    loaded = rig.load(key)
    signature = rig.run(Sign(loaded.handle, hashlib.sha1(b"text").digest()), KEY_AUTH).sig
    verify(key.pub_key, signature, b"text")
    rig.run(FlushSpecific(loaded.handle, ResourceType.KEY))


def migratable(bits: int) -> Key:
    return template(KeyUsage.SIGNING, bits, key_flags=KeyFlag.MIGRATABLE)


@either_way
@pytest.mark.parametrize("bits", [512, 1024, 2048])
def test_a_key_migrates(tpms: Tpms, source: str, bits: int) -> None:
    here, there, srk = tpms.pair(source)
    key = here.create_key(migratable(bits))
    auth = authorise(here, srk, MigrateScheme.MIGRATE)
    request = CreateMigrationBlob(SRK, MigrateScheme.MIGRATE, auth, key.enc_data)
    blob = here.run(request, SRK_AUTH, MIGRATION_AUTH)
    convert = ConvertMigrationBlob(SRK, blob.out_data, blob.random)
    arrived = replace(key, enc_data=there.run(convert, SRK_AUTH).out_data)
    check_signs(there, arrived)
    assert here.refusal(convert, SRK_AUTH) == Rc.DECRYPT_ERROR

    # And back, by its migration secret, which came along.
    back = authorise(there, tpms.srks[source], MigrateScheme.MIGRATE)
    request = CreateMigrationBlob(SRK, MigrateScheme.MIGRATE, back, arrived.enc_data)
    blob = there.run(request, SRK_AUTH, MIGRATION_AUTH)
    convert = ConvertMigrationBlob(SRK, blob.out_data, blob.random)
    check_signs(here, replace(key, enc_data=here.run(convert, SRK_AUTH).out_data))


@either_way
def test_a_key_is_rewrapped(tpms: Tpms, source: str) -> None:
    here, there, srk = tpms.pair(source)
    key = here.create_key(key12(migratable(2048)))
    auth = authorise(here, srk, MigrateScheme.REWRAP)
    request = CreateMigrationBlob(SRK, MigrateScheme.REWRAP, auth, key.enc_data)
    blob = here.run(request, SRK_AUTH, MIGRATION_AUTH)
    check_signs(there, replace(key, enc_data=blob.out_data))


@either_way
def test_a_whole_storage_tree_follows_its_root(tpms: Tpms, source: str) -> None:
    here, there, srk = tpms.pair(source)
    parent = here.make_key(template(KeyUsage.STORAGE, key_flags=KeyFlag.MIGRATABLE))
    child = here.create_key(migratable(1024), parent.handle, KEY_AUTH)
    auth = authorise(here, srk, MigrateScheme.REWRAP)
    request = CreateMigrationBlob(SRK, MigrateScheme.REWRAP, auth, parent.key.enc_data)
    blob = here.run(request, SRK_AUTH, MIGRATION_AUTH)
    arrived = there.load(replace(parent.key, enc_data=blob.out_data))
    loaded = there.load(child, arrived.handle, KEY_AUTH)
    digest = hashlib.sha1(b"text").digest()
    verify(child.pub_key, there.run(Sign(loaded.handle, digest), KEY_AUTH).sig, b"text")
    for rig, handle in (
        (here, parent.handle),
        (there, loaded.handle),
        (there, arrived.handle),
    ):
        rig.run(FlushSpecific(handle, ResourceType.KEY))


@either_way
@pytest.mark.parametrize("needs_auth", [True, False])
def test_a_migration_authority_stands_between(tpms: Tpms, source: str, needs_auth: bool) -> None:
    """The source's own SRK tree holds the authority's key; the blob goes source, authority on the
    destination's engine, destination."""
    here, there, srk = tpms.pair(source)
    usage = AuthDataUsage.ALWAYS if needs_auth else AuthDataUsage.NEVER
    authority = there.make_key(template(KeyUsage.MIGRATE, auth_data_usage=usage))
    key = here.create_key(migratable(1024))
    auth = authorise(here, authority.public, MigrateScheme.MIGRATE)
    request = CreateMigrationBlob(SRK, MigrateScheme.MIGRATE, auth, key.enc_data)
    blob = here.run(request, SRK_AUTH, MIGRATION_AUTH)
    secrets = (KEY_AUTH,) if needs_auth else ()
    passed = there.run(MigrateKey(authority.handle, srk, blob.out_data), *secrets).out_data
    convert = ConvertMigrationBlob(SRK, passed, blob.random)
    check_signs(there, replace(key, enc_data=there.run(convert, SRK_AUTH).out_data))
    there.run(FlushSpecific(authority.handle, ResourceType.KEY))


def certified(rig: Rig, msa: MsaComposite, key: Key) -> Key:
    approval = rig.run(CmkApproveMA(msa.digest()), OWNER_AUTH).out_data
    with rig.osap(SRK, SRK_AUTH) as session:
        usage_auth = session.encrypt_auth(Secret(KEY_AUTH))
        request = CmkCreateKey(SRK, usage_auth, key, approval, msa.digest())
        return rig.client.execute(request, session).wrapped_key


def ticket(rig: Rig, approved: CmkAuth) -> bytes:
    """The TPM's note that the authority signed the approval."""
    signed = approved.encode()
    signature = AUTHORITY.sign(signed, padding.PKCS1v15(), hashes.SHA1())
    request = CmkCreateTicket(SIGNS, hashlib.sha1(signed).digest(), signature)
    return rig.run(request, OWNER_AUTH).sig_ticket


def move_certified(
    here: Rig, there: Rig, to: PubKey, key: Key, msa: MsaComposite, via: Loaded | None = None
) -> Key:
    """The certified key under the SRK of the other TPM, directly or by an authority's key."""
    source = public_part(key).digest()
    approved = CmkAuth(SIGNS.digest(), to.digest(), source)
    if via is None:
        auth = authorise(here, to, MigrateScheme.RESTRICT_APPROVE)
        restricted, signed = approved.encode(), ticket(here, approved)
    else:
        auth = authorise(here, via.public, MigrateScheme.RESTRICT_MIGRATE)
        restricted = signed = b""
    request = CmkCreateBlob(
        SRK, auth.migration_scheme, auth, source, msa, restricted, signed, key.enc_data
    )
    blob = here.run(request, SRK_AUTH)
    outside = blob.out_data
    if via is not None:
        outside = there.run(MigrateKey(via.handle, to, outside), KEY_AUTH).out_data
    moving = replace(key, enc_data=outside)
    convert = CmkConvertMigration(SRK, approved, ticket(there, approved), moving, msa, blob.random)
    return replace(key, enc_data=there.run(convert, SRK_AUTH).out_data)


@either_way
def test_a_certified_key_goes_where_its_authority_approves(tpms: Tpms, source: str) -> None:
    here, there, srk = tpms.pair(source)
    msa = MsaComposite((bytes(20), SIGNS.digest()))
    key = certified(here, msa, key12(template(KeyUsage.SIGNING, 1024, key_flags=CMK)))
    check_signs(here, key)
    arrived = move_certified(here, there, srk, key, msa)
    check_signs(there, arrived)
    # A key from outside can be approved again, here to go home.
    check_signs(here, move_certified(there, here, tpms.srks[source], arrived, msa))


@either_way
def test_a_certified_key_goes_through_its_authority(tpms: Tpms, source: str) -> None:
    here, there, srk = tpms.pair(source)
    authority = there.make_key(template(KeyUsage.MIGRATE))
    msa = MsaComposite((authority.public.digest(), SIGNS.digest()))
    key = certified(here, msa, key12(template(KeyUsage.SIGNING, 2048, key_flags=CMK)))
    check_signs(there, move_certified(here, there, srk, key, msa, authority))
    there.run(FlushSpecific(authority.handle, ResourceType.KEY))


@either_way
def test_tickets_are_good_on_the_tpm_that_made_them_alone(tpms: Tpms, source: str) -> None:
    here, there, srk = tpms.pair(source)
    key = here.create_key(migratable(1024))
    auth = authorise(there, srk, MigrateScheme.MIGRATE)
    request = CreateMigrationBlob(SRK, MigrateScheme.MIGRATE, auth, key.enc_data)
    assert here.refusal(request, SRK_AUTH, MIGRATION_AUTH) == Rc.AUTHFAIL

    msa = MsaComposite((SIGNS.digest(),))
    approval = there.run(CmkApproveMA(msa.digest()), OWNER_AUTH).out_data
    wanted = key12(template(KeyUsage.SIGNING, 1024, key_flags=CMK))
    with here.osap(SRK, SRK_AUTH) as session:
        usage_auth = session.encrypt_auth(Secret(KEY_AUTH))
        create = CmkCreateKey(SRK, usage_auth, wanted, approval, msa.digest())
        with pytest.raises(TpmError) as refused:
            here.client.execute(create, session)
    assert refused.value.rc == Rc.MA_AUTHORITY

    made = certified(here, msa, wanted)
    source_digest = public_part(made).digest()
    approved = CmkAuth(SIGNS.digest(), srk.digest(), source_digest)
    to_srk = authorise(here, srk, MigrateScheme.RESTRICT_APPROVE)
    blob = CmkCreateBlob(
        SRK,
        MigrateScheme.RESTRICT_APPROVE,
        to_srk,
        source_digest,
        msa,
        approved.encode(),
        ticket(there, approved),
        made.enc_data,
    )
    assert here.refusal(blob, SRK_AUTH) == Rc.MA_TICKET_SIGNATURE
    assert there.refusal(replace(blob, enc_data=key.enc_data), SRK_AUTH) == Rc.DECRYPT_ERROR
