"""Transport sessions: commands that nobody between here and the TPM can read or change, and a log
of them that the TPM signs (TPM Main 1.2, Part 3 section 24).

with transport.establish(tpm, keys.srk(), srk_public) as session:
    secret = seal.unseal(session.tpm, keys.srk(), blob, auth)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from hwtpm.client.keys import KeyRef
from hwtpm.client.rsa import oaep_encrypt, to_public_key, verify_sha1
from hwtpm.client.session import AuthSession, Tpm
from hwtpm.errors import HwtpmError, UsageError, VerificationError
from hwtpm.secret import Secret
from hwtpm.tpm12 import rc
from hwtpm.tpm12.auth import (
    Session,
    request_digest,
    response_digest,
    verify_response,
)
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.storage import LoadKey2
from hwtpm.tpm12.commands.transport import (
    EstablishTransport,
    EstablishTransportReply,
    ExecuteTransport,
    ExecuteTransportReply,
    ReleaseTransportSigned,
    ReleaseTransportSignedReply,
)
from hwtpm.tpm12.const import (
    DIGEST_SIZE,
    EncScheme,
    KeyAlgorithm,
    KeyHandleValue,
    ResourceType,
    TransportAttribute,
)
from hwtpm.tpm12.frame import HEADER_SIZE, build_request, ordinal_of, parse_response, return_code_of
from hwtpm.tpm12.table import TABLE, Command
from hwtpm.tpm12.types import CurrentTicks, PubKey, SignInfo
from hwtpm.tpm12.types.transport import TransportAuth, TransportPublic
from hwtpm.tpm12.wrapped import (
    Way,
    crypt,
    key_handles,
    log_in,
    log_out,
    outer_request_digest,
    outer_response_digest,
    pub_key_digest,
    request_data,
    response_data,
)
from hwtpm.transport.base import Attached

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = [
    "Cipher",
    "Logged",
    "SignedLog",
    "TransportSession",
    "establish",
    "establish_clear",
    "verify_log",
]

_log: Final = logging.getLogger(__name__)


class Cipher(Enum):
    """How a session encrypts: algorithm and scheme."""

    MGF1 = (KeyAlgorithm.MGF1, EncScheme.NONE)
    AES128_CTR = (KeyAlgorithm.AES128, EncScheme.SYM_CTR)
    AES128_OFB = (KeyAlgorithm.AES128, EncScheme.SYM_OFB)


@dataclass(frozen=True, slots=True, repr=False)
class Logged:
    """A command that went through a session: both frames as they were before encryption, the tick
    count and the locality that the TPM gave with the response."""

    command: bytes
    response: bytes
    ticks: int
    locality: int


@dataclass(frozen=True, slots=True, repr=False)
class SignedLog:
    """A session from its beginning to the signature over its log."""

    request: EstablishTransport
    reply: EstablishTransportReply
    commands: tuple[Logged, ...]
    nonce: bytes
    release: ReleaseTransportSignedReply

    def digest(self, public_keys: Mapping[int, PubKey]) -> bytes:
        """transDigest, computed from what was sent and answered.

        Args:
            public_keys: the keys whose handles the commands name. Those that TPM_LoadKey2 loaded
                inside the session need not be there.

        Raises:
            UsageError: a key is missing.
        """
        moduli = {handle: key.pub_key for handle, key in public_keys.items()}
        log = bytes(DIGEST_SIZE)
        log = log_in(log, _digest_in(self.request.command, self.request.encode()))
        ticks, locality = self.reply.current_ticks, self.reply.locality
        log = log_out(log, ticks, _digest_out(self.request.command, self.reply.encode()), locality)
        for logged in self.commands:
            row = _row_of(logged.command)
            handles = key_handles(row, logged.command)
            keys = [pub_key_digest(_known(moduli, handle)) for handle in handles]
            log = log_in(log, _inner_digest_in(row, logged.command), *keys)
            at = CurrentTicks(logged.ticks, ticks.tick_rate, ticks.tick_nonce)
            log = log_out(log, at, _inner_digest_out(row, logged.response), logged.locality)
            _learn(moduli, logged)
        release = ReleaseTransportSigned(0, self.nonce)
        digest = _digest_in(release.command, release.encode())
        return log_out(log, self.release.current_ticks, digest, self.release.locality)


class TransportSession:
    """A transport session that is open in the TPM; leaving the `with` block flushes it.

    It is a transport itself (`hwtpm.transport.base.Transport`): `tpm` is the same TPM reached
    through it. Made by `establish` and `establish_clear`.
    """

    def __init__(
        self, outer: Tpm, request: EstablishTransport, reply: EstablishTransportReply, auth: Secret
    ) -> None:
        self._outer = outer
        self._request = request
        self._reply = reply
        state = Session(reply.trans_handle, reply.trans_nonce_even, auth)
        self._auth = AuthSession(outer, state)
        self._commands: list[Logged] = []
        self.tpm = Tpm(self, random=outer.random)

    @property
    def handle(self) -> int:
        """The TPM's handle of this session."""
        return self._auth.handle

    @property
    def authorisation(self) -> AuthSession:
        """The session as TPM_ReleaseTransportSigned takes it."""
        return self._auth

    @property
    def attached(self) -> Attached:
        """What the TPM runs on."""
        return self._outer.attached

    @property
    def logs(self) -> bool:
        """Whether the TPM keeps a log that can be signed."""
        return bool(self._request.trans_public.trans_attributes & TransportAttribute.LOG)

    def execute(self, command: bytes) -> bytes:
        """The response to a command that travels inside the session.

        Raises:
            UsageError: the session has ended, or the command has no known form.
            TpmError: the TPM refused TPM_ExecuteTransport itself; the session has ended.
            VerificationError: the answer is not from the TPM that knows the session's secret.
        """
        row = _row_of(command)
        auth, execute = self._auth, ExecuteTransport.command
        wrapped = self._crypted(b"in", auth.state.nonce_even, command, request_data(row, command))
        digest = outer_request_digest(execute.ordinal, len(command), _inner_digest_in(row, command))
        sent = auth.sign(digest, last=False)
        body = ExecuteTransport(wrapped).encode()
        try:
            answer = self._outer.transport.execute(build_request(execute.ordinal, body, (sent,)))
            frame = parse_response(answer)
        except HwtpmError:
            auth.lost()
            raise
        if frame.rc:
            if frame.rc & rc.NON_FATAL:
                auth.renew()
            else:
                auth.lost()
            raise rc.error(frame.rc, execute.name, self.attached.address)
        if len(frame.auths) != 1:
            raise VerificationError(
                f"{execute.name} on {self.attached.address}: the answer has no authorisation",
                hint="somebody changes traffic between here and the TPM",
            )
        (proof,) = frame.auths
        reply = ExecuteTransportReply.decode(frame.body)
        try:
            span = response_data(row, reply.wrapped_rsp)
        except ValueError:
            span = (0, 0)  # the proof below fails
        response = self._crypted(b"out", proof.nonce_even, reply.wrapped_rsp, span)
        inner = response_digest(return_code_of(response), row.ordinal, response[span[0] : span[1]])
        digest = outer_response_digest(
            execute.ordinal, reply.current_ticks, reply.locality, len(response), inner
        )
        state = verify_response(auth.state, sent, proof, digest)
        if self.logs:
            self._commands.append(Logged(command, response, reply.current_ticks, reply.locality))
        auth.proceed(sent, state, alive=proof.continue_session)
        return response

    def _crypted(self, way: Way, nonce_even: bytes, frame: bytes, span: tuple[int, int]) -> bytes:
        start, end = span
        auth = self._auth
        secret = auth.state.key.reveal()
        data = crypt(
            self._request.trans_public, secret, nonce_even, auth.nonce_odd, way, frame[start:end]
        )
        return frame[:start] + data + frame[end:]

    def release_signed(self, key: KeyRef, nonce: bytes) -> SignedLog:
        """End the session and have the TPM sign its log; `nonce` is the verifier's, 20 bytes."""
        if not self.logs:
            raise UsageError("the session has no log", hint="establish it with log=True")
        if len(nonce) != DIGEST_SIZE:
            raise UsageError(f"the nonce has {DIGEST_SIZE} bytes, this one {len(nonce)}")
        request = ReleaseTransportSigned(key.handle, nonce)
        sessions = [self._outer.oiap(secret) for secret in key.secrets]
        reply = self._outer.execute(request, *sessions, self._auth, last=True)
        return SignedLog(self._request, self._reply, tuple(self._commands), nonce, reply)

    def close(self) -> None:
        """Make the TPM forget the session, if it has not yet."""
        if self._auth.open:
            self._auth.lost()
            self._outer.execute(FlushSpecific(self.handle, ResourceType.TRANS))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except HwtpmError as flush_error:
            # What went wrong first is what the caller has to see.
            if error is None:
                raise
            _log.debug("transport %#010x not flushed: %s", self.handle, flush_error.message)


