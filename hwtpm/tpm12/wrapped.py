"""Commands inside transport sessions: which of their bytes are encrypted and logged, and how.

The same functions serve both sides, the client that wraps a command and the TPM that unwraps it.
Source: TPM Main, Version 1.2, Revision 116, Part 3 section 24.2.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from hwtpm.tpm12.const import DIGEST_SIZE, KeyAlgorithm, ResourceType, Tag, TransportAttribute
from hwtpm.tpm12.const import EncScheme as Scheme
from hwtpm.tpm12.frame import AUTH_REQUEST_SIZE, AUTH_RESPONSE_SIZE, HEADER_SIZE
from hwtpm.tpm12.masks import mgf1, xor
from hwtpm.tpm12.table import Command
from hwtpm.tpm12.types import CurrentTicks
from hwtpm.tpm12.types.transport import TransportLogIn, TransportLogOut, TransportPublic

__all__ = [
    "CIPHERS",
    "Way",
    "crypt",
    "key_handles",
    "log_in",
    "log_out",
    "outer_request_digest",
    "outer_response_digest",
    "pub_key_digest",
    "request_data",
    "response_data",
]

CIPHERS: Final[dict[int, tuple[int, ...]]] = {
    KeyAlgorithm.MGF1: (Scheme.NONE,),
    KeyAlgorithm.AES128: (Scheme.SYM_CTR, Scheme.SYM_OFB),
}
"""Algorithms and their schemes; AES keys are the first bytes of the session's secret."""

Way = Literal[b"in", b"out"]
"""Request or response."""

_REQUEST_HEADS: Final = {"TPM_OSAP": 26, "TPM_DSAP": 30}
"""Leading bytes of parameters that stay clear and unlogged, for commands where these are not
handles (description 6.f and 6.g; of TPM_DSAP, entityValue alone is left)."""
_RESPONSE_HEADS: Final = {"TPM_OIAP": 24, "TPM_OSAP": 44, "TPM_DSAP": 44}

_TYPED_HANDLE: Final = ("TPM_FlushSpecific", "TPM_SaveContext")  # description 6.a
_HANDLE_IN_DATA: Final = ("TPM_OwnerReadInternalPub",)
_OTHER_HANDLES: Final = (
    "TPM_OSAP",  # 6.f: the key is logged when it is used
    "TPM_DSAP",
    "TPM_DAA_Join",
    "TPM_DAA_Sign",
    "TPM_LoadContext",
    "TPM_SaveAuthContext",
    "TPM_Terminate_Handle",
)
"""Commands whose handles are not those of keys."""


def request_data(row: Command, frame: bytes) -> tuple[int, int]:
    """Where DATAw of a request begins and ends.

    Raises:
        ValueError: the frame is too short for the handles and sessions that it must have.
    """
    assert row.request is not None
    head = _REQUEST_HEADS.get(row.name, row.request.layout.head_size)
    sessions = int.from_bytes(frame[:2], "big") - Tag.RQU_COMMAND
    return _data(frame, head, AUTH_REQUEST_SIZE * sessions if sessions in (1, 2) else 0)


def response_data(row: Command, frame: bytes) -> tuple[int, int]:
    """Where DATAw of a response begins and ends; a failed command's is empty.

    Raises:
        ValueError: the frame is too short for the handles and sessions that it must have.
    """
    assert row.reply is not None
    if any(frame[6:HEADER_SIZE]):
        return len(frame), len(frame)
    head = _RESPONSE_HEADS.get(row.name, row.reply.layout.head_size)
    sessions = int.from_bytes(frame[:2], "big") - Tag.RSP_COMMAND
    return _data(frame, head, AUTH_RESPONSE_SIZE * sessions)


def _data(frame: bytes, head: int, tails: int) -> tuple[int, int]:
    start, end = HEADER_SIZE + head, len(frame) - tails
    if start > end:
        raise ValueError("the frame is too short for what it must have")
    return start, end


