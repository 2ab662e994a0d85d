"""Transport sessions (Part 3 section 24).

Two clients of our own making talk to each engine: the one that users get (`hwtpm.client.transport`)
and the bare frames of `Bare`, which shares no code with it. The log that a TPM signs is computed
here a second time, from the frames and the specification's text alone.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable

import pytest
from conformance_rig import NO_HANDLE, OWNER, SRK, SRK_HANDLE, USAGE, WRONG, ZEROS, Device
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from hwtpm.client import counters, keys, nv, owner, pcr, quote, seal, transport
from hwtpm.client.rsa import to_public_key
from hwtpm.client.session import AuthSession, Tpm
from hwtpm.client.transport import Cipher, Logged, SignedLog, TransportSession
from hwtpm.errors import TpmError, VerificationError
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.auditing import GetAuditDigest
from hwtpm.tpm12.commands.cryptography import GetRandom, SHA1Complete, SHA1Start, SHA1Update, Sign
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.ticks import TickStampBlob
from hwtpm.tpm12.commands.transport import (
    EstablishTransport,
    ExecuteTransport,
    ReleaseTransportSigned,
)
from hwtpm.tpm12.const import (
    KeyAlgorithm,
    KeyHandleValue,
    NvPermission,
    ResourceType,
    TransportAttribute,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PubKey
from hwtpm.tpm12.types.transport import TransportAuth, TransportPublic

NONCE = hashlib.sha1(b"verifier").digest()
DIGEST = hashlib.sha1(b"data").digest()
CIPHERS = [*Cipher, None]
ENCRYPT, LOG, EXCLUSIVE = TransportAttribute
PLAIN = (KeyAlgorithm.MGF1, 1)


def established(device: Device, cipher: Cipher | None, **options: bool) -> TransportSession:
    assert device.prepared.srk is not None
    srk = keys.srk(SRK)
    return transport.establish(device.client, srk, device.prepared.srk, cipher=cipher, **options)


def rc_of(error: pytest.ExceptionInfo[TpmError]) -> int:
    return error.value.rc


# --- bare frames -------------------------------------------------------------------------------


def sha1(*parts: bytes) -> bytes:
    return hashlib.sha1(b"".join(parts)).digest()


def command(ordinal: int, body: bytes = b"", tag: int = 0x00C1) -> bytes:
    return struct.pack(">HII", tag, 10 + len(body), ordinal) + body


PCR_READ = command(0x15, struct.pack(">I", 1))


class Bare:
    """A session whose secret travels in clear, without encryption, from frames made by hand."""

    secret = b"T" * 20

    def __init__(self, device: Device, attributes: int = 0) -> None:
        self.device = device
        public = struct.pack(">HIIH", 0x001E, attributes, *PLAIN)
        body = struct.pack(">I", 0x40000003) + public + struct.pack(">I", 20) + self.secret
        reply = device.send(command(0xE6, body))
        assert rc_in(reply) == 0
        self.handle, self.even = int.from_bytes(reply[10:14], "big"), reply[-20:]

    def execute(
        self, inner: bytes, data: bytes | None = None, *, more: bool = True, spoil: bool = False
    ) -> bytes:
        """The response to TPM_ExecuteTransport; `data` is DATAw where handles come before it."""
        odd, keep = sha1(self.even), bytes([more])
        h1 = sha1(inner[6:10], inner[10:] if data is None else data)
        digest = sha1(struct.pack(">II", 0xE7, len(inner)), h1)
        mac = hmac.digest(self.secret, digest + self.even + odd + keep, "sha1")
        tail = struct.pack(">I", self.handle) + odd + keep + (bytes(20) if spoil else mac)
        body = struct.pack(">I", len(inner)) + inner + tail
        reply = self.device.send(command(0xE7, body, 0x00C2))
        if rc_in(reply) == 0:
            self.even = reply[-41:-21]
        return reply

    def inner(self, inner: bytes, data: bytes | None = None, *, more: bool = True) -> bytes:
        """The wrapped response, with the proof of the outer one checked."""
        odd, keep = sha1(self.even), bytes([more])
        reply = self.execute(inner, data, more=more)
        assert rc_in(reply) == 0
        ticks, locality, size = struct.unpack_from(">QII", reply, 10)
        wrapped = reply[26 : 26 + size]
        assert len(reply) == 26 + size + 41
        h2 = sha1(wrapped[6:10], inner[6:10], wrapped[10:])
        digest = sha1(struct.pack(">IIQII", 0, 0xE7, ticks, locality, size), h2)
        expected = hmac.digest(self.secret, digest + self.even + odd + keep, "sha1")
        assert reply[-21:] == keep + expected
        return wrapped


def rc_in(reply: bytes) -> int:
    return int.from_bytes(reply[6:10], "big")


def test_a_wrapped_command_answers_as_outside(owned: Device) -> None:
    session = Bare(owned)
    for _ in range(3):
        assert session.inner(PCR_READ) == owned.send(PCR_READ)
    refused = command(0x15, struct.pack(">I", 99))
    assert session.inner(refused) == owned.send(refused)
    assert session.inner(PCR_READ, more=False) == owned.send(PCR_READ)
    assert rc_in(session.execute(PCR_READ)) == Rc.INVALID_AUTHHANDLE


def test_a_wrong_proof_ends_the_session(owned: Device) -> None:
    """24.2 action 7.c."""
    session = Bare(owned)
    expected = owned.expected("wrong secret of a transport session", Rc.AUTHFAIL)
    assert rc_in(session.execute(PCR_READ, spoil=True)) == expected
    assert rc_in(session.execute(PCR_READ)) == Rc.INVALID_AUTHHANDLE


def test_wrong_proofs_of_transport_sessions_lock_nothing(owned: Device) -> None:
    for _ in range(8):
        Bare(owned).execute(PCR_READ, spoil=True)
    with keys.loaded(owned.client, keys.srk(SRK), owned.key("signing"), USAGE) as key:
        assert keys.sign(owned.client, key, DIGEST)


@pytest.mark.parametrize(
    ("inner", "data", "key"),
    [
        (command(0x00003333), b"", "unknown command wrapped"),
        (b"\0\xc1\0", b"", "command without a header wrapped"),
        (command(0x15, struct.pack(">I", 1), 0x00C2), b"", "command without its session wrapped"),
    ],
    ids=["unknown", "short", "no session"],
)
def test_what_cannot_be_parsed_is_refused(
    owned: Device, inner: bytes, data: bytes, key: str
) -> None:
    """24.2 action 3."""
    session = Bare(owned)
    assert rc_in(session.execute(inner, data)) == owned.expected(key, Rc.BAD_PARAMETER)
    assert rc_in(session.execute(PCR_READ)) == Rc.INVALID_AUTHHANDLE


def test_a_wrapped_size_must_be_right(owned: Device) -> None:
    assert rc_in(Bare(owned).execute(PCR_READ + b"x")) == Rc.BAD_PARAM_SIZE


@pytest.mark.parametrize("ordinal", [0xE6, 0xE7, 0xE8], ids=hex)
def test_transport_commands_are_not_wrapped(owned: Device, ordinal: int) -> None:
    """24.2 action 9."""
    handles = owned.expected("handles of a wrapped release", 4) if ordinal == 0xE8 else 4
    data = bytes(44 if ordinal == 0xE7 else 44 - handles)
    assert rc_in(Bare(owned).execute(command(ordinal, bytes(44)), data)) == Rc.NO_WRAP_TRANSPORT


def test_a_missing_key_fails_outside_if_there_is_a_log(owned: Device) -> None:
    """24.2 action 10.g; without a log the wrapped command says it."""
    data = struct.pack(">I", 20) + DIGEST
    sign = command(0x3C, struct.pack(">I", NO_HANDLE) + data)
    assert rc_in(Bare(owned, LOG).execute(sign, data)) == Rc.INVALID_KEYHANDLE
    assert rc_in(Bare(owned).inner(sign, data)) == Rc.INVALID_KEYHANDLE


def test_a_transport_session_authorises_nothing_inside(owned: Device) -> None:
    """24.2 description 4.a."""
    session = Bare(owned)
    data = struct.pack(">I", 20) + DIGEST
    tail = struct.pack(">I", session.handle) + bytes(41)
    key = owned.load("signing")
    sign = command(0x3C, struct.pack(">I", key.handle) + data + tail, 0x00C2)
    reply = session.execute(sign, data)
    assert rc_in(reply) == 0
    assert rc_in(reply[26:36]) == Rc.INVALID_AUTHHANDLE
    session.inner(PCR_READ)


def test_a_session_can_flush_itself(owned: Device) -> None:
    """24.2 description 7.a leaves the outcome open; ours and libtpms carry it out."""
    session = Bare(owned, LOG)
    data = struct.pack(">I", ResourceType.TRANS)
    flush = command(0xBA, struct.pack(">I", session.handle) + data)
    reply = session.execute(flush, data)
    assert rc_in(reply) == 0
    assert reply[-21] == 0  # continueTransSession
    assert rc_in(session.execute(PCR_READ)) == Rc.INVALID_AUTHHANDLE


# --- exclusive sessions ------------------------------------------------------------------------


def test_an_exclusive_session_ends_with_the_first_command_outside(owned: Device) -> None:
    """24.1 action 9; the command outside is carried out all the same (Part 2 7.3)."""
    session = Bare(owned, EXCLUSIVE)
    session.inner(PCR_READ)
    session.inner(PCR_READ)
    assert rc_in(owned.send(PCR_READ)) == 0
    assert rc_in(session.execute(PCR_READ)) == Rc.INVALID_AUTHHANDLE


@pytest.mark.parametrize(
    "outside", [command(0x3333), command(0x15, b"", 0x0099), command(0x15)], ids=lambda c: c.hex()
)
def test_refused_commands_outside_end_it_as_well(owned: Device, outside: bytes) -> None:
    session = Bare(owned, EXCLUSIVE)
    assert rc_in(owned.send(outside)) != 0
    assert rc_in(session.execute(PCR_READ)) == Rc.INVALID_AUTHHANDLE


def test_there_is_one_exclusive_session(owned: Device) -> None:
    first, second = Bare(owned, EXCLUSIVE), Bare(owned, EXCLUSIVE)
    second.inner(PCR_READ)
    # Addressing the session that is gone is a command outside of the one that there is.
    assert rc_in(first.execute(PCR_READ)) == Rc.INVALID_AUTHHANDLE
    assert rc_in(second.execute(PCR_READ)) == Rc.INVALID_AUTHHANDLE


def test_other_sessions_survive(owned: Device) -> None:
    plain = Bare(owned)
    Bare(owned, EXCLUSIVE).inner(PCR_READ)
    plain.inner(PCR_READ)


def test_an_exclusive_session_can_be_released(owned: Device) -> None:
    key = owned.load("signing without auth")
    with established(owned, Cipher.MGF1, log=True, exclusive=True) as session:
        pcr.read(session.tpm, 1)
        log = session.release_signed(key, NONCE)
    public = to_public_key(pub_of(owned, "signing without auth"))
    transport.verify_log(public, log, {})


# --- establishing ------------------------------------------------------------------------------


def to_srk(device: Device, plain: bytes) -> bytes:
    assert device.prepared.srk is not None
    scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"TCPA")
    return to_public_key(device.prepared.srk).encrypt(plain, scheme)


def establish_request(
    device: Device, attributes: int, cipher: tuple[int, int], secret: bytes | None = None
) -> EstablishTransport:
    if secret is None:
        secret = to_srk(device, TransportAuth(b"T" * 20).encode())
    return EstablishTransport(SRK_HANDLE, TransportPublic(attributes, *cipher), secret)


@pytest.mark.parametrize(
    ("cipher", "rc"),
    [
        ((KeyAlgorithm.AES256, 4), Rc.BAD_KEY_PROPERTY),
        ((KeyAlgorithm.RSA, 3), Rc.BAD_KEY_PROPERTY),
        ((KeyAlgorithm.AES128, 1), Rc.INAPPROPRIATE_ENC),
        ((KeyAlgorithm.AES128, 0xFF), Rc.INAPPROPRIATE_ENC),
        ((KeyAlgorithm.MGF1, 4), Rc.INAPPROPRIATE_ENC),
    ],
)
def test_ciphers_that_there_are_not(owned: Device, cipher: tuple[int, int], rc: int) -> None:
    """24.1 action 3."""
    assert owned.refusal(establish_request(owned, ENCRYPT, cipher), SRK) == rc
    # What is not used is not checked.
    assert owned.refusal(establish_request(owned, 0, cipher), SRK) == Rc.SUCCESS


def test_the_key_must_be_one_for_storage(owned: Device) -> None:
    """24.1 action 2."""
    request = establish_request(owned, 0, PLAIN)
    assert owned.refusal(request, WRONG) == Rc.AUTHFAIL
    assert owned.refusal(request) == Rc.AUTHFAIL
    for name in ("signing", "bind"):
        key = owned.load(name)
        other = EstablishTransport(key.handle, request.trans_public, request.secret)
        assert owned.refusal(other, USAGE) == Rc.INVALID_KEYUSAGE
    missing = EstablishTransport(NO_HANDLE, request.trans_public, request.secret)
    assert owned.refusal(missing, USAGE) == Rc.INVALID_KEYHANDLE


def test_a_secret_that_does_not_decrypt(owned: Device) -> None:
    for secret in (bytes(256), b"", b"\xff" * 256):
        request = establish_request(owned, 0, PLAIN, secret)
        assert owned.refusal(request, SRK) == Rc.DECRYPT_ERROR


def test_a_decrypted_secret_has_its_tag(owned: Device) -> None:
    """24.1 action 2.e."""
    for plain, rc in (
        (b"\0\x1e" + ZEROS, Rc.INVALID_STRUCTURE),
        (b"\0\x1d" + ZEROS[1:], Rc.BAD_PARAM_SIZE),
        (b"\0\x1d" + ZEROS, Rc.SUCCESS),
    ):
        request = establish_request(owned, 0, PLAIN, to_srk(owned, plain))
        assert owned.refusal(request, SRK) == rc


def test_a_clear_secret_takes_no_key_and_no_cipher(owned: Device) -> None:
    """24.1 action 1."""

    def request(attributes: int, secret: bytes) -> EstablishTransport:
        public = TransportPublic(attributes, *PLAIN)
        return EstablishTransport(KeyHandleValue.TRANSPORT, public, secret)

    assert owned.refusal(request(0, ZEROS), SRK) == Rc.BADTAG
    assert owned.refusal(request(ENCRYPT, ZEROS)) == Rc.BAD_SCHEME
    assert owned.refusal(request(0, b"x" * 19)) == Rc.BAD_PARAM_SIZE
    assert owned.refusal(request(LOG | EXCLUSIVE, ZEROS)) == Rc.SUCCESS


def test_there_are_sixteen_sessions(owned: Device) -> None:
    sessions = [transport.establish_clear(owned.client) for _ in range(16)]
    with pytest.raises(TpmError) as refused:
        transport.establish_clear(owned.client)
    assert rc_of(refused) == Rc.RESOURCES
    sessions[0].close()
    transport.establish_clear(owned.client)


def test_an_owner_is_needed(endorsed: Device) -> None:
    with pytest.raises(TpmError) as refused:
        transport.establish_clear(endorsed.client)
    assert rc_of(refused) == Rc.NOSRK


# --- the log -----------------------------------------------------------------------------------

# Bytes of parameters outside of DATAw in request and response, and keys that are logged, for each
# command of the run below (Part 3 sections 24.2 description 6, and each command's operand table).
OUTSIDE = {
    0x0A: (0, 24, 0),  # OIAP
    0x0B: (26, 44, 0),  # OSAP
    0x14: (0, 0, 0),  # Extend
    0x15: (0, 0, 0),  # PcrRead
    0x16: (4, 0, 1),  # Quote
    0x17: (4, 0, 1),  # Seal
    0x18: (4, 0, 1),  # Unseal
    0x1F: (4, 0, 1),  # CreateWrapKey
    0x21: (4, 0, 1),  # GetPubKey
    0x3C: (4, 0, 1),  # Sign
    0x41: (4, 4, 1),  # LoadKey2
    0x46: (0, 0, 0),  # GetRandom
    0x65: (0, 0, 0),  # GetCapability
    0x79: (0, 0, 0),  # MakeIdentity
    0x7C: (0, 0, 0),  # ReadPubek
    0x81: (0, 0, 1),  # OwnerReadInternalPub
    0x85: (0, 0, 0),  # GetAuditDigest
    0xA0: (0, 0, 0),  # SHA1Start
    0xA1: (0, 0, 0),  # SHA1Update
    0xA2: (0, 0, 0),  # SHA1Complete
    0xBA: (4, 0, None),  # FlushSpecific: depends on the resource type
    0xCC: (0, 0, 0),  # NV_DefineSpace
    0xCD: (0, 0, 0),  # NV_WriteValue
    0xCF: (0, 0, 0),  # NV_ReadValue
    0xDC: (0, 0, 0),  # CreateCounter
    0xDD: (0, 0, 0),  # IncrementCounter
    0xE0: (0, 0, 0),  # ReleaseCounterOwner
    0xF2: (4, 0, 1),  # TickStampBlob
}


def ticks_of(log: SignedLog, count: int) -> bytes:
    begin = log.reply.current_ticks
    return struct.pack(">HQH", 0x0014, count, begin.tick_rate) + begin.tick_nonce


def log_of(log: SignedLog, moduli: dict[int, bytes]) -> bytes:
    """transDigest by the text of 24.1 action 8, 24.2 actions 10 and 16, 24.3 action 6."""
    request, reply = log.request.encode(), log.reply.encode()
    begin = log.reply.current_ticks.current_ticks
    digest = sha1(bytes(20), b"\0\x10", sha1(struct.pack(">I", 0xE6), request[4:]), bytes(20))
    out = sha1(struct.pack(">II", 0, 0xE6), reply[4:])
    locality = struct.pack(">I", log.reply.locality)
    digest = sha1(digest, b"\0\x11", ticks_of(log, begin), out, locality)
    for item in log.commands:
        digest = logged(digest, item, log, moduli)
    end = struct.pack(">I", log.release.locality)
    count = log.release.current_ticks.current_ticks
    released = sha1(struct.pack(">I", 0xE8), log.nonce)
    return sha1(digest, b"\0\x11", ticks_of(log, count), released, end)


def logged(digest: bytes, item: Logged, log: SignedLog, moduli: dict[int, bytes]) -> bytes:
    tag, _, ordinal = struct.unpack_from(">HII", item.command)
    head_in, head_out, count = OUTSIDE[ordinal]
    data = item.command[10 + head_in : len(item.command) - 45 * (tag - 0xC1)]
    if count is None:
        count = int(data[:4] == b"\0\0\0\1")
    names = struct.unpack_from(f">{count}I", item.command, 10)
    stores = (struct.pack(">I", len(moduli[n])) + moduli[n] for n in names)
    pub_key_hash = sha1(*(sha1(store) for store in stores)) if names else bytes(20)
    digest = sha1(digest, b"\0\x10", sha1(item.command[6:10], data), pub_key_hash)
    tag, _, rc = struct.unpack_from(">HII", item.response)
    data = b"" if rc else item.response[10 + head_out : len(item.response) - 41 * (tag - 0xC4)]
    if ordinal == 0x41 and rc == 0:
        (handle,) = struct.unpack_from(">I", item.response, 10)
        moduli[handle] = modulus_in(item.command)
    out = sha1(struct.pack(">I", rc), item.command[6:10], data)
    locality = struct.pack(">I", item.locality)
    return sha1(digest, b"\0\x11", ticks_of(log, item.ticks), out, locality)


def modulus_in(load: bytes) -> bytes:
    """The modulus in the TPM_KEY of a TPM_LoadKey2 frame."""
    at = 14 + 4 + 2 + 4 + 1 + 4 + 2 + 2
    at += 4 + int.from_bytes(load[at : at + 4], "big")  # parameters
    at += 4 + int.from_bytes(load[at : at + 4], "big")  # pcrInfo
    size = int.from_bytes(load[at : at + 4], "big")
    return load[at + 4 : at + 4 + size]


def verify(modulus_of: PubKey, signature: bytes, signed: bytes) -> None:
    to_public_key(modulus_of).verify(signature, signed, padding.PKCS1v15(), hashes.SHA1())


def pub_of(device: Device, name: str) -> PubKey:
    key = device.key(name)
    return PubKey(key.algorithm_parms, key.pub_key)


def many_commands(device: Device, tpm: Tpm) -> None:
    """Commands with and without handles, sessions and secrets; refused ones among them."""
    root = keys.srk(SRK)
    assert pcr.read(tpm, 7) == pcr.read(device.client, 7)
    pcr.extend(tpm, 16, DIGEST)
    with pytest.raises(TpmError) as refused:
        tpm.execute(PcrRead(99))
    assert rc_of(refused) == Rc.BADINDEX
    tpm.execute(SHA1Start())
    tpm.execute(SHA1Update(bytes(64)))
    assert tpm.execute(SHA1Complete(b"x")).hash_value == sha1(bytes(64), b"x")
    assert keys.loaded_handles(tpm) == keys.loaded_handles(device.client)
    assert tpm.execute(GetAuditDigest(0)).ordinals

    blob = seal.seal(tpm, root, Secret(b"disk key"), USAGE)
    assert seal.unseal(tpm, root, blob, USAGE).reveal() == b"disk key"
    assert seal.unseal(device.client, root, blob, USAGE).reveal() == b"disk key"
    with pytest.raises(TpmError) as refused:
        seal.unseal(tpm, root, blob, WRONG)
    assert rc_of(refused) == Rc.AUTH2FAIL

    made = keys.create(tpm, root, keys.signing_key(bits=1024), USAGE)
    with keys.loaded(tpm, root, made, USAGE) as key:
        public = keys.get_pub(tpm, key)
        verify(public, keys.sign(tpm, key, DIGEST), b"data")
        with pytest.raises(TpmError) as refused:
            tpm.execute_with(Sign(key.handle, DIGEST), WRONG)
        assert rc_of(refused) == Rc.AUTHFAIL
        quoted = quote.quote(tpm, key, NONCE, [0, 7])
        quote.verify_quote(to_public_key(public), quoted, NONCE, quoted.pcrs)
        tpm.execute_with(TickStampBlob(key.handle, NONCE, DIGEST), USAGE)
        with key.osap(tpm) as session:
            tpm.execute(Sign(key.handle, DIGEST), session)
            tpm.execute(Sign(key.handle, DIGEST), session)
    for handle in (KeyHandleValue.EK, KeyHandleValue.SRK):
        tpm.execute_with(OwnerReadInternalPub(handle), OWNER)

    nv.define(tpm, 0x1000, 8, NvPermission.OWNERREAD | NvPermission.OWNERWRITE, owner_auth=OWNER)
    nv.write(tpm, 0x1000, b"12345678", owner_auth=OWNER)
    assert nv.read(tpm, 0x1000, owner_auth=OWNER) == b"12345678"
    nv.delete(tpm, 0x1000, owner_auth=OWNER)
    counter = counters.create(tpm, OWNER, USAGE, b"wrap")
    counters.release_as_owner(tpm, counter.handle, OWNER)


@pytest.mark.parametrize("cipher", CIPHERS, ids=str)
def test_the_signed_log_is_that_of_the_commands(owned: Device, cipher: Cipher | None) -> None:
    signer = owned.load("signing")
    with established(owned, cipher, log=True) as session:
        many_commands(owned, session.tpm)
        log = session.release_signed(signer, NONCE)
    assert owned.prepared.srk is not None
    named = {SRK_HANDLE: owned.prepared.srk, int(KeyHandleValue.EK): owned.ek}
    digest = log_of(log, {handle: key.pub_key for handle, key in named.items()})
    signed = b"\0\x05TRAN" + NONCE + struct.pack(">I", 20) + digest
    public = pub_of(owned, "signing")
    verify(public, log.release.signature, signed)

    # The client for users comes to the same result.
    assert log.digest(named) == digest
    transport.verify_log(to_public_key(public), log, named)
    left_out = SignedLog(log.request, log.reply, log.commands[1:], log.nonce, log.release)
    with pytest.raises(VerificationError):
        transport.verify_log(to_public_key(public), left_out, named)
    with pytest.raises(InvalidSignature):
        verify(public, log.release.signature, signed[:-1] + b"\0")


def test_a_session_with_a_clear_secret_logs_as_well(owned: Device) -> None:
    signer = owned.load("signing INFO")
    with transport.establish_clear(owned.client, log=True) as session:
        pcr.read(session.tpm, 3)
        log = session.release_signed(signer, NONCE)
    transport.verify_log(to_public_key(pub_of(owned, "signing INFO")), log, {})
    assert [frame.command for frame in log.commands] == [command(0x15, struct.pack(">I", 3))]


def test_localities_are_logged(owned: Device) -> None:
    signer = owned.load("signing without auth")
    with transport.establish_clear(owned.client, log=True) as session:
        for locality in (0, 2, 4):
            with owned.at(locality):
                pcr.read(session.tpm, 3)
        log = session.release_signed(signer, NONCE)
    assert [logged.locality for logged in log.commands] == [0, 2, 4]
    transport.verify_log(to_public_key(pub_of(owned, "signing without auth")), log, {})


# --- releasing ---------------------------------------------------------------------------------


def release(device: Device, session: TransportSession, key: keys.KeyRef, *secrets: Secret) -> int:
    """The return code of TPM_ReleaseTransportSigned."""
    opened = [device.client.oiap(secret) for secret in secrets]
    request = ReleaseTransportSigned(key.handle, NONCE)
    return device.refusal_in(request, *opened, session.authorisation)


def test_only_signing_keys_sign_a_log(owned: Device) -> None:
    """24.3 actions 2 and 3."""
    for name, rc in (
        ("signing DER", Rc.INAPPROPRIATE_SIG),
        ("bind", Rc.INAPPROPRIATE_SIG),
        ("identity", Rc.INVALID_KEYUSAGE),
    ):
        session = transport.establish_clear(owned.client, log=True)
        assert release(owned, session, owned.load(name), USAGE) == rc
        assert session.handle not in keys.loaded_handles(owned.client, ResourceType.TRANS)


def test_release_proves_key_and_session(owned: Device) -> None:
    """24.3 actions 4 and 5."""
    key = owned.load("signing")
    session = transport.establish_clear(owned.client, log=True)
    assert release(owned, session, key, WRONG) == Rc.AUTHFAIL
    session = transport.establish_clear(owned.client, log=True)
    assert release(owned, session, key) == Rc.AUTHFAIL
    for name, secrets in (("signing", (USAGE,)), ("signing without auth", ())):
        session = transport.establish_clear(owned.client, log=True)
        session.authorisation.keyed(WRONG)
        assert release(owned, session, owned.load(name), *secrets) == Rc.AUTH2FAIL


def test_there_is_nothing_to_sign_without_a_log(owned: Device) -> None:
    """24.3 action 7."""
    session = transport.establish_clear(owned.client)
    assert release(owned, session, owned.load("signing"), USAGE) == Rc.BAD_MODE


def test_a_wrapped_response_fits_into_the_outer_one(owned: Device) -> None:
    """24.2 has no code for one that does not; of 4096 bytes 67 are the outer one's."""
    session = Bare(owned)
    fits = 4096 - 67 - 14
    assert len(session.inner(command(0x46, struct.pack(">I", fits)))) == 14 + fits
    assert rc_in(session.execute(command(0x46, struct.pack(">I", fits + 1)))) == Rc.SIZE


