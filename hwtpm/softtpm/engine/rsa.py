"""RSA as TPM 1.2 uses it: two prime keys, OAEP with label "TCPA", PKCS #1 v1.5.

Private keys travel as one prime; the other follows from the modulus. The library's own key check
(tens of milliseconds) is replaced by n == p * q at load, as Part 3 section 10.5 suggests: d and the
CRT values are computed here. Blinding is the library's and stays on.
`cryptography` is imported on first use: a TPM that only measures never pays for it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from hwtpm.softtpm.engine.call import Refuse
from hwtpm.softtpm.engine.keys import LoadedKey, ReleaseCondition
from hwtpm.softtpm.engine.state import StoredKey
from hwtpm.tpm12.const import (
    DEFAULT_EXPONENT,
    OAEP_LABEL,
    EncScheme,
    KeyAlgorithm,
    Payload,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import KeyParms, PubKey, RsaKeyParms
from hwtpm.wire import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.padding import OAEP
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

    from hwtpm.softtpm.engine.state import RootKey

__all__ = [
    "decrypt",
    "decrypt_given",
    "encrypt_oaep",
    "generate",
    "generate_from",
    "load_root_key",
    "load_stored_key",
    "modulus_of",
    "prime_of",
    "primes_of",
    "private_from_prime",
    "private_from_primes",
    "public_key",
    "rsa_parms",
    "sign_digest",
    "sign_raw",
    "stored_key",
    "verifies",
]

MIN_BITS: Final = 512
MAX_BITS: Final = 2048
_LIBRARY_MIN_BITS: Final = 1024
_PRIME_ROUNDS: Final = 40
_SIEVE_LIMIT: Final = 5000


def rsa_parms(parms: KeyParms) -> RsaKeyParms:
    """The RSA parameters inside TPM_KEY_PARMS.

    Raises:
        Refuse: BAD_KEY_PROPERTY for another algorithm or for what this TPM cannot make;
            BAD_PARAM_SIZE if they do not decode.
    """
    if parms.algorithm_id != KeyAlgorithm.RSA:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    try:
        rsa = RsaKeyParms.decode(parms.parms)
    except WireError:
        raise Refuse(Rc.BAD_PARAM_SIZE) from None
    if rsa.num_primes != 2 or not MIN_BITS <= rsa.key_length <= MAX_BITS or rsa.key_length % 16:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    if rsa.exponent and int.from_bytes(rsa.exponent, "big") != DEFAULT_EXPONENT:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    return rsa


def generate(bits: int) -> RSAPrivateKey:
    """A new key with public exponent 65537, 512 to 2048 bits, a multiple of 16."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    if bits >= _LIBRARY_MIN_BITS:
        return rsa.generate_private_key(DEFAULT_EXPONENT, bits)
    return generate_from(os.urandom, bits)