def key_handles(row: Command, frame: bytes) -> tuple[int, ...]:
    """The handles in a request, not encrypted, whose public keys the log takes (action 10)."""
    assert row.request is not None
    if row.name in _OTHER_HANDLES:
        return ()
    count = row.request.layout.handles
    if row.name in _HANDLE_IN_DATA:
        count = 1
    elif row.name in _TYPED_HANDLE and _word(frame, 1) != ResourceType.KEY:
        count = 0
    return tuple(_word(frame, number) for number in range(count))


def _word(frame: bytes, number: int) -> int:
    at = HEADER_SIZE + 4 * number
    return int.from_bytes(frame[at : at + 4], "big")


def crypt(
    public: TransportPublic,
    secret: bytes,
    nonce_even: bytes,
    nonce_odd: bytes,
    way: Way,
    data: bytes,
) -> bytes:
    """DATAw encrypted or decrypted (actions 4 and 17), as it is if the session does not encrypt.

    Args:
        public: tells whether and how the session encrypts.
        secret: its AuthData, 20 bytes.
        nonce_even: for a request the TPM's last nonce, for a response its new one.
        nonce_odd: the caller's nonce.
        way: `in` for a request, `out` for a response.
        data: what to encrypt or decrypt.
    """
    if not data or not public.trans_attributes & TransportAttribute.ENCRYPT:
        return data
    seed = nonce_even + nonce_odd + way
    if public.alg_id == KeyAlgorithm.MGF1:
        return xor(data, mgf1(seed + secret, len(data)))
    return xor(data, _aes_key_stream(public.enc_scheme, secret, seed, len(data)))


_AES_BLOCK: Final = 16


def _aes_key_stream(scheme: int, secret: bytes, seed: bytes, size: int) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    # ECB is the bare block function here: each block that goes in is used once.
    ecb = Cipher(algorithms.AES128(secret[:_AES_BLOCK]), modes.ECB()).encryptor()  # noqa: S305
    block = mgf1(seed, _AES_BLOCK)
    count = -(-size // _AES_BLOCK)
    if scheme == Scheme.SYM_OFB:
        stream = b""
        for _ in range(count):
            block = ecb.update(block)
            stream += block
        return stream[:size]
    # Other libraries carry into all 16 bytes; a TPM counts in the last four (informative comment).
    fixed, start = block[:-4], int.from_bytes(block[-4:], "big")
    counters = (((start + i) & 0xFFFFFFFF).to_bytes(4, "big") for i in range(count))
    return ecb.update(b"".join(fixed + counter for counter in counters))[:size]


def outer_request_digest(ordinal: int, size: int, inner: bytes) -> bytes:
    """inParamDigest of TPM_ExecuteTransport (action 7.a): `inner` is H1, the digest of the wrapped
    ordinal and DATAw, `size` that of the wrapped command."""
    return hashlib.sha1(ordinal.to_bytes(4, "big") + size.to_bytes(4, "big") + inner).digest()


def outer_response_digest(
    ordinal: int, ticks: int, locality: int, size: int, inner: bytes
) -> bytes:
    """outParamDigest of TPM_ExecuteTransport (action 15.b): `inner` is H2, the digest of the
    wrapped return code, ordinal and DATAw, `size` that of the wrapped response."""
    words = bytes(4) + ordinal.to_bytes(4, "big") + ticks.to_bytes(8, "big")
    words += locality.to_bytes(4, "big") + size.to_bytes(4, "big")
    return hashlib.sha1(words + inner).digest()


def pub_key_digest(modulus: bytes) -> bytes:
    """K2 and K3 of action 10: the SHA-1 of TPM_STORE_PUBKEY."""
    return hashlib.sha1(len(modulus).to_bytes(4, "big") + modulus).digest()


def log_in(log: bytes, parameters: bytes, *keys: bytes) -> bytes:
    """The log after a request; `keys` are the `pub_key_digest` of the keys that it names."""
    pub_key_hash = hashlib.sha1(b"".join(keys)).digest() if keys else bytes(DIGEST_SIZE)
    return hashlib.sha1(log + TransportLogIn(parameters, pub_key_hash).encode()).digest()


def log_out(log: bytes, ticks: CurrentTicks, parameters: bytes, locality: int) -> bytes:
    """The log after a response."""
    return hashlib.sha1(log + TransportLogOut(ticks, parameters, locality).encode()).digest()
