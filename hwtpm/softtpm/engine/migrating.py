"""Private keys on their way to another TPM: the layers that they travel in.

The first 20 bytes of a TPM_STORE_PRIVKEY are the seed of an OAEP encoding, a secret is its label
digest, and the rest of the key is what is encoded. The result is XORed with a string that goes
another way, and encrypted to the destination. Only all of it together gives the key back.

Source: TPM Main, Version 1.2, Revision 116, Part 3 sections 11.1, 11.2, 11.9, 11.10, 12.1 and
12.2; Part 2 section 10.8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hwtpm.softtpm.engine.call import Call, Refuse
from hwtpm.softtpm.engine.oaep import OVERHEAD, oaep_decode, oaep_encode, xor
from hwtpm.softtpm.engine.rsa import decrypt_given
from hwtpm.tpm12.const import DIGEST_SIZE
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import StoreAsymKey
from hwtpm.tpm12.types.migration import MigrateAsymKey
from hwtpm.wire import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

__all__ = ["decrypt_masked", "encrypt_masked", "encrypt_to", "layer", "unlayer"]

_LENGTH_SIZE: Final = 4  # TPM_STORE_PRIVKEY.keyLength


def layer(store: StoreAsymKey) -> bytes:
    """o1: 198 bytes for a key of 2048 bits; its payload and migrationAuth become those of the
    TPM_MIGRATE_ASYMKEY and pHash.

    Raises:
        Refuse: INVALID_STRUCTURE if the key is too short for a seed.
    """
    k1k2 = len(store.priv_key).to_bytes(_LENGTH_SIZE, "big") + store.priv_key
    if len(k1k2) < DIGEST_SIZE:
        raise Refuse(Rc.INVALID_STRUCTURE)
    k1, k2 = k1k2[:DIGEST_SIZE], k1k2[DIGEST_SIZE:]
    m1 = MigrateAsymKey(store.payload, store.usage_auth, store.pub_data_digest, k2).encode()
    return oaep_encode(m1, len(m1) + OVERHEAD, store.migration_auth, k1)


def unlayer(o1: bytes) -> StoreAsymKey:
    """What `layer` was given.

    Raises:
        Refuse: DECRYPT_ERROR if it is no OAEP encoding; BAD_PARAM_SIZE if its parts do not fit.
    """
    try:
        encoded, p_hash, k1 = oaep_decode(o1)
    except ValueError:
        raise Refuse(Rc.DECRYPT_ERROR) from None
    try:
        m1 = MigrateAsymKey.decode(encoded)
    except WireError:
        raise Refuse(Rc.BAD_PARAM_SIZE) from None
    prime = k1[_LENGTH_SIZE:] + m1.part_priv_key
    if int.from_bytes(k1[:_LENGTH_SIZE], "big") != len(prime):
        raise Refuse(Rc.BAD_PARAM_SIZE)
    return StoreAsymKey(m1.payload, m1.usage_auth, p_hash, m1.pub_data_digest, prime)


def encrypt_masked(call: Call, public: RSAPublicKey, o1: bytes) -> tuple[bytes, bytes]:
    """A random string r1, and o1 XOR r1 encrypted to its destination."""
    r1 = call.tpm.random(len(o1))
    return r1, encrypt_to(call, public, xor(o1, r1))


def decrypt_masked(private: RSAPrivateKey, blob: bytes, r1: bytes) -> bytes:
    """o1 of what `encrypt_masked` made.

    Raises:
        Refuse: BAD_PARAMETER if r1 has another size than o1; what `decrypt_given` raises.
    """
    x1 = decrypt_given(private, blob)
    if len(x1) != len(r1):
        raise Refuse(Rc.BAD_PARAMETER)
    return xor(x1, r1)


def encrypt_to(call: Call, public: RSAPublicKey, plain: bytes) -> bytes:
    """OAEP to a key that came from outside.

    Raises:
        Refuse: BAD_DATASIZE, the code of libtpms, if `plain` is too long for it.
    """
    try:
        return call.tpm.entropy.encrypt_oaep(public, plain)
    except ValueError:
        raise Refuse(Rc.BAD_DATASIZE) from None
