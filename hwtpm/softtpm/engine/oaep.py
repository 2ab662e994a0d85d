"""EME-OAEP with SHA-1 and MGF1 in the open: its seed and its parameters' digest given or returned.

Whole blobs are encrypted by the library (`Entropy.encrypt_oaep`). This is for where the
specification takes the encoding apart: migration and maintenance blobs carry their secrets in
seed and label digest (Part 3 sections 11 and 12; PKCS #1 v2.1 section 7.1).
"""

from __future__ import annotations

import hmac
from typing import Final

from hwtpm.tpm12.const import DIGEST_SIZE
from hwtpm.tpm12.masks import mgf1, xor

__all__ = ["OVERHEAD", "mgf1", "oaep_decode", "oaep_encode", "xor"]


OVERHEAD: Final = 2 * DIGEST_SIZE + 1
"""Bytes that an encoded message is longer than the message, at least."""


def oaep_encode(message: bytes, size: int, label_digest: bytes, seed: bytes) -> bytes:
    """The encoded message, `size` bytes: masked seed, masked data block; no leading zero byte.

    Args:
        message: what to encode, at most size - 41 bytes.
        size: bytes wanted; a modulus has one more.
        label_digest: 20 bytes, pHash.
        seed: 20 bytes.

    Raises:
        ValueError: the message is too long.
    """
    gap = size - len(message) - OVERHEAD
    if gap < 0:
        raise ValueError("too long to encode")
    block = label_digest + bytes(gap) + b"\x01" + message
    masked = xor(block, mgf1(seed, len(block)))
    return xor(seed, mgf1(masked, DIGEST_SIZE)) + masked


def oaep_decode(encoded: bytes, label_digest: bytes | None = None) -> tuple[bytes, bytes, bytes]:
    """Message, label digest and seed of an encoded message without leading zero byte.

    Args:
        encoded: what `oaep_encode` made.
        label_digest: what the label digest must be; None takes any.

    Raises:
        ValueError: it is no such encoding.
    """
    if len(encoded) < OVERHEAD:
        raise ValueError("too short")
    masked_seed, masked = encoded[:DIGEST_SIZE], encoded[DIGEST_SIZE:]
    seed = xor(masked_seed, mgf1(masked, DIGEST_SIZE))
    block = xor(masked, mgf1(seed, len(masked)))
    found, padded = block[:DIGEST_SIZE], block[DIGEST_SIZE:]
    message = padded.lstrip(b"\0")
    right = label_digest is None or hmac.compare_digest(found, label_digest)
    if not right or message[:1] != b"\x01":
        raise ValueError("not OAEP encoded")
    return message[1:], found, seed
