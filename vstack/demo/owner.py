"""What the owner of the guest does with its vTPM: takes ownership, makes an identity key, quotes.

This runs on the vTPM's raw socket, where a guest's operating system would use /dev/tpm0.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from hwtpm.client import identity, keys, owner
from hwtpm.client.quote import Quote, quote
from hwtpm.client.rsa import public_part, to_public_key
from hwtpm.client.session import Tpm
from hwtpm.errors import VerificationError
from hwtpm.secret import Secret
from hwtpm.tpm12.types import Key, PubKey

__all__ = ["GuestKeys", "prove_identity", "quote_with", "take"]

_LABEL: Final = b"guest of the vstack demo"


@dataclass(frozen=True)
class GuestKeys:
    """What the guest's owner keeps: two passwords and a wrapped identity key."""

    owner_auth: Secret
    key_auth: Secret
    wrapped: Key

    @property
    def aik(self) -> PubKey:
        """The identity key's public part."""
        return public_part(self.wrapped)


def take(tpm: Tpm, authority: PubKey) -> GuestKeys:
    """Take the vTPM into ownership and make an identity key for that privacy CA."""
    owner_auth, key_auth = Secret(os.urandom(20)), Secret(os.urandom(20))
    owner.take_ownership(tpm, owner_auth)
    digest = identity.chosen_id(_LABEL, authority)
    made = identity.make(tpm, owner_auth, key_auth, digest)
    identity.verify_binding(made.public, digest, made.binding)
    return GuestKeys(owner_auth, key_auth, made.key)


def prove_identity(tpm: Tpm, held: GuestKeys, ek: PubKey) -> None:
    """A verifier's credential exchange: only the TPM with that EK opens it, and only if it also has
    the identity key.

    Raises:
        VerificationError: the TPM gave back another secret.
    """
    secret = os.urandom(16)
    credential = identity.issue(to_public_key(ek), held.aik, secret)
    with keys.loaded(tpm, keys.srk(), held.wrapped, held.key_auth) as key:
        session_key = identity.activate(tpm, held.owner_auth, key, credential)
    if identity.open_credential(session_key, credential) != secret:
        raise VerificationError("the vTPM did not prove that its identity key is its own")


def quote_with(tpm: Tpm, held: GuestKeys, challenge: bytes, pcrs: range) -> Quote:
    """Load the identity key and have it sign these PCRs and the challenge."""
    with keys.loaded(tpm, keys.srk(), held.wrapped, held.key_auth) as key:
        return quote(tpm, key, challenge, pcrs)