def test_a_released_session_is_gone(owned: Device) -> None:
    key = owned.load("signing")
    session = Bare(owned, LOG)
    flush = FlushSpecific(session.handle, ResourceType.TRANS)
    assert owned.refusal(flush) == Rc.SUCCESS
    assert rc_in(session.execute(PCR_READ)) == Rc.INVALID_AUTHHANDLE
    other = transport.establish_clear(owned.client, log=True)
    other.release_signed(key, NONCE)
    assert rc_in(owned.send(other_frame(other))) == Rc.INVALID_AUTHHANDLE


def other_frame(session: TransportSession) -> bytes:
    tail = struct.pack(">I", session.handle) + bytes(41)
    return command(0xE7, ExecuteTransport(PCR_READ).encode() + tail, 0x00C2)


# --- what goes on inside -----------------------------------------------------------------------


def test_nobody_reads_an_encrypted_session(owned: Device) -> None:
    """The value sealed and the value unsealed are on the bus only encrypted."""
    seen: list[bytes] = []
    wire = owned.wire
    original = wire.execute

    def tapped(frame: bytes) -> bytes:
        seen.append(frame)
        seen.append(original(frame))
        return seen[-1]

    wire.execute = tapped  # type: ignore[method-assign]
    try:
        with established(owned, Cipher.AES128_CTR) as session:
            blob = seal.seal(session.tpm, keys.srk(SRK), Secret(b"disk key"), USAGE)
            assert seal.unseal(session.tpm, keys.srk(SRK), blob, USAGE).reveal() == b"disk key"
    finally:
        del wire.execute  # type: ignore[method-assign]
    assert len(seen) > 10
    assert not any(b"disk key" in frame for frame in seen)


