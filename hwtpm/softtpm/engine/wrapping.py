"""Wrapped keys: what a TPM_KEY may ask for, and its private part under its parent.

Source: TPM Main, Version 1.2, Revision 116, Part 2 sections 5.8.1 and 10.6; Part 3 sections 10.4
and 10.5.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from hwtpm.softtpm.engine.call import Call, Refuse
from hwtpm.softtpm.engine.keys import LoadedKey, ReleaseCondition
from hwtpm.softtpm.engine.release import created_pcr_info
from hwtpm.softtpm.engine.rsa import (
    decrypt_given,
    modulus_of,
    prime_of,
    private_from_prime,
    rsa_parms,
)
from hwtpm.tpm12.const import AuthDataUsage, EncScheme, KeyFlag, KeyUsage, Payload, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import Key, StoreAsymKey
from hwtpm.wire import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

__all__ = [
    "check_properties",
    "create_wrapped",
    "new_key",
    "open_private_part",
    "private_of",
    "private_part",
    "require_storage",
    "unwrap",
    "wrap",
]


@dataclass(frozen=True, slots=True)
class _Allowed:
    """Schemes that a key usage may have, and whether it takes full-size keys only."""

    enc: tuple[EncScheme, ...]
    sig: tuple[SigScheme, ...]
    full_size: bool = False


_OAEP: Final = (EncScheme.RSA_OAEP_SHA1_MGF1,)
_OAEP_OR_V15: Final = (*_OAEP, EncScheme.RSA_PKCS_V15)
_SHA1_OR_DER: Final = (SigScheme.RSA_PKCS_V15_SHA1, SigScheme.RSA_PKCS_V15_DER)
_NO_ENC: Final = (EncScheme.NONE,)
_NO_SIG: Final = (SigScheme.NONE,)

_ALLOWED: Final[dict[int, _Allowed]] = {
    KeyUsage.SIGNING: _Allowed(_NO_ENC, (*_SHA1_OR_DER, SigScheme.RSA_PKCS_V15_INFO)),
    KeyUsage.STORAGE: _Allowed(_OAEP, _NO_SIG, full_size=True),
    KeyUsage.IDENTITY: _Allowed(_NO_ENC, (SigScheme.RSA_PKCS_V15_SHA1,), full_size=True),
    KeyUsage.AUTHCHANGE: _Allowed(_OAEP, _NO_SIG),
    KeyUsage.BIND: _Allowed(_OAEP_OR_V15, _NO_SIG),
    KeyUsage.LEGACY: _Allowed(_OAEP_OR_V15, _SHA1_OR_DER),
    KeyUsage.MIGRATE: _Allowed(_OAEP, _NO_SIG, full_size=True),
}
_FLAGS: Final = sum(int(flag) for flag in KeyFlag)  # an int: ~ of a flag knows no other bits
_FULL_SIZE_BITS: Final = 2048
_FIPS_MIN_BITS: Final = 1024
_PAYLOADS: Final = (Payload.ASYM, Payload.MIGRATE_RESTRICTED, Payload.MIGRATE_EXTERNAL)


def require_storage(key: LoadedKey) -> None:
    """Refuse with INVALID_KEYUSAGE what is no storage key."""
    if key.key.key_usage != KeyUsage.STORAGE:
        raise Refuse(Rc.INVALID_KEYUSAGE)


def check_properties(call: Call, key: Key) -> int:
    """Check usage, flags, schemes and parameters of a key to be created or loaded.

    Returns:
        Its size in bits.

    Raises:
        Refuse: BAD_KEY_PROPERTY; BAD_PARAM_SIZE; NOTFIPS.
    """
    parms = rsa_parms(key.algorithm_parms)
    allowed = _ALLOWED.get(key.key_usage)
    if (
        allowed is None
        or key.key_flags & ~_FLAGS
        or key.algorithm_parms.enc_scheme not in allowed.enc
        or key.algorithm_parms.sig_scheme not in allowed.sig
        or (allowed.full_size and (parms.key_length != _FULL_SIZE_BITS or parms.exponent))
    ):
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    if call.tpm.permanent.flags.fips and (
        parms.key_length < _FIPS_MIN_BITS
        or key.auth_data_usage == AuthDataUsage.NEVER
        or key.key_usage == KeyUsage.LEGACY
    ):
        raise Refuse(Rc.NOTFIPS)
    return parms.key_length


def create_wrapped(
    call: Call, parent: LoadedKey, template: Key, usage_auth: bytes, migration_auth: bytes
) -> tuple[Key, RSAPrivateKey]:
    """A new key by its template, its private part encrypted to its parent, which is full-size.

    Raises:
        Refuse: INVALID_PCR_INFO.
    """
    key, private = new_key(call, template)
    store = private_part(key, private, Payload.ASYM, usage_auth, migration_auth)
    return replace(key, enc_data=wrap(call, parent, store)), private


def new_key(call: Call, template: Key) -> tuple[Key, RSAPrivateKey]:
    """A new key by its template, without its encData.

    Raises:
        Refuse: INVALID_PCR_INFO.
    """
    info = created_pcr_info(call, template.form, template.pcr_info)
    private = call.tpm.entropy.rsa_key(rsa_parms(template.algorithm_parms).key_length)
    modulus = modulus_of(private.public_key())
    return replace(template, pcr_info=info, pub_key=modulus, enc_data=b""), private


def private_part(
    key: Key, private: RSAPrivateKey, payload: int, usage_auth: bytes, migration_auth: bytes
) -> StoreAsymKey:
    """What a key's parent encrypts."""
    digest = key.digest_of_public_part()
    return StoreAsymKey(payload, usage_auth, migration_auth, digest, prime_of(private))


