"""Self tests with known answers (Part 3 section 4; Part 1 section 9.1).

The answers come from elsewhere: SHA-1 of "abc" from FIPS 180, HMAC-SHA1 from RFC 2202 case 1. The
RSA signature was made from the private exponent by plain modular exponentiation.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hwtpm.softtpm.engine import rsa
from hwtpm.tpm12.const import EncScheme

__all__ = ["FULL", "LIMITED", "SelfTest"]

_ABC: Final = bytes.fromhex("a9993e364706816aba3e25717850c26c9cd0d89d")
_HMAC: Final = bytes.fromhex("b617318655057264e28bc0b6fb378c8ef146be00")
_MODULUS: Final = bytes.fromhex(
    "ec962d92d8bb26386ffa4c53d333c01d03c15251a707b909b7d2c9a9609713b6cb042e1e448e8776"
    "eaf10a1259e391442e7a1432b48792c7f96cc7e3ca050a1b2ce328bd712bfe2ef5fe0e41ffd1c6fb"
    "e26644ae4e4fce6c68aa7f3579263a909062bf5910d6e40ab17afaeb1848b8ebf625327103f9b0f4"
    "83d8c020b670159d"
)
_PRIME: Final = bytes.fromhex(
    "f69f7fd84b7157e252a41dd2588cf9de9dc24001a4b26db7f0c8a9722b7793c10bae77e410b46e2e"
    "210be7e6b9c3ffe018edc29b9e1495f48d583f8b3483b587"
)
_SIGNATURE: Final = bytes.fromhex(
    "de0efd375bc85648300a55b40184c10fa2fe3e9adf2c62bee49be47b0b5c4e3b4b415b5a960f8d61"
    "ba282f59f9b4453656b76d873c2f3f3ccdec86803a32fe0e0586c41c7d96b8d43113790d77af881f"
    "75192c2b4d1d8fc244d4396f16ff73a058c9768a44726e44392ae8f30f31013fb073a4067f7e4217"
    "7bf5db8be8de1012"
)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """A function of the TPM and whether it gives the known answer."""

    name: str
    passes: Callable[[], bool]


def _sha1() -> bool:
    return hashlib.sha1(b"abc").digest() == _ABC


def _hmac() -> bool:
    return hmac.digest(b"\x0b" * 20, b"Hi There", "sha1") == _HMAC


def _rsa() -> bool:
    try:
        key = rsa.private_from_prime(_MODULUS, _PRIME)
        blob = rsa.encrypt_oaep(key.public_key(), _ABC)
        return (
            rsa.sign_digest(key, _ABC) == _SIGNATURE
            and rsa.decrypt(key, blob, EncScheme.RSA_OAEP_SHA1_MGF1) == _ABC
        )
    except ValueError:
        return False


LIMITED: Final = (SelfTest("SHA-1", _sha1), SelfTest("HMAC", _hmac))
"""What runs at every power-on."""
FULL: Final = (*LIMITED, SelfTest("RSA", _rsa))
"""What TPM_SelfTestFull runs; loads the RSA library."""
