"""AES-128 in counter mode, as TPM 1.2 uses it (Part 1 sections 13.5 and 18, ADIP and transport)."""

from __future__ import annotations

from typing import Final

__all__ = ["AES_BLOCK_SIZE", "aes128_ctr"]

AES_BLOCK_SIZE: Final = 16
"""Bytes of a key, an initial counter and a block alike."""


def aes128_ctr(key: bytes, counter: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt; the counter counts up as one big-endian number of 16 bytes.

    Args:
        key: 16 bytes.
        counter: 16 bytes, the first value; never the same twice under one key.
        data: any number of bytes.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES128(key), modes.CTR(counter)).encryptor()
    return encryptor.update(data) + encryptor.finalize()
