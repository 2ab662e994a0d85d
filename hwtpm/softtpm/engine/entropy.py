"""Where the TPM's randomness comes from: one object that a test can replace to repeat a run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from hwtpm.softtpm.engine import rsa

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

__all__ = ["Entropy", "SystemEntropy"]


class Entropy(Protocol):
    """All that is random in a TPM. Two engines with equal sources and commands answer alike."""

    def random(self, size: int) -> bytes:
        """`size` random bytes."""
        ...

    def stir(self, data: bytes) -> None:
        """Mix what the caller of TPM_StirRandom gives into the source."""
        ...

    def rsa_key(self, bits: int) -> RSAPrivateKey:
        """A new key with public exponent 65537, 512 to 2048 bits, a multiple of 16."""
        ...

    def encrypt_oaep(self, public: RSAPublicKey, plain: bytes) -> bytes:
        """OAEP-SHA1-MGF1 with label "TCPA" and a random seed; ValueError if `plain` is too long."""
        ...


class SystemEntropy:
    """The operating system's and the library's sources: no run repeats."""

    def random(self, size: int) -> bytes:
        return os.urandom(size)

    def stir(self, data: bytes) -> None:
        """Nothing: the operating system's source needs no help."""

    def rsa_key(self, bits: int) -> RSAPrivateKey:
        return rsa.generate(bits)

    def encrypt_oaep(self, public: RSAPublicKey, plain: bytes) -> bytes:
        return rsa.encrypt_oaep(public, plain)
