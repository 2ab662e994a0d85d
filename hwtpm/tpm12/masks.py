"""Masks that are XORed onto data: MGF1, the mask generation function of PKCS #1."""

from __future__ import annotations

import hashlib

from hwtpm.tpm12.const import DIGEST_SIZE

__all__ = ["mgf1", "xor"]


def mgf1(seed: bytes, size: int) -> bytes:
    """MGF1 with SHA-1 (PKCS #1 section B.2.1), `size` bytes."""
    blocks = range(-(-size // DIGEST_SIZE))
    return b"".join(hashlib.sha1(seed + i.to_bytes(4, "big")).digest() for i in blocks)[:size]


def xor(data: bytes, mask: bytes) -> bytes:
    """Both byte strings, of one length, added modulo 2."""
    return (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(len(data), "big")