def establish(
    tpm: Tpm,
    key: KeyRef,
    public: PubKey,
    *,
    cipher: Cipher | None = Cipher.AES128_CTR,
    log: bool = False,
    exclusive: bool = False,
) -> TransportSession:
    """A session whose secret nobody but the TPM can read.

    Args:
        tpm: where.
        key: a storage key of that TPM; the SRK will do.
        public: its public part. Whoever can replace it can read the session.
        cipher: None leaves the commands readable and only proves them.
        log: have the TPM keep a log for `TransportSession.release_signed`.
        exclusive: end the session with the first command outside of it.
    """
    secret = tpm.random(DIGEST_SIZE)
    blob = oaep_encrypt(to_public_key(public), TransportAuth(secret).encode())
    request = EstablishTransport(key.handle, _public(cipher, log, exclusive), blob)
    reply = tpm.execute_with(request, *key.secrets)
    return TransportSession(tpm, request, reply, Secret(secret))


def establish_clear(tpm: Tpm, *, log: bool = False, exclusive: bool = False) -> TransportSession:
    """A session whose secret travels in clear: it logs, but it hides and proves nothing to anybody
    who can read the bus."""
    secret = tpm.random(DIGEST_SIZE)
    request = EstablishTransport(KeyHandleValue.TRANSPORT, _public(None, log, exclusive), secret)
    return TransportSession(tpm, request, tpm.execute(request), Secret(secret))


