"""Certified migration keys (Part 3 sections 11.5 to 11.10)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial

import pytest
from conformance_rig import ONES, OWNER, SRK, SRK_HANDLE, USAGE, WRONG, ZEROS, Device
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from hwtpm.client import keys
from hwtpm.client.rsa import from_public_key, oaep_encrypt, public_part, to_public_key
from hwtpm.client.session import AuthSession
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.capability import GetCapability
from hwtpm.tpm12.commands.cryptography import CertifyKey, CertifyKey2
from hwtpm.tpm12.commands.migration import (
    AuthorizeMigrationKey,
    CmkApproveMA,
    CmkConvertMigration,
    CmkCreateBlob,
    CmkCreateKey,
    CmkCreateTicket,
    CmkSetRestrictions,
    CreateMigrationBlob,
)
from hwtpm.tpm12.const import (
    Capability,
    CapProperty,
    EncScheme,
    KeyFlag,
    KeyUsage,
    MigrateScheme,
    Payload,
    SigScheme,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import KEY12_FORM, LEGACY_FORM, Key, PubKey
from hwtpm.tpm12.types.migration import CmkAuth, MigrateAsymKey, MigrationKeyAuth, MsaComposite

AUTHORITY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
_encryption = partial(
    from_public_key, enc_scheme=EncScheme.RSA_OAEP_SHA1_MGF1, sig_scheme=SigScheme.NONE
)
ENCRYPTS = _encryption(AUTHORITY.public_key())
SIGNS = from_public_key(AUTHORITY.public_key())
BOTH = from_public_key(AUTHORITY.public_key(), enc_scheme=EncScheme.RSA_OAEP_SHA1_MGF1)
SIGNS_INFO = from_public_key(AUTHORITY.public_key(), sig_scheme=SigScheme.RSA_PKCS_V15_INFO)
MSA = MsaComposite((ZEROS, ENCRYPTS.digest(), SIGNS.digest(), BOTH.digest()))
CMK = KeyFlag.MIGRATABLE | KeyFlag.MIGRATE_AUTHORITY
TEMPLATE = replace(keys.signing_key(bits=1024, flags=CMK), form=KEY12_FORM)
RESTRICT_MIGRATE, RESTRICT_APPROVE = MigrateScheme.RESTRICT_MIGRATE, MigrateScheme.RESTRICT_APPROVE


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def signature(data: bytes) -> bytes:
    return AUTHORITY.sign(data, padding.PKCS1v15(), hashes.SHA1())


def approval(tpm: Device, msa: MsaComposite = MSA) -> bytes:
    return tpm.run(CmkApproveMA(msa.digest()), OWNER).out_data


def ticket(tpm: Device, signed: bytes) -> bytes:
    return tpm.run(CmkCreateTicket(SIGNS, sha1(signed), signature(signed)), OWNER).sig_ticket


def creation(
    session: AuthSession, template: Key, given: bytes, digest: bytes, parent: int = SRK_HANDLE
) -> CmkCreateKey:
    return CmkCreateKey(parent, session.encrypt_auth(USAGE), template, given, digest)


def certified(tpm: Device, template: Key = TEMPLATE) -> Key:
    given = approval(tpm)
    with tpm.osap_srk() as session:
        request = creation(session, template, given, MSA.digest())
        return tpm.client.execute(request, session, last=True).wrapped_key


@dataclass(frozen=True)
class Case:
    """A certified migration key, and what its authority says about moving it under the SRK."""

    tpm: Device
    key: Key
    approved: CmkAuth
    ticket: bytes
    to_authority: MigrationKeyAuth
    to_srk: MigrationKeyAuth

    @classmethod
    def on(cls, tpm: Device) -> Case:
        key, srk = certified(tpm), tpm.prepared.srk
        assert srk is not None
        approved = CmkAuth(ZEROS, srk.digest(), public_part(key).digest())
        to_authority = AuthorizeMigrationKey(RESTRICT_MIGRATE, ENCRYPTS)
        to_srk = AuthorizeMigrationKey(RESTRICT_APPROVE, srk)
        return cls(
            tpm,
            key,
            approved,
            ticket(tpm, approved.encode()),
            tpm.run(to_authority, OWNER).out_data,
            tpm.run(to_srk, OWNER).out_data,
        )

    @property
    def source(self) -> bytes:
        return public_part(self.key).digest()

    def migrate(self, **changes: object) -> CmkCreateBlob:
        """The blob for the authority."""
        request = CmkCreateBlob(
            SRK_HANDLE,
            RESTRICT_MIGRATE,
            self.to_authority,
            self.source,
            MSA,
            b"",
            b"",
            self.key.enc_data,
        )
        return replace(request, **changes)  # type: ignore[arg-type]

    def approve(self, approved: bytes | None = None, **changes: object) -> CmkCreateBlob:
        """The blob for the SRK; a changed approval is signed anew."""
        given = self.ticket if approved is None else ticket(self.tpm, approved)
        request = self.migrate(
            migration_key_auth=self.to_srk,
            restrict_ticket=approved or self.approved.encode(),
            sig_ticket=given,
        )
        return replace(request, **changes)  # type: ignore[arg-type]

    def convert(self, approved: CmkAuth | None = None, **changes: object) -> CmkConvertMigration:
        """The conversion of such a blob; a changed approval is signed anew."""
        given = self.ticket if approved is None else ticket(self.tpm, approved.encode())
        blob = self.tpm.run(self.approve(), SRK)
        request = CmkConvertMigration(
            SRK_HANDLE,
            approved or self.approved,
            given,
            replace(self.key, enc_data=blob.out_data),
            MSA,
            blob.random,
        )
        return replace(request, **changes)  # type: ignore[arg-type]

    def refusal(self, request: CmkCreateBlob | CmkConvertMigration, secret: Secret = SRK) -> int:
        return self.tpm.refusal(request, secret)


# --- 11.5 TPM_CMK_SetRestrictions -----------------------------------------------------------------


@pytest.mark.alters
def test_the_owner_sets_the_restrictions_and_anybody_reads_them(owned: Device) -> None:
    asked = GetCapability(Capability.PROPERTY, CapProperty.CMK_RESTRICTION.to_bytes(4, "big"))
    assert owned.run(asked).resp == bytes(4)
    for bits in (0xF8000000, 0x80000000, 0x08000000):
        assert owned.refusal(CmkSetRestrictions(0), WRONG) == Rc.AUTHFAIL
        owned.run(CmkSetRestrictions(bits), OWNER)
        owned.restart()
        assert owned.run(asked).resp == bits.to_bytes(4, "big")
    code = owned.expected("reserved restriction bits", Rc.BAD_PARAMETER)
    assert owned.refusal(CmkSetRestrictions(0x84000000), OWNER) == code
    assert owned.refusal(CmkSetRestrictions(1), OWNER) == code


# --- 11.6 TPM_CMK_ApproveMA and 11.7 TPM_CMK_CreateKey --------------------------------------------


def test_an_approval_is_for_one_list_of_authorities(owned: Device) -> None:
    assert approval(owned) == approval(owned)
    assert approval(owned) != approval(owned, MsaComposite((SIGNS.digest(),)))
    assert owned.refusal(CmkApproveMA(ZEROS), WRONG) == Rc.AUTHFAIL


def test_a_certified_key_signs_and_does_not_migrate_like_others(owned: Device) -> None:
    key = certified(owned)
    assert (key.form, key.key_flags) == (KEY12_FORM, CMK)
    ref = keys.load(owned.client, keys.srk(SRK), key, USAGE)
    assert len(keys.sign(owned.client, ref, ZEROS)) == 128
    auth = owned.run(AuthorizeMigrationKey(MigrateScheme.MIGRATE, ENCRYPTS), OWNER).out_data
    request = CreateMigrationBlob(SRK_HANDLE, MigrateScheme.MIGRATE, auth, key.enc_data)
    assert owned.refusal(request, SRK, USAGE) == Rc.BAD_MIGRATION


def test_a_certificate_names_the_authorities_of_a_certified_key(owned: Device) -> None:
    """13.9 actions 6 and 11; TPM_CertifyKey has no field for them (13.8 action 4)."""
    key = keys.load(owned.client, keys.srk(SRK), certified(owned), USAGE)
    for certifier in (owned.load("signing"), owned.load("identity")):
        request = CertifyKey2(key.handle, certifier.handle, MSA.digest(), ONES)
        info = owned.run(request, USAGE, USAGE).certify_info
        assert info.payload_type == Payload.MIGRATE_RESTRICTED
        named = sha1(MSA.digest() + bytes([Payload.MIGRATE_RESTRICTED]))
        assert info.migration_authority == named
        wrong = replace(request, migration_pub_digest=ONES)
        assert owned.refusal(wrong, USAGE, USAGE) == Rc.MA_SOURCE
    old = CertifyKey(owned.load("signing").handle, key.handle, ONES)
    assert owned.refusal(old, USAGE, USAGE) == Rc.INVALID_KEYUSAGE


@pytest.mark.parametrize(
    ("changes", "approved", "code"),
    [
        ({}, True, Rc.SUCCESS),
        ({"form": LEGACY_FORM}, True, Rc.INVALID_STRUCTURE),
        ({"form": LEGACY_FORM}, False, Rc.MA_AUTHORITY),
        ({"key_flags": KeyFlag.MIGRATE_AUTHORITY}, True, Rc.INVALID_KEYUSAGE),
        ({"key_flags": KeyFlag.MIGRATABLE}, True, Rc.INVALID_KEYUSAGE),
        ({"key_flags": CMK | 0x20}, True, Rc.BAD_KEY_PROPERTY),
        ({}, False, Rc.MA_AUTHORITY),
    ],
)
def test_what_a_certified_key_is_created_from(
    owned: Device, changes: dict[str, int], approved: bool, code: int
) -> None:
    given = approval(owned) if approved else ZEROS
    template = replace(TEMPLATE, **changes)  # type: ignore[arg-type]
    with owned.osap_srk() as session:
        request = creation(session, template, given, MSA.digest())
        assert owned.refusal_in(request, session) == code
    with owned.osap_srk() as session:
        request = creation(session, template, given, ONES)
        assert owned.refusal_in(request, session) == (code if code in _BEFORE else Rc.MA_AUTHORITY)


_BEFORE = (Rc.INVALID_KEYUSAGE, Rc.BAD_KEY_PROPERTY)


def test_keys_of_this_tpm_alone_are_not_certified_for_migration(owned: Device) -> None:
    given = approval(owned)
    identity = replace(
        keys.signing_key(flags=CMK), form=KEY12_FORM, key_usage=int(KeyUsage.IDENTITY)
    )
    authchange = replace(
        keys.binding_key(flags=CMK), form=KEY12_FORM, key_usage=int(KeyUsage.AUTHCHANGE)
    )
    for template in (identity, authchange):
        with owned.osap_srk() as session:
            request = creation(session, template, given, MSA.digest())
            assert owned.refusal_in(request, session) == Rc.INVALID_KEYUSAGE
        with owned.osap_srk() as session:
            request = creation(session, template, ZEROS, MSA.digest())
            assert owned.refusal_in(request, session) == Rc.MA_AUTHORITY


def test_the_parent_of_a_certified_key(owned: Device) -> None:
    given, root = approval(owned), keys.srk(SRK)
    made = keys.create(
        owned.client, root, keys.storage_key(flags=KeyFlag.MIGRATABLE), USAGE, Secret(ZEROS)
    )
    for parent in (keys.load(owned.client, root, made, USAGE), owned.load("signing")):
        with parent.osap(owned.client) as session:
            request = creation(session, TEMPLATE, given, MSA.digest(), parent.handle)
            assert owned.refusal_in(request, session) == Rc.INVALID_KEYUSAGE
    with owned.client.oiap(SRK) as session:
        request = CmkCreateKey(SRK_HANDLE, ZEROS, TEMPLATE, given, MSA.digest())
        assert owned.refusal_in(request, session) == Rc.BAD_MODE


# --- 11.8 TPM_CMK_CreateTicket --------------------------------------------------------------------


def test_a_ticket_is_for_a_key_and_what_it_signed(owned: Device) -> None:
    made = ticket(owned, b"signed")
    assert made == ticket(owned, b"signed") != ticket(owned, b"other")
    request = CmkCreateTicket(SIGNS_INFO, sha1(b"signed"), signature(b"signed"))
    assert owned.run(request, OWNER).sig_ticket != made
    assert owned.refusal(request, WRONG) == Rc.AUTHFAIL


def test_what_gets_no_ticket(owned: Device) -> None:
    digest, good = sha1(b"signed"), signature(b"signed")

    def refusal(key: PubKey, signed: bytes = digest, given: bytes = good) -> int:
        return owned.refusal(CmkCreateTicket(key, signed, given), OWNER)

    assert refusal(SIGNS, ZEROS) == Rc.BAD_SIGNATURE
    for bad in (b"", good[:-1], good + b"x", b"\xff" * 256, signature(b"other")):
        assert refusal(SIGNS, given=bad) == Rc.BAD_SIGNATURE
    assert refusal(from_public_key(OTHER.public_key())) == Rc.BAD_SIGNATURE
    assert refusal(ENCRYPTS) == Rc.INAPPROPRIATE_ENC
    der = from_public_key(AUTHORITY.public_key(), sig_scheme=SigScheme.RSA_PKCS_V15_DER)
    assert refusal(der) == Rc.INVALID_KEYUSAGE
    other = replace(SIGNS.algorithm_parms, algorithm_id=4)
    assert refusal(replace(SIGNS, algorithm_parms=other)) == Rc.BAD_KEY_PROPERTY


# --- 11.9 TPM_CMK_CreateBlob ----------------------------------------------------------------------


def test_a_certified_key_goes_to_an_authority_or_where_one_approves(owned: Device) -> None:
    case = Case.on(owned)
    assert case.refusal(case.migrate()) == Rc.SUCCESS
    assert case.refusal(case.approve()) == Rc.SUCCESS
    for kind in (RESTRICT_APPROVE, 99):  # action 2.a: may be ignored
        assert case.refusal(case.migrate(migration_type=kind)) == Rc.SUCCESS


def test_what_a_certified_blob_needs(owned: Device) -> None:
    case = Case.on(owned)
    refusal, migrate = case.refusal, case.migrate
    assert refusal(migrate(), WRONG) == Rc.AUTHFAIL
    assert refusal(migrate(enc_data=bytes(256))) == Rc.DECRYPT_ERROR
    forged = replace(case.to_authority, digest=ZEROS)
    assert refusal(migrate(migration_key_auth=forged)) == Rc.AUTHFAIL
    plain = owned.key("signing").enc_data
    assert refusal(migrate(migration_key_auth=forged, enc_data=plain)) == Rc.AUTHFAIL
    assert refusal(migrate(enc_data=plain)) == Rc.INVALID_STRUCTURE
    assert refusal(migrate(pub_source_key_digest=ZEROS)) == Rc.MA_AUTHORITY
    assert refusal(migrate(msa_list=MsaComposite((SIGNS.digest(),)))) == Rc.MA_AUTHORITY
    assert refusal(migrate(msa_list=MsaComposite(()))) == Rc.INVALID_STRUCTURE
    assert refusal(migrate(msa_list=None)) == Rc.BAD_PARAM_SIZE
    assert refusal(migrate(restrict_ticket=case.approved.encode())) == Rc.BAD_PARAMETER
    assert refusal(migrate(sig_ticket=case.ticket)) == Rc.BAD_PARAMETER
    stranger = AuthorizeMigrationKey(RESTRICT_MIGRATE, _encryption(OTHER.public_key()))
    auth = owned.run(stranger, OWNER).out_data
    assert refusal(migrate(migration_key_auth=auth)) == Rc.MA_TICKET_SIGNATURE
    signs_too = owned.run(AuthorizeMigrationKey(RESTRICT_MIGRATE, BOTH), OWNER).out_data
    assert refusal(migrate(migration_key_auth=signs_too)) == Rc.INVALID_KEYUSAGE
    unrestricted = owned.run(AuthorizeMigrationKey(MigrateScheme.MIGRATE, ENCRYPTS), OWNER).out_data
    assert refusal(migrate(migration_key_auth=unrestricted)) == Rc.BAD_PARAMETER


def test_the_parent_of_a_certified_blob(owned: Device) -> None:
    case, root = Case.on(owned), keys.srk(SRK)
    made = keys.create(
        owned.client, root, keys.storage_key(flags=KeyFlag.MIGRATABLE), USAGE, Secret(ZEROS)
    )
    for parent in (keys.load(owned.client, root, made, USAGE), owned.load("signing")):
        request = case.migrate(parent_handle=parent.handle)
        assert case.refusal(request, USAGE) == Rc.INVALID_KEYUSAGE


def test_what_an_approval_needs(owned: Device) -> None:
    case = Case.on(owned)
    refusal, approve, signed = case.refusal, case.approve, case.approved.encode()
    assert refusal(approve(sig_ticket=b"")) == Rc.BAD_PARAM_SIZE
    assert refusal(approve(sig_ticket=case.ticket[:-1])) == Rc.BAD_PARAM_SIZE
    assert refusal(approve(sig_ticket=ZEROS)) == Rc.MA_TICKET_SIGNATURE
    assert refusal(approve(restrict_ticket=b"")) == Rc.MA_TICKET_SIGNATURE
    assert refusal(approve(restrict_ticket=signed + b"x")) == Rc.MA_TICKET_SIGNATURE
    assert refusal(approve(signed[:-1])) == Rc.BAD_PARAM_SIZE
    longer = owned.expected("trailing bytes in a ticket", Rc.BAD_PARAM_SIZE)
    assert refusal(approve(signed + b"x")) == longer
    assert refusal(approve(sig_ticket=case.ticket + b"x")) == longer
    elsewhere = replace(case.approved, destination_key_digest=ZEROS)
    assert refusal(approve(elsewhere.encode())) == Rc.MA_DESTINATION
    other_key = replace(case.approved, source_key_digest=ZEROS)
    assert refusal(approve(other_key.encode())) == Rc.MA_SOURCE
    both = replace(elsewhere, source_key_digest=ZEROS)
    assert refusal(approve(both.encode())) == Rc.MA_DESTINATION


# --- 11.10 TPM_CMK_ConvertMigration ---------------------------------------------------------------


def test_a_converted_key_loads_and_can_be_migrated_again(owned: Device) -> None:
    case = Case.on(owned)
    out = owned.run(case.convert(), SRK).out_data
    converted = replace(case.key, enc_data=out)
    ref = keys.load(owned.client, keys.srk(SRK), converted, USAGE)
    assert len(keys.sign(owned.client, ref, ZEROS)) == 128
    assert case.refusal(case.migrate(enc_data=out)) == Rc.SUCCESS


def test_what_a_certified_conversion_needs(owned: Device) -> None:
    case = Case.on(owned)
    request, refusal = case.convert(), case.refusal
    key, size = request.migrated_key, len(request.random)
    assert refusal(request) == Rc.SUCCESS
    assert refusal(request, WRONG) == Rc.AUTHFAIL
    assert refusal(replace(request, random=bytes(size))) == Rc.DECRYPT_ERROR
    assert refusal(replace(request, random=request.random[:-1])) == Rc.BAD_PARAMETER
    assert refusal(replace(request, sig_ticket=ZEROS)) == Rc.MA_TICKET_SIGNATURE
    others = MsaComposite((SIGNS.digest(),))
    assert refusal(replace(request, msa_list=others)) == Rc.AUTHFAIL
    assert refusal(replace(request, msa_list=MsaComposite(()))) == Rc.INVALID_STRUCTURE
    assert refusal(replace(request, msa_list=None)) == Rc.BAD_PARAM_SIZE
    garbage = replace(key, enc_data=bytes(256))
    assert refusal(replace(request, migrated_key=garbage)) == Rc.DECRYPT_ERROR
    modulus = replace(key, pub_key=key.pub_key[:-1] + bytes([key.pub_key[-1] ^ 2]))
    assert refusal(replace(request, migrated_key=modulus)) == Rc.AUTHFAIL
    public = replace(key, auth_data_usage=0)
    code = owned.expected("changed public part of a migrated key", Rc.AUTHFAIL)
    assert refusal(replace(request, migrated_key=public)) == code
    flags = replace(key, key_flags=int(KeyFlag.MIGRATABLE))
    code = owned.expected("changed flags of a migrated key", Rc.AUTHFAIL)
    assert refusal(replace(request, migrated_key=flags)) == code
    signing = owned.load("signing")
    elsewhere = replace(request, parent_handle=signing.handle)
    assert refusal(elsewhere, USAGE) == Rc.INVALID_KEYUSAGE


def test_whose_approval_a_conversion_takes(owned: Device) -> None:
    case = Case.on(owned)
    elsewhere = replace(case.approved, destination_key_digest=ZEROS)
    assert case.refusal(case.convert(elsewhere)) == Rc.MA_DESTINATION
    other_key = replace(case.approved, source_key_digest=ZEROS)
    assert case.refusal(case.convert(other_key)) == Rc.MA_SOURCE
    both = replace(elsewhere, source_key_digest=ZEROS)
    assert case.refusal(case.convert(both)) == Rc.MA_DESTINATION
    unsigned = replace(case.approved, migration_authority_digest=ONES)
    request = replace(case.convert(), restrict_ticket=unsigned)
    assert case.refusal(request) == Rc.MA_TICKET_SIGNATURE


@pytest.mark.parametrize(
    ("payload", "flags", "prime", "approved", "code"),
    [
        (Payload.CMK_MIGRATE, CMK, True, True, Rc.SUCCESS),
        (Payload.MIGRATE, CMK, True, True, Rc.BAD_MIGRATION),
        (Payload.MIGRATE, CMK, True, False, Rc.BAD_MIGRATION),
        (Payload.CMK_MIGRATE, KeyFlag.MIGRATABLE, True, True, Rc.INVALID_KEYUSAGE),
        (Payload.CMK_MIGRATE, KeyFlag.MIGRATE_AUTHORITY, True, True, Rc.INVALID_KEYUSAGE),
        (Payload.CMK_MIGRATE, CMK, False, True, Rc.BAD_PARAMETER),
        (Payload.CMK_MIGRATE, CMK, True, False, Rc.MA_TICKET_SIGNATURE),
    ],
)
def test_a_blob_that_no_tpm_made(
    owned: Device, payload: int, flags: int, prime: bool, approved: bool, code: int
) -> None:
    """An authority may build such blobs itself; they are checked like others."""
    srk, numbers = owned.prepared.srk, OTHER.private_numbers()
    assert srk is not None
    modulus = numbers.public_numbers.n.to_bytes(256, "big")
    key = replace(keys.signing_key(flags=flags), form=KEY12_FORM, pub_key=modulus)
    source = public_part(key).digest()
    k1k2 = b"\0\0\0\x80" + (numbers.p if prime else 3).to_bytes(128, "big")
    m1 = MigrateAsymKey(payload, USAGE.reveal(), sha1(key.public_part()), k1k2[20:]).encode()
    o1 = _encoded(m1, sha1(MSA.digest() + source), k1k2[:20])
    blob = replace(key, enc_data=oaep_encrypt(to_public_key(srk), o1))
    auth = CmkAuth(ZEROS, srk.digest(), source)
    given = ticket(owned, auth.encode()) if approved else ZEROS
    request = CmkConvertMigration(SRK_HANDLE, auth, given, blob, MSA, bytes(len(o1)))
    assert owned.refusal(request, SRK) == code


def _encoded(m1: bytes, label_digest: bytes, seed: bytes) -> bytes:
    """OAEP without padding."""

    def masked(data: bytes, by: bytes) -> bytes:
        stream = b"".join(sha1(by + i.to_bytes(4, "big")) for i in range(13))
        return bytes(a ^ b for a, b in zip(data, stream, strict=False))

    db = masked(label_digest + b"\x01" + m1, seed)
    return masked(seed, db) + db
