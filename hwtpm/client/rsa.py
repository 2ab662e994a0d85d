"""RSA outside the TPM: TPM public keys as `cryptography` objects and back, OAEP, signatures.

Source: TPM Main 1.2, Part 1 section 31.1 (RSA schemes), Part 2 section 10. `cryptography` is
imported where it is used: most commands do without it, and it costs start-up time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtpm.errors import Unsupported, VerificationError
from hwtpm.tpm12.const import DEFAULT_EXPONENT, OAEP_LABEL, EncScheme, KeyAlgorithm, SigScheme
from hwtpm.tpm12.types import Key, KeyParms, PubKey, RsaKeyParms

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = [
    "from_public_key",
    "oaep_encrypt",
    "public_part",
    "rsa_parms",
    "to_public_key",
    "verify_sha1",
]


def rsa_parms(
    enc_scheme: EncScheme, sig_scheme: SigScheme, *, bits: int = 2048, exponent: bytes = b""
) -> KeyParms:
    """Parameters of a two-prime RSA key; an empty exponent stands for 65537."""
    parms = RsaKeyParms(bits, 2, exponent).encode()
    return KeyParms(KeyAlgorithm.RSA, enc_scheme, sig_scheme, parms)


def public_part(key: Key) -> PubKey:
    """The public key of a wrapped key."""
    return PubKey(key.algorithm_parms, key.pub_key)


def to_public_key(pub: PubKey) -> RSAPublicKey:
    """A TPM's public key as an object of `cryptography`.

    Raises:
        Unsupported: it is no RSA key that can be used.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    if pub.algorithm_parms.algorithm_id != KeyAlgorithm.RSA:
        raise Unsupported(f"algorithm {pub.algorithm_parms.algorithm_id:#x} is not RSA")
    exponent = RsaKeyParms.decode(pub.algorithm_parms.parms).exponent
    numbers = RSAPublicNumbers(
        int.from_bytes(exponent, "big") or DEFAULT_EXPONENT, int.from_bytes(pub.pub_key, "big")
    )
    try:
        return numbers.public_key()
    except ValueError as error:
        raise Unsupported(f"this RSA public key cannot be used: {error}") from error


def from_public_key(
    key: RSAPublicKey,
    *,
    enc_scheme: EncScheme = EncScheme.NONE,
    sig_scheme: SigScheme = SigScheme.RSA_PKCS_V15_SHA1,
) -> PubKey:
    """A public key as a TPM writes it; the schemes are what `cryptography` does not know."""
    numbers = key.public_numbers()
    exponent = b""
    if numbers.e != DEFAULT_EXPONENT:
        exponent = numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big")
    return PubKey(
        rsa_parms(enc_scheme, sig_scheme, bits=key.key_size, exponent=exponent),
        numbers.n.to_bytes((key.key_size + 7) // 8, "big"),
    )


def oaep_encrypt(key: RSAPublicKey, data: bytes) -> bytes:
    """RSAES-OAEP with SHA-1, MGF1 and the label `TCPA`, what a TPM decrypts.

    Raises:
        Unsupported: `data` is too long for the key.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), OAEP_LABEL)
    try:
        return key.encrypt(data, scheme)
    except ValueError as error:
        raise Unsupported(
            f"{len(data)} bytes do not fit under a key of {key.key_size} bits",
            hint="encrypt a symmetric key instead, and the data with that",
        ) from error


def verify_sha1(key: RSAPublicKey, signature: bytes, signed: bytes, what: str) -> None:
    """RSASSA-PKCS1-v1_5 with SHA-1 over `signed`.

    Raises:
        VerificationError: the signature of `what` is not from that key over these bytes.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    try:
        key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA1())
    except InvalidSignature as error:
        raise VerificationError(
            f"the signature of the {what} is not that key's over these bytes",
            hint="it was changed on its way, or another key signed it",
        ) from error