def generate_from(random: Callable[[int], bytes], bits: int) -> RSAPrivateKey:
    """A new key, as `generate` makes them, from that source alone: for key sizes that the library
    refuses and for runs that can be repeated. Slower than the library by a factor of ten."""
    p, q = _random_prime(random, bits // 2), _random_prime(random, bits // 2)
    while p == q:
        q = _random_prime(random, bits // 2)
    return private_from_primes(p, q)


def _random_prime(random: Callable[[int], bytes], bits: int) -> int:
    """A random prime with its two upper bits set (FIPS 186-4 appendix B.3.3)."""
    while True:
        candidate = int.from_bytes(random(bits // 8), "big") | 3 << bits - 2 | 1
        if (
            candidate % DEFAULT_EXPONENT != 1
            and math.gcd(candidate, _small_primes_product()) == 1
            and _is_probable_prime(random, candidate)
        ):
            return candidate


@lru_cache(maxsize=1)
def _small_primes_product() -> int:
    """The product of the odd primes below 5,000: a common divisor settles most candidates."""
    sieve = bytearray(b"\1") * _SIEVE_LIMIT
    for n in range(3, math.isqrt(_SIEVE_LIMIT) + 1, 2):
        sieve[n * n :: n] = bytes(len(range(n * n, _SIEVE_LIMIT, n)))
    return math.prod(n for n in range(3, _SIEVE_LIMIT, 2) if sieve[n])


def _is_probable_prime(random: Callable[[int], bytes], odd: int) -> bool:
    """Miller-Rabin with random bases; the first composite answer is the usual way out."""
    twos = ((odd - 1) & -(odd - 1)).bit_length() - 1
    size = odd.bit_length() // 8
    for _ in range(_PRIME_ROUNDS):
        x = pow(int.from_bytes(random(size), "big") % (odd - 3) + 2, odd >> twos, odd)
        if x in (1, odd - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % odd
            if x == odd - 1:
                break
        else:
            return False
    return True


def public_key(pub: PubKey) -> RSAPublicKey:
    """A public key that came from outside, of a size that this TPM can use.

    Raises:
        Refuse: BAD_KEY_PROPERTY; BAD_PARAM_SIZE if its parameters do not decode.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa

    bits = rsa_parms(pub.algorithm_parms).key_length
    modulus = int.from_bytes(pub.pub_key, "big")
    if len(pub.pub_key) * 8 != bits or modulus.bit_length() != bits or modulus % 2 == 0:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    try:
        return rsa.RSAPublicNumbers(DEFAULT_EXPONENT, modulus).public_key()
    except ValueError:
        raise Refuse(Rc.BAD_KEY_PROPERTY) from None


def modulus_of(public: RSAPublicKey) -> bytes:
    """The modulus, big-endian, as long as the key."""
    return public.public_numbers().n.to_bytes(public.key_size // 8, "big")


def prime_of(key: RSAPrivateKey) -> bytes:
    """The prime that TPM_STORE_ASYMKEY carries, big-endian, half as long as the key: of a key from
    outside whose primes have different lengths, the shorter one."""
    numbers, size = key.private_numbers(), key.key_size // 16
    prime = numbers.p if numbers.p.bit_length() <= 8 * size else numbers.q
    return prime.to_bytes(size, "big")


def primes_of(key: RSAPrivateKey) -> tuple[int, int]:
    """Both primes."""
    numbers = key.private_numbers()
    return numbers.p, numbers.q


def private_from_prime(modulus: bytes, prime: bytes) -> RSAPrivateKey:
    """The private key from its modulus and one prime.

    Raises:
        ValueError: the prime does not divide the modulus, or they make no key with e = 65537.
    """
    n, p = int.from_bytes(modulus, "big"), int.from_bytes(prime, "big")
    # Even numbers would only be noticed deep inside the library, at the key's first use.
    if p < 3 or n % 2 == 0 or n % p:
        raise ValueError("the prime does not divide the modulus")
    q = n // p
    if q < 3:
        raise ValueError("the other prime is missing")
    return private_from_primes(p, q)


def private_from_primes(p: int, q: int) -> RSAPrivateKey:
    """The private key with these primes and e = 65537.

    Raises:
        ValueError: e divides p - 1 or q - 1.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa

    d = pow(DEFAULT_EXPONENT, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=d % (p - 1),
        dmq1=d % (q - 1),
        iqmp=pow(q, -1, p),
        public_numbers=rsa.RSAPublicNumbers(DEFAULT_EXPONENT, p * q),
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


@lru_cache(maxsize=1)
def _oaep() -> OAEP:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    sha1 = hashes.SHA1()
    return padding.OAEP(padding.MGF1(sha1), sha1, OAEP_LABEL)


def encrypt_oaep(public: RSAPublicKey, plain: bytes) -> bytes:
    """OAEP-SHA1-MGF1 with label "TCPA"; ValueError if `plain` is too long for the key."""
    return public.encrypt(plain, _oaep())


def decrypt(key: RSAPrivateKey, cipher: bytes, scheme: int) -> bytes:
    """Decrypt by the key's encryption scheme; ValueError if the padding is not right."""
    if scheme == EncScheme.RSA_OAEP_SHA1_MGF1:
        return key.decrypt(cipher, _oaep())
    from cryptography.hazmat.primitives.asymmetric import padding

    return key.decrypt(cipher, padding.PKCS1v15())


def decrypt_given(
    key: RSAPrivateKey, cipher: bytes, scheme: int = EncScheme.RSA_OAEP_SHA1_MGF1
) -> bytes:
    """What a command's sender encrypted to this key.

    Raises:
        Refuse: BAD_DATASIZE if it is longer than the modulus, DECRYPT_ERROR if the padding is not
            right. The specification mostly has no code for it; these are those of libtpms.
    """
    if len(cipher) > (key.key_size + 7) // 8:
        raise Refuse(Rc.BAD_DATASIZE)
    try:
        return decrypt(key, cipher, scheme)
    except ValueError:
        raise Refuse(Rc.DECRYPT_ERROR) from None


def sign_digest(key: RSAPrivateKey, digest: bytes) -> bytes:
    """RSASSA-PKCS1-v1_5 over a SHA-1 digest that is already made."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, utils

    return key.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))


def verifies(key: RSAPublicKey, signature: bytes, digest: bytes) -> bool:
    """True for the RSASSA-PKCS1-v1_5 signature of that key over a SHA-1 digest."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, utils

    try:
        key.verify(signature, digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))
    except InvalidSignature:
        return False
    return True


def sign_raw(key: RSAPrivateKey, data: bytes) -> bytes:
    """PKCS #1 v1.5 block type 1 over `data` as it is: the caller made the DigestInfo.

    Raises:
        ValueError: `data` leaves no room for eleven bytes of padding.
    """
    from cryptography.hazmat.primitives.asymmetric import padding, utils

    if len(data) > key.key_size // 8 - 11:
        raise ValueError("too long to sign")
    return key.sign(data, padding.PKCS1v15(), utils.NoDigestInfo())


def load_root_key(handle: int, root: RootKey) -> LoadedKey:
    """The EK or SRK as a loaded key."""
    key = root.key
    return LoadedKey(
        handle=handle,
        key=key,
        usage_auth=root.usage_auth,
        migration_auth=bytes(20),
        payload=Payload.ASYM,
        private=private_from_prime(key.pub_key, root.prime),
        condition=ReleaseCondition.of(key.form, key.pcr_info),
    )


def stored_key(loaded: LoadedKey) -> StoredKey:
    """A loaded key as it is kept at rest."""
    return StoredKey(
        loaded.handle,
        replace(loaded.key, enc_data=b""),
        loaded.payload,
        loaded.usage_auth,
        loaded.migration_auth,
        prime_of(loaded.private),
        loaded.parent_condition,
    )


def load_stored_key(stored: StoredKey) -> LoadedKey:
    """A key at rest as a loaded key.

    Raises:
        ValueError: its prime does not fit its modulus.
    """
    key = stored.key
    return LoadedKey(
        handle=stored.handle,
        key=key,
        usage_auth=stored.usage_auth,
        migration_auth=stored.migration_auth,
        payload=stored.payload,
        private=private_from_prime(key.pub_key, stored.prime),
        condition=ReleaseCondition.of(key.form, key.pcr_info),
        parent_condition=stored.parent_condition,
    )
