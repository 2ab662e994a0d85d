"""Transport sessions (Part 3 section 24)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import ACTIONS, Call, Refuse, serves
from hwtpm.softtpm.engine.keys import LoadedKey
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.rsa import decrypt_given, sign_digest
from hwtpm.softtpm.engine.transports import TransportSession
from hwtpm.tpm12.auth import request_digest, response_digest
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
    MAX_FRAME,
    KeyAlgorithm,
    KeyHandleValue,
    KeyUsage,
    SigScheme,
    TransportAttribute,
)
from hwtpm.tpm12.frame import AUTH_RESPONSE_SIZE, HEADER_SIZE
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Command
from hwtpm.tpm12.types import SignInfo
from hwtpm.tpm12.types.transport import TransportAuth, TransportPublic
from hwtpm.tpm12.wrapped import (
    CIPHERS,
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
from hwtpm.wire import Fault, WireError

__all__: list[str] = []

_TRAN: Final = b"TRAN"
_NO_WRAP: Final = frozenset(
    request.command.ordinal
    for request in (EstablishTransport, ExecuteTransport, ReleaseTransportSigned)
)
# Response header, currentTicks, locality, wrappedRspSize; the tail behind the wrapped response.
_MAX_WRAPPED: Final = MAX_FRAME - HEADER_SIZE - 8 - 4 - 4 - AUTH_RESPONSE_SIZE


@serves(EstablishTransport)
def establish_transport(call: Call, request: EstablishTransport) -> EstablishTransportReply:
    """24.1."""
    tpm, public = call.tpm, request.trans_public
    encrypts = bool(public.trans_attributes & TransportAttribute.ENCRYPT)
    if request.enc_handle == KeyHandleValue.TRANSPORT:
        if call.tails:
            raise Refuse(Rc.BADTAG)
        if encrypts:
            raise Refuse(Rc.BAD_SCHEME)
        if len(request.secret) != DIGEST_SIZE:
            raise Refuse(Rc.BAD_PARAM_SIZE)
        auth = request.secret
    else:
        auth = _decrypted_secret(call, request)
    if encrypts:
        _check_cipher(call, public)
    nonce_even = tpm.random(DIGEST_SIZE)
    handle = tpm.transports.new_handle()
    session = TransportSession(handle, nonce_even, auth=auth, public=public)
    ticks, locality = tpm.current_ticks, call.locality
    reply = EstablishTransportReply(handle, locality, ticks, nonce_even)
    if session.logs:
        out = reply.encode()[request.layout.head_size :]
        out_digest = response_digest(Rc.SUCCESS, call.row.ordinal, out)
        session.log = log_out(log_in(session.log, call.digest), ticks, out_digest, locality)
    if session.exclusive:
        tpm.stclear = replace(tpm.volatile, exclusive_transport=handle)
    tpm.transports.put(session)
    return reply


def _decrypted_secret(call: Call, request: EstablishTransport) -> bytes:
    """Action 2."""
    key = call.tpm.key(request.enc_handle)
    if key.key.key_usage not in (KeyUsage.STORAGE, KeyUsage.LEGACY):
        raise Refuse(Rc.INVALID_KEYUSAGE)
    _authorise(call, key, left_out=not call.tails)
    check_release(call, key.condition)
    scheme = key.key.algorithm_parms.enc_scheme
    plain = decrypt_given(key.private, request.secret, scheme)
    try:
        # Part 3 does not say what to make of bytes behind the structure; libtpms takes them.
        auth, _ = TransportAuth.layout.read(plain, 0, len(plain))
    except WireError as error:
        wrong_tag = error.fault is Fault.HEAD
        raise Refuse(Rc.INVALID_STRUCTURE if wrong_tag else Rc.BAD_PARAM_SIZE) from None
    secret: bytes = auth.auth_data
    return secret


def _authorise(call: Call, key: LoadedKey, *, left_out: bool) -> None:
    """Prove the key's AuthData, unless the key needs none and its session was left out."""
    if not left_out:
        call.authorise_key(key)
    elif key.needs_auth:
        raise Refuse(Rc.AUTHFAIL)


def _check_cipher(call: Call, public: TransportPublic) -> None:
    """Action 3."""
    if call.tpm.permanent.flags.fips and public.alg_id == KeyAlgorithm.MGF1:
        raise Refuse(Rc.INAPPROPRIATE_ENC)
    schemes = CIPHERS.get(public.alg_id)
    if schemes is None:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    if public.enc_scheme not in schemes:
        raise Refuse(Rc.INAPPROPRIATE_ENC)