def _public(cipher: Cipher | None, log: bool, exclusive: bool) -> TransportPublic:
    attributes = TransportAttribute(0)
    if cipher is not None:
        attributes |= TransportAttribute.ENCRYPT
    if log:
        attributes |= TransportAttribute.LOG
    if exclusive:
        attributes |= TransportAttribute.EXCLUSIVE
    return TransportPublic(attributes, *(cipher or Cipher.MGF1).value)


def verify_log(key: RSAPublicKey, log: SignedLog, public_keys: Mapping[int, PubKey]) -> None:
    """Check that the TPM with that signing key saw these commands and gave these answers.

    Args:
        key: public part of the key that `release_signed` was given.
        log: what it returned.
        public_keys: see `SignedLog.digest`.

    Raises:
        VerificationError: something in the log is not what the TPM signed.
        UsageError: a key is missing.
    """
    signed = SignInfo(b"TRAN", log.nonce, log.digest(public_keys)).encode()
    verify_sha1(key, log.release.signature, signed, "transport log")


def _row_of(command: bytes) -> Command:
    row = TABLE.get(ordinal_of(command))
    if row is None or row.request is None:
        raise UsageError(
            f"{TABLE.name_of(ordinal_of(command))} cannot travel in a transport session",
            hint="only commands whose parameters are known can",
        )
    return row


def _digest_in(row: Command, body: bytes) -> bytes:
    assert row.request is not None
    return request_digest(row.ordinal, body[row.request.layout.head_size :])


def _digest_out(row: Command, body: bytes) -> bytes:
    assert row.reply is not None
    return response_digest(0, row.ordinal, body[row.reply.layout.head_size :])


def _inner_digest_in(row: Command, frame: bytes) -> bytes:
    start, end = request_data(row, frame)
    return request_digest(row.ordinal, frame[start:end])


def _inner_digest_out(row: Command, frame: bytes) -> bytes:
    start, end = response_data(row, frame)
    return response_digest(return_code_of(frame), row.ordinal, frame[start:end])


def _known(moduli: Mapping[int, bytes], handle: int) -> bytes:
    try:
        return moduli[handle]
    except KeyError:
        raise UsageError(
            f"the log names the key {handle:#010x}, whose public part is not known",
            hint="give it in public_keys",
        ) from None


def _learn(moduli: dict[int, bytes], logged: Logged) -> None:
    if ordinal_of(logged.command) == LoadKey2.command.ordinal and not return_code_of(
        logged.response
    ):
        request, _ = LoadKey2.layout.read(logged.command, HEADER_SIZE, len(logged.command))
        handle = int.from_bytes(logged.response[HEADER_SIZE : HEADER_SIZE + 4], "big")
        moduli[handle] = request.in_key.pub_key
