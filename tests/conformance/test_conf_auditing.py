"""Auditing (Part 3 section 8). The audit digest is computed here a second time from the frames."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conformance_rig import NO_HANDLE, OWNER, SRK, USAGE, WRONG, ZEROS, Device

from hwtpm.client import keys, pcr, transport
from hwtpm.client.rsa import to_public_key, verify_sha1
from hwtpm.client.transport import Cipher
from hwtpm.tpm12.commands.auditing import (
    GetAuditDigest,
    GetAuditDigestReply,
    GetAuditDigestSigned,
    SetOrdinalAuditStatus,
)
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.optin import PhysicalEnable, PhysicalSetDeactivated
from hwtpm.tpm12.commands.ownership import OwnerClear
from hwtpm.tpm12.commands.startup import SaveState
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE, Rule
from hwtpm.tpm12.types import PubKey

NONCE = hashlib.sha1(b"verifier").digest()
DIGEST = hashlib.sha1(b"data").digest()
READ, SIGN, SET, SAVE, EXECUTE = (
    TABLE[f"TPM_{name}"].ordinal
    for name in ("PcrRead", "Sign", "SetOrdinalAuditStatus", "SaveState", "ExecuteTransport")
)
MAINTENANCE = {TABLE[f"TPM_{name}"].ordinal for name in (
    "CreateMaintenanceArchive", "LoadMaintenanceArchive", "KillMaintenanceFeature",
    "LoadManuMaintPub", "ReadManuMaintPub", "SetRedirection", "FieldUpgrade",
)}  # fmt: skip


def sha1(*parts: bytes) -> bytes:
    return hashlib.sha1(b"".join(parts)).digest()


def u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def status(device: Device) -> GetAuditDigestReply:
    return device.run(GetAuditDigest(0))


def audit(device: Device, ordinal: int, on: bool) -> None:
    device.run(SetOrdinalAuditStatus(ordinal, on), OWNER)


def event(digest: bytes, tag: int, parameters: bytes, counter: int) -> bytes:
    """The digest after TPM_AUDIT_EVENT_IN (tag 0x12) or TPM_AUDIT_EVENT_OUT (0x13)."""
    return sha1(digest, struct.pack(">H", tag), parameters, b"\0\x0e", bytes(4), u32(counter))


class Book:
    """The audit digest as it should be."""

    def __init__(self, device: Device) -> None:
        self.device = device
        before = status(device)
        self.digest, self.counter = before.audit_digest, before.counter_value.counter
        assert before.counter_value.label == bytes(4)

    def enter(self, ordinal: int, params: bytes = b"", answer: bytes | None = b"") -> None:
        """A command that succeeded, without its handles; `answer` None for the request only."""
        inside = sha1(u32(ordinal), params)
        outside = None if answer is None else sha1(u32(0, ordinal), answer)
        self.enter_digests(inside, outside)

    def enter_digests(self, inside: bytes, outside: bytes | None) -> None:
        if self.digest == ZEROS:
            self.counter += 1
        self.digest = event(self.digest, 0x12, inside, self.counter)
        if outside is not None:
            self.digest = event(self.digest, 0x13, outside, self.counter)

    def set(self, ordinal: int, on: bool) -> None:
        audit(self.device, ordinal, on)
        self.enter(SET, u32(ordinal) + bytes([on]))

    def check(self) -> None:
        now = status(self.device)
        assert (now.audit_digest, now.counter_value.counter) == (self.digest, self.counter)


@contextmanager
def audited(book: Book, *ordinals: int) -> Iterator[None]:
    for ordinal in ordinals:
        book.set(ordinal, True)
    yield
    for ordinal in ordinals:
        book.set(ordinal, False)


def test_what_is_audited_by_default(new: Device) -> None:
    """Part 2 section 17, column Audit."""
    expected = {row.ordinal for row in TABLE if Rule.AUDITED in row.rules}
    listed = status(new).ordinals
    assert set(listed) - MAINTENANCE == expected - MAINTENANCE
    assert list(listed) == sorted(listed)
    later = new.run(GetAuditDigest(READ))
    assert later.ordinals == tuple(ordinal for ordinal in listed if ordinal >= READ)
    assert not later.more
    assert new.run(GetAuditDigest(0xFFFFFFFF)).ordinals == ()


@pytest.mark.alters
def test_clearing_resets_what_is_audited(owned: Device) -> None:
    """6.2 actions 4.e and 6.b."""
    before = status(owned)
    audit(owned, READ, True)
    audit(owned, SET, False)
    assert status(owned).ordinals != before.ordinals
    owned.run(OwnerClear(), OWNER)
    owned.assert_presence()
    owned.run(PhysicalEnable())
    owned.run(PhysicalSetDeactivated(False))
    owned.restart()
    after = status(owned)
    assert after.ordinals == before.ordinals
    assert after.counter_value.counter >= before.counter_value.counter


def test_commands_extend_the_digest(owned: Device) -> None:
    owned.restart()
    book = Book(owned)
    assert book.digest == ZEROS
    with audited(book, READ):
        assert READ in status(owned).ordinals
        value = owned.pcr(3)
        book.enter(READ, u32(3), value)
        book.check()
        # 8.1 description 2: only what succeeds.
        assert owned.refusal(PcrRead(99)) == Rc.BADINDEX
        book.check()
    book.check()
    owned.pcr(3)
    book.check()
    assert READ not in status(owned).ordinals


def test_handles_and_sessions_are_left_out(owned: Device) -> None:
    book = Book(owned)
    key = owned.load("signing")
    with audited(book, SIGN):
        signature = keys.sign(owned.client, key, DIGEST)
        book.enter(SIGN, u32(20) + DIGEST, u32(len(signature)) + signature)
        assert owned.refusal(Sign(key.handle, DIGEST), WRONG) == Rc.AUTHFAIL
    book.check()


def test_setting_is_audited_by_the_state_before(owned: Device) -> None:
    """8.1 description 3.b."""
    book = Book(owned)
    book.set(SET, False)
    book.check()
    audit(owned, SET, True)
    book.check()
    book.set(SET, True)
    book.check()


def test_of_save_state_only_the_request_counts(owned: Device) -> None:
    """8.1 description 3.a."""
    book = Book(owned)
    with audited(book, SAVE):
        owned.run(SaveState())
        book.enter(SAVE, b"", None)
        book.check()
    owned.restart()


def test_a_start_begins_with_an_empty_digest(owned: Device) -> None:
    audit(owned, READ, False)
    counter = status(owned).counter_value.counter
    owned.restart()
    assert status(owned).audit_digest == ZEROS
    assert status(owned).counter_value.counter == counter
    audit(owned, READ, False)
    assert status(owned).counter_value.counter == counter + 1


@pytest.mark.parametrize("cipher", [None, Cipher.AES128_CTR], ids=str)
def test_wrapped_commands_are_audited(owned: Device, cipher: Cipher | None) -> None:
    """24.2 action 11.a. Of a command that travels encrypted, only ordinal and return code."""
    assert owned.prepared.srk is not None
    book = Book(owned)
    with (
        audited(book, READ),
        transport.establish(
            owned.client, keys.srk(SRK), owned.prepared.srk, cipher=cipher
        ) as session,
    ):
        value = pcr.read(session.tpm, 3)
        if cipher is None:
            book.enter(READ, u32(3), value)
        else:
            book.enter(READ)
        book.check()


@pytest.mark.parametrize("cipher", [None, Cipher.MGF1], ids=str)
def test_wrapping_is_audited_by_what_it_wraps(owned: Device, cipher: Cipher | None) -> None:
    """24.2 actions 8 and 20."""
    assert owned.prepared.srk is not None
    book = Book(owned)
    with (
        audited(book, EXECUTE),
        transport.establish(
            owned.client, keys.srk(SRK), owned.prepared.srk, cipher=cipher
        ) as session,
    ):
        value = pcr.read(session.tpm, 3)
        book.enter(READ, u32(3), value)  # the digests H1 and H2
        book.check()
        with pytest.raises(Exception, match="TPM_BADINDEX"):
            session.tpm.execute(PcrRead(99))
        refused = sha1(u32(Rc.BADINDEX, READ))
        book.enter_digests(sha1(u32(READ, 99)), refused)
        book.check()
        with audited(book, READ):
            value = pcr.read(session.tpm, 3)
            if cipher is None:
                book.enter(READ, u32(3), value)
            else:
                book.enter(READ)
            book.enter(READ, u32(3), value)
            book.check()


def test_commands_that_are_never_audited(owned: Device) -> None:
    """8.5 action 2; Part 2 section 17."""
    for name in ("TPM_GetAuditDigest", "TPM_GetAuditDigestSigned"):
        on, off = (SetOrdinalAuditStatus(TABLE[name].ordinal, state) for state in (True, False))
        assert owned.refusal(on, OWNER) == Rc.BAD_PARAMETER
        assert owned.refusal(off, OWNER) == Rc.SUCCESS
    expected = owned.expected("auditing an ordinal that there is not", Rc.BADINDEX)
    for ordinal in (0, 0x3333, 0xFFFFFFFF, TABLE["TPM_GetAuditEvent"].ordinal):
        assert owned.refusal(SetOrdinalAuditStatus(ordinal, True), OWNER) == expected
    assert owned.refusal(SetOrdinalAuditStatus(READ, True), WRONG) == Rc.AUTHFAIL


# --- signed ------------------------------------------------------------------------------------


def pub_of(device: Device, name: str) -> PubKey:
    key = device.key(name)
    return PubKey(key.algorithm_parms, key.pub_key)


@pytest.mark.parametrize("name", ["signing", "signing INFO", "signing without auth", "identity"])
def test_the_digest_is_signed(owned: Device, name: str) -> None:
    audit(owned, READ, False)
    before = status(owned)
    key = owned.load(name)
    reply = owned.run(GetAuditDigestSigned(key.handle, False, NONCE), *key.secrets)
    assert (reply.counter_value, reply.audit_digest) == (before.counter_value, before.audit_digest)
    ordinals = sha1(*(u32(ordinal) for ordinal in before.ordinals))
    assert reply.ordinal_digest == ordinals
    data = before.audit_digest + b"\0\x0e" + bytes(4) + u32(before.counter_value.counter) + ordinals
    signed = b"\0\x05ADIG" + NONCE + u32(len(data)) + data
    verify_sha1(to_public_key(pub_of(owned, name)), reply.sig, signed, "audit digest")
    assert status(owned) == before


def test_an_identity_closes_the_digest(owned: Device) -> None:
    """8.4 action 5."""
    audit(owned, READ, False)
    before = status(owned)
    signing, aik = owned.load("signing"), owned.load("identity")
    close = GetAuditDigestSigned(signing.handle, True, NONCE)
    assert owned.refusal(close, USAGE) == Rc.INVALID_KEYUSAGE
    assert status(owned) == before
    reply = owned.run(GetAuditDigestSigned(aik.handle, True, NONCE), USAGE)
    says_it = owned.expected("digest in the answer that closes it", 1)
    assert reply.audit_digest == (before.audit_digest if says_it else ZEROS)
    assert status(owned).audit_digest == ZEROS
    assert status(owned).counter_value == before.counter_value
    audit(owned, READ, False)
    assert status(owned).counter_value.counter == before.counter_value.counter + 1


def test_keys_that_do_not_sign_the_digest(owned: Device) -> None:
    """8.4 actions 1 to 3."""
    for name in ("bind", "storage", "signing DER"):
        key = owned.load(name)
        request = GetAuditDigestSigned(key.handle, False, NONCE)
        assert owned.refusal(request, USAGE) == Rc.INVALID_KEYUSAGE
    request = GetAuditDigestSigned(owned.load("signing").handle, False, NONCE)
    assert owned.refusal(request, WRONG) == Rc.AUTHFAIL
    assert owned.refusal(request) == Rc.AUTHFAIL
    missing = GetAuditDigestSigned(NO_HANDLE, False, NONCE)
    assert owned.refusal(missing, USAGE) == Rc.INVALID_KEYHANDLE