def test_wrong_secrets_inside_count(owned: Device) -> None:
    """A transport session is no way around the dictionary-attack defence."""
    key = owned.load("signing")
    answers = []
    with established(owned, None) as session:
        for _ in range(7):
            with pytest.raises(TpmError) as refused:
                session.tpm.execute_with(Sign(key.handle, DIGEST), WRONG)
            answers.append(rc_of(refused))
    assert answers == [Rc.AUTHFAIL] * 6 + [Rc.DEFEND_LOCK_RUNNING]
    assert owned.refusal(Sign(key.handle, DIGEST), USAGE) == Rc.DEFEND_LOCK_RUNNING
    owner.reset_lock(owned.client, OWNER)


def test_sessions_are_the_same_inside_and_outside(owned: Device) -> None:
    """A session that was opened inside goes on outside, and the other way round."""
    key = owned.load("signing")
    with established(owned, Cipher.MGF1) as session, session.tpm.oiap(USAGE) as auth:
        request = Sign(key.handle, DIGEST)
        first = session.tpm.execute(request, auth).sig
        assert owned.client.execute(request, auth).sig == first
        assert session.tpm.execute(request, auth).sig == first
        with pytest.raises(TpmError):
            session.tpm.execute(request, wrongly(auth))
        assert owned.refusal(FlushSpecific(auth.handle, ResourceType.AUTH)) != Rc.SUCCESS
        auth.lost()


