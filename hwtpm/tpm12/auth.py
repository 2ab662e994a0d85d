"""Authorisation sessions OIAP and OSAP as pure functions (Part 1 section 13, Part 3 section 18).

Nonces roll: each side proves knowledge of the secret over its own new nonce and the other's last
one. The same functions serve both sides, the client that makes a request and the TPM that checks
it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from hwtpm.errors import VerificationError
from hwtpm.secret import Secret
from hwtpm.tpm12.aes import AES_BLOCK_SIZE, aes128_ctr
from hwtpm.tpm12.const import ET_AES128_CTR, ET_XOR
from hwtpm.tpm12.frame import AuthRequest, AuthResponse

__all__ = [
    "ADIP",
    "Session",
    "adip_aes128_ctr",
    "adip_xor",
    "authorise",
    "osap_shared_secret",
    "request_digest",
    "response_digest",
    "session_hmac",
    "verify_response",
]


def request_digest(ordinal: int, params: bytes) -> bytes:
    """inParamDigest: SHA-1 over the ordinal and the parameters without their handles."""
    return hashlib.sha1(ordinal.to_bytes(4, "big") + params).digest()


def response_digest(rc: int, ordinal: int, params: bytes) -> bytes:
    """outParamDigest: SHA-1 over return code, ordinal and the parameters without handles."""
    return hashlib.sha1(rc.to_bytes(4, "big") + ordinal.to_bytes(4, "big") + params).digest()


def session_hmac(
    secret: bytes, digest: bytes, nonce_even: bytes, nonce_odd: bytes, continue_session: int
) -> bytes:
    """inAuth and resAuth: HMAC-SHA1 over digest, even nonce, odd nonce, continueAuthSession."""
    message = b"%b%b%b%c" % (digest, nonce_even, nonce_odd, continue_session)
    return hmac.digest(secret, message, "sha1")


def osap_shared_secret(entity_auth: bytes, nonce_even_osap: bytes, nonce_odd_osap: bytes) -> bytes:
    """The OSAP shared secret: HMAC-SHA1 under the entity's AuthData (Part 3 section 18.2)."""
    return hmac.digest(entity_auth, nonce_even_osap + nonce_odd_osap, "sha1")


def adip_xor(shared_secret: bytes, nonce: bytes, auth: bytes) -> bytes:
    """Encrypt or decrypt a new AuthData by the XOR scheme of ADIP (Part 1 section 13.5)."""
    pad = hashlib.sha1(shared_secret + nonce).digest()
    return (int.from_bytes(pad, "big") ^ int.from_bytes(auth, "big")).to_bytes(20, "big")


def adip_aes128_ctr(shared_secret: bytes, nonce: bytes, auth: bytes) -> bytes:
    """Encrypt or decrypt a new AuthData by the AES-128 scheme of ADIP: the first bytes of the
    shared secret are the key, those of the nonce the first counter value (Part 1 section 13.5)."""
    return aes128_ctr(shared_secret[:AES_BLOCK_SIZE], nonce[:AES_BLOCK_SIZE], auth)


ADIP: Final[dict[int, Callable[[bytes, bytes, bytes], bytes]]] = {
    ET_XOR: adip_xor,
    ET_AES128_CTR: adip_aes128_ctr,
}
"""ADIP schemes by the upper byte of TPM_ENTITY_TYPE (Part 2 section 4.3)."""


@dataclass(frozen=True, slots=True)
class Session:
    """The client's view of one session: its handle, its key and the TPM's last nonce.

    For OIAP `key` is the entity's AuthData, for OSAP the shared secret.
    """

    handle: int
    nonce_even: bytes
    key: Secret

    def keyed(self, key: Secret) -> Session:
        """The same OIAP session, to authorise another entity."""
        return replace(self, key=key)


def authorise(
    session: Session, digest: bytes, nonce_odd: bytes, *, continue_session: bool
) -> AuthRequest:
    """The authorisation tail for a request with that digest."""
    mac = session_hmac(
        session.key.reveal(), digest, session.nonce_even, nonce_odd, continue_session
    )
    return AuthRequest(session.handle, nonce_odd, continue_session, mac)


def verify_response(
    session: Session, sent: AuthRequest, answer: AuthResponse, digest: bytes
) -> Session:
    """The session after a proven answer.

    Raises:
        VerificationError: the answer was not made by somebody who knows the session's key.
    """
    expected = session_hmac(
        session.key.reveal(), digest, answer.nonce_even, sent.nonce_odd, answer.continue_session
    )
    if not hmac.compare_digest(expected, answer.hmac):
        raise VerificationError(
            f"the TPM's answer in session {session.handle:#010x} is not authentic",
            hint="somebody changes traffic between here and the TPM, or the password is wrong",
        )
    return replace(session, nonce_even=answer.nonce_even)