@serves(ExecuteTransport)
def execute_transport(call: Call, request: ExecuteTransport) -> ExecuteTransportReply:
    """24.2."""
    tpm, tail, wrapped = call.tpm, call.tails[0], request.wrapped_cmd
    session = _transport(call)
    row, start, end = _parsed(wrapped)
    data = _crypted(call, session, b"in", wrapped[start:end])
    h1 = request_digest(row.ordinal, data)
    call.digest = outer_request_digest(call.row.ordinal, len(wrapped), h1)
    if not call.proves(session.auth):
        raise Refuse(Rc.AUTHFAIL)
    if row.ordinal in _NO_WRAP:
        raise Refuse(Rc.NO_WRAP_TRANSPORT)
    command = wrapped[:start] + data + wrapped[end:]
    log = session.log
    if session.logs:
        log = log_in(log, h1, *_logged_keys(call, row, command))
    response = tpm.execute_within(call, session, command)
    if len(response) > _MAX_WRAPPED:
        raise Refuse(Rc.SIZE)
    ticks = tpm.current_ticks
    start, end = response_data(row, response)
    rc = int.from_bytes(response[6:HEADER_SIZE], "big")
    h2 = response_digest(rc, row.ordinal, response[start:end])
    call.out_digest = outer_response_digest(
        call.row.ordinal, ticks.current_ticks, call.locality, len(response), h2
    )
    # Audited here, after the wrapped command and not before it as in action 8: 8.1 audits what
    # has succeeded.
    call.audited = h1, h2
    tail.nonce_even = tpm.random(DIGEST_SIZE)
    if session.logs:
        session.log = log_out(log, ticks, h2, call.locality)
    if tpm.transports.get(session.handle) is not session:
        tail.continue_session = 0  # description 7: the wrapped command ended it
    data = _crypted(call, session, b"out", response[start:end])
    response = response[:start] + data + response[end:]
    return ExecuteTransportReply(ticks.current_ticks, call.locality, response)


def _transport(call: Call) -> TransportSession:
    """Action 1. The dispatcher found it."""
    session = call.sessions[-1]
    assert isinstance(session, TransportSession)
    return session


def _parsed(wrapped: bytes) -> tuple[Command, int, int]:
    """Actions 2 and 3: the wrapped command's row, and where its DATAw begins and ends."""
    served = ACTIONS.get(int.from_bytes(wrapped[6:HEADER_SIZE], "big"))
    if len(wrapped) < HEADER_SIZE or served is None:
        raise Refuse(Rc.BAD_PARAMETER)
    if int.from_bytes(wrapped[2:6], "big") != len(wrapped):
        raise Refuse(Rc.BAD_PARAM_SIZE)
    try:
        return served.row, *request_data(served.row, wrapped)
    except ValueError:
        raise Refuse(Rc.BAD_PARAMETER) from None


def _crypted(call: Call, session: TransportSession, way: Way, data: bytes) -> bytes:
    """Actions 4 and 17."""
    tail = call.tails[0]
    nonce_even = session.nonce_even if way == b"in" else tail.nonce_even
    return crypt(session.public, session.auth, nonce_even, tail.nonce_odd, way, data)


def _logged_keys(call: Call, row: Command, command: bytes) -> list[bytes]:
    """Action 10: digests of the public keys that the command names."""
    tpm = call.tpm
    return [
        pub_key_digest(
            (tpm.root_key(handle) if handle == KeyHandleValue.EK else tpm.key(handle)).key.pub_key
        )
        for handle in key_handles(row, command)
    ]


@serves(ReleaseTransportSigned)
def release_transport_signed(
    call: Call, request: ReleaseTransportSigned
) -> ReleaseTransportSignedReply:
    """24.3."""
    session = _transport(call)
    key = call.tpm.key(request.key_handle)
    schemes = (SigScheme.RSA_PKCS_V15_SHA1, SigScheme.RSA_PKCS_V15_INFO)
    if key.key.algorithm_parms.sig_scheme not in schemes:
        raise Refuse(Rc.INAPPROPRIATE_SIG)
    if key.key.key_usage != KeyUsage.SIGNING:
        raise Refuse(Rc.INVALID_KEYUSAGE)
    _authorise(call, key, left_out=len(call.tails) == 1)
    check_release(call, key.condition)
    if not call.proves(session.auth):
        raise Refuse(Rc.AUTH2FAIL)
    if not session.logs:
        raise Refuse(Rc.BAD_MODE)
    ticks = call.tpm.current_ticks
    log = log_out(session.log, ticks, call.digest, call.locality)
    signed = SignInfo(_TRAN, request.anti_replay, log)
    signature = sign_digest(key.private, hashlib.sha1(signed.encode()).digest())
    call.tails[-1].continue_session = 0
    return ReleaseTransportSignedReply(call.locality, ticks, signature)
