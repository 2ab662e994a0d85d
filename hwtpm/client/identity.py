"""Identity keys (AIKs) and both sides of the privacy CA's protocol.

Source: TPM Main 1.2, Part 3 section 15; Part 2 sections 12.4 to 12.8. How the credential itself
travels is not the TPM's matter: here it is AES-128-GCM under the key that TPM_ActivateIdentity
gives, a random 12-byte nonce in front.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hwtpm.client.keys import KeyRef
from hwtpm.client.rsa import oaep_encrypt, public_part, rsa_parms, to_public_key, verify_sha1
from hwtpm.client.session import Tpm
from hwtpm.errors import VerificationError
from hwtpm.secret import WELL_KNOWN, Secret
from hwtpm.tpm12.commands.identity import ActivateIdentity, MakeIdentity
from hwtpm.tpm12.const import (
    AuthDataUsage,
    EncScheme,
    EntityType,
    KeyAlgorithm,
    KeyHandleValue,
    KeyUsage,
    SigScheme,
)
from hwtpm.tpm12.types import (
    LEGACY_FORM,
    AsymCaContents,
    IdentityContents,
    Key,
    PubKey,
    SymmetricKey,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = [
    "Credential",
    "Identity",
    "activate",
    "chosen_id",
    "issue",
    "make",
    "open_credential",
    "verify_binding",
]

_KEY_SIZE: Final = 16
_NONCE_SIZE: Final = 12


@dataclass(frozen=True, slots=True)
class Identity:
    """A new identity key, wrapped under the SRK, and its signature over the digest that it was
    made for and itself."""

    key: Key
    digest: bytes
    binding: bytes

    @property
    def public(self) -> PubKey:
        """The identity's public key."""
        return public_part(self.key)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a privacy CA sends: a session key that only one TPM can open, and what is under it."""

    for_tpm: bytes
    encrypted: bytes


def chosen_id(label: bytes, ca: PubKey) -> bytes:
    """The digest that binds an identity key to a label and a privacy CA: TPM_CHOSENID_HASH."""
    return hashlib.sha1(label + ca.encode()).digest()


def make(
    tpm: Tpm,
    owner_auth: Secret,
    auth: Secret,
    digest: bytes,
    *,
    srk_auth: Secret = WELL_KNOWN,
) -> Identity:
    """Create an identity key bound to `digest`, 20 bytes (see `chosen_id`); it is not loaded."""
    template = Key(
        LEGACY_FORM,
        KeyUsage.IDENTITY,
        0,
        AuthDataUsage.ALWAYS,
        rsa_parms(EncScheme.NONE, SigScheme.RSA_PKCS_V15_SHA1),
        b"",
        b"",
        b"",
    )
    with (
        tpm.oiap(srk_auth) as parent,
        tpm.osap(EntityType.OWNER, KeyHandleValue.OWNER, owner_auth) as owner,
    ):
        request = MakeIdentity(owner.encrypt_auth(auth), digest, template)
        reply = tpm.execute(request, parent, owner, last=True)
    return Identity(reply.id_key, digest, reply.identity_binding)


def verify_binding(public: PubKey, digest: bytes, binding: bytes) -> None:
    """A CA's first check: the identity key itself has signed that it was made for `digest`. That it
    lives in a certain TPM is proven only by `activate`.

    Raises:
        VerificationError: it has not.
    """
    contents = IdentityContents(MakeIdentity.command.ordinal, digest, public)
    verify_sha1(to_public_key(public), binding, contents.encode(), "identity binding")


def issue(
    ek: RSAPublicKey,
    public: PubKey,
    credential: bytes,
    *,
    random: Callable[[int], bytes] = os.urandom,
) -> Credential:
    """A CA's answer: `credential`, readable only where endorsement and identity key live together.

    That the endorsement key is a genuine TPM's is for the caller to have checked.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key, nonce = random(_KEY_SIZE), random(_NONCE_SIZE)
    session_key = SymmetricKey(KeyAlgorithm.AES128, EncScheme.SYM_CTR, key)
    contents = AsymCaContents(session_key, public.digest())
    for_tpm = oaep_encrypt(ek, contents.encode())
    return Credential(for_tpm, nonce + AESGCM(key).encrypt(nonce, credential, None))


def activate(
    tpm: Tpm, owner_auth: Secret, identity: KeyRef, credential: Credential
) -> SymmetricKey:
    """The session key of a credential, for the loaded identity key that it was made for.

    Raises:
        TpmError: TPM_BAD_PARAMETER and others if it is for another identity or another TPM.
    """
    request = ActivateIdentity(identity.handle, credential.for_tpm)
    return tpm.execute_with(request, *identity.secrets, owner_auth).symmetric_key


def open_credential(key: SymmetricKey, credential: Credential) -> bytes:
    """What the CA had to say, with the key that `activate` gave.

    Raises:
        VerificationError: it was changed on its way.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce, sealed = credential.encrypted[:_NONCE_SIZE], credential.encrypted[_NONCE_SIZE:]
    try:
        return AESGCM(key.data).decrypt(nonce, sealed, None)
    except (InvalidTag, ValueError) as error:
        raise VerificationError(
            "the credential does not open with this key", hint="ask the CA for it again"
        ) from error