def wrongly(session: AuthSession) -> AuthSession:
    return session.keyed(WRONG)


def test_a_hash_is_computed_within_one_session(owned: Device) -> None:
    """13.1 description 2.b."""
    with established(owned, None) as one, established(owned, None) as other:
        tpms: Iterable[tuple[Tpm, Tpm]] = (
            (one.tpm, other.tpm),
            (one.tpm, owned.client),
            (owned.client, one.tpm),
        )
        for begins, goes_on in tpms:
            begins.execute(SHA1Start())
            with pytest.raises(TpmError) as refused:
                goes_on.execute(SHA1Complete(b"x"))
            assert rc_of(refused) == Rc.SHA_THREAD
        one.tpm.execute(SHA1Start())
        assert one.tpm.execute(SHA1Complete(b"x")).hash_value == sha1(b"x")


def test_the_largest_wrapped_response(owned: Device) -> None:
    """A wrapped response must leave room for the outer one."""
    with established(owned, Cipher.AES128_OFB) as session:
        assert len(session.tpm.execute(GetRandom(4000)).random_bytes) <= 4000


@pytest.mark.alters
def test_the_owner_can_be_cleared_inside(owned: Device) -> None:
    """24.2 description 7.b leaves the session's fate open; the owner is gone."""
    session = established(owned, Cipher.AES128_CTR)
    owner.owner_clear(session.tpm, OWNER)
    assert owned.refusal(OwnerReadInternalPub(SRK_HANDLE), OWNER) != Rc.SUCCESS