def wrap(call: Call, parent: LoadedKey, store: StoreAsymKey) -> bytes:
    """The encData of a key under its parent, which is full-size and so has room for any key."""
    return call.tpm.entropy.encrypt_oaep(parent.private.public_key(), store.encode())


def open_private_part(parent: LoadedKey, enc_data: bytes) -> StoreAsymKey:
    """What `wrap` made.

    Raises:
        Refuse: INVALID_STRUCTURE, the code of libtpms, if the parent did not wrap it; what
            `decrypt_given` raises.
    """
    plain = decrypt_given(parent.private, enc_data)
    try:
        store = StoreAsymKey.decode(plain)
    except WireError:
        raise Refuse(Rc.INVALID_STRUCTURE) from None
    if store.payload not in _PAYLOADS:
        raise Refuse(Rc.INVALID_STRUCTURE)
    return store


def private_of(key: Key, store: StoreAsymKey) -> RSAPrivateKey:
    """The private key of what `open_private_part` gave, if it belongs to that public part.

    Raises:
        Refuse: AUTHFAIL if the public part was changed; BAD_PARAMETER if its modulus does not
            fit the prime.
    """
    if store.pub_data_digest != key.digest_of_public_part():
        raise Refuse(Rc.AUTHFAIL)
    try:
        return private_from_prime(key.pub_key, store.priv_key)
    except ValueError:
        raise Refuse(Rc.BAD_PARAMETER) from None


def unwrap(call: Call, parent: LoadedKey, key: Key) -> LoadedKey:
    """The key that its parent's private key opens, with a new handle and not yet in its slot.

    Raises:
        Refuse: DECRYPT_ERROR or INVALID_STRUCTURE if the parent did not wrap it; AUTHFAIL if its
            public part was changed; INVALID_KEYUSAGE if it is not migratable and of another TPM;
            BAD_PARAMETER or BAD_KEY_PROPERTY if its two parts do not fit; INVALID_PCR_INFO;
            NOSPACE. The codes are those of libtpms where Part 3 section 10.5 names none.
    """
    bits = check_properties(call, key)
    store = open_private_part(parent, key.enc_data)
    private = private_of(key, store)
    if private.key_size != bits:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    if key.key_usage == KeyUsage.AUTHCHANGE or (
        key.key_usage == KeyUsage.IDENTITY and key.migratable
    ):
        raise Refuse(Rc.INVALID_KEYUSAGE)
    if not key.migratable and not hmac.compare_digest(
        store.migration_auth, call.tpm.permanent.tpm_proof
    ):
        raise Refuse(Rc.INVALID_KEYUSAGE)
    return LoadedKey(
        handle=call.tpm.keys.new_handle(),
        key=key,
        usage_auth=store.usage_auth,
        migration_auth=store.migration_auth,
        payload=store.payload,
        private=private,
        condition=ReleaseCondition.of(key.form, key.pcr_info),
        parent_condition=parent.parent_condition or parent.uses_pcrs,
    )
