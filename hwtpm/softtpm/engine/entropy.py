"""Where the TPM's randomness comes from: one object that a test can replace to repeat a run."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final, Protocol

from hwtpm.softtpm.engine import rsa
from hwtpm.softtpm.engine.oaep import oaep_encode
from hwtpm.tpm12.const import DIGEST_SIZE, OAEP_LABEL

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

    from hwtpm.softtpm.keypool import KeyPool

__all__ = ["Entropy", "PooledEntropy", "RepeatableEntropy", "SystemEntropy"]


class Entropy(Protocol):
    """All that is random in a TPM. Two engines with equal sources, clocks and commands answer
    alike, byte for byte."""

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


class PooledEntropy(SystemEntropy):
    """The same, with keys taken from a pool while it has some of the wanted size."""

    def __init__(self, pool: KeyPool) -> None:
        self._pool = pool

    def rsa_key(self, bits: int) -> RSAPrivateKey:
        return self._pool.take(bits) or super().rsa_key(bits)


_LABEL_DIGEST: Final = hashlib.sha1(OAEP_LABEL).digest()


class RepeatableEntropy:
    """A stream that follows from its seed. For tests and for replaying a run: whoever knows the
    seed knows all keys.

    Args:
        seed: any bytes.
    """

    def __init__(self, seed: bytes) -> None:
        self._state = hashlib.sha256(seed).digest()
        self._count = 0

    def random(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(self._state + self._count.to_bytes(8, "big")).digest(size)

    def stir(self, data: bytes) -> None:
        self._state = hashlib.sha256(self._state + data).digest()

    def rsa_key(self, bits: int) -> RSAPrivateKey:
        return rsa.generate_from(self.random, bits)

    def encrypt_oaep(self, public: RSAPublicKey, plain: bytes) -> bytes:
        numbers = public.public_numbers()
        size = public.key_size // 8
        encoded = oaep_encode(plain, size - 1, _LABEL_DIGEST, self.random(DIGEST_SIZE))
        return pow(int.from_bytes(encoded, "big"), numbers.e, numbers.n).to_bytes(size, "big")
