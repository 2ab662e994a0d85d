"""The seam between the manager and the kind of chip that its secrets hang on.

A TPM 1.2 stands behind it in `root12`; everything above is the same for other kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from hwtpm.secret import Secret

__all__ = ["ChipIdentity", "IdentityKey", "Quoted", "RootOfTrust"]


@dataclass(frozen=True, slots=True)
class ChipIdentity:
    """Which chip it is and in which hands.

    Attributes:
        kind: the kind of root of trust: `tpm12`.
        address: where it was reached.
        description: vendor, versions and back end, for people.
        real_hardware: whether that is known to be a chip.
        owned: whether it has an owner, and so an SRK.
        endorsement_key: its public endorsement key as the kind writes it (`tpm12`: TPM_PUBKEY);
            empty if it has none yet.
        name: hex SHA-256 of `endorsement_key`; empty if there is none.
    """

    kind: str
    address: str
    description: str
    real_hardware: bool
    owned: bool
    endorsement_key: bytes
    name: str


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """An identity key (AIK) of the chip, as it is kept.

    Attributes:
        wrapped: the key as only its chip can load it (`tpm12`: TPM_KEY).
        public: its public part (`tpm12`: TPM_PUBKEY).
        label_digest: 20 bytes, what the key was bound to when it was made.
        binding: the key's own signature over label digest and itself.
    """

    wrapped: bytes
    public: bytes
    label_digest: bytes
    binding: bytes


@dataclass(frozen=True, slots=True)
class Quoted:
    """PCR values and the chip's signature over them and the caller's data."""

    signature: bytes
    pcrs: Mapping[int, bytes]


class RootOfTrust(Protocol):
    """One chip, as the manager uses it. One call at a time.

    Every call may raise TpmError (with a TPM 1.2 return code: the manager hands it to the vTPM) and
    the errors of the way to the chip. A failed call leaves no session, key or lock behind that
    could make a later one fail.
    """

    def identity(self) -> ChipIdentity:
        """Make the chip ready and say which one it is; changes nothing that lasts."""
        ...

    def take(self) -> ChipIdentity:
        """After `identity`: make the chip ours if it is nobody's (endorsement key, owner, SRK).

        May be repeated after a crash at any point; does nothing to a chip that has an owner.
        """
        ...

    def seal(self, secret: Secret) -> bytes:
        """Encrypt up to 128 bytes so that only this chip gives them back."""
        ...

    def unseal(self, blob: bytes) -> Secret:
        """Get sealed bytes back.

        Raises:
            StateError: this chip, as it is owned now, did not seal that.
        """
        ...

    def random(self, count: int) -> bytes:
        """Exactly `count` random bytes of the chip's generator."""
        ...

    def pcr_read(self, index: int) -> bytes:
        """One PCR, 20 bytes."""
        ...

    def make_identity(self, label_digest: bytes, auth: Secret) -> IdentityKey:
        """A new identity key, used with `auth` from now on."""
        ...

    def quote(
        self, key: IdentityKey, auth: Secret, external_data: bytes, pcrs: Iterable[int]
    ) -> Quoted:
        """Sign these PCRs and 20 bytes of the caller's."""
        ...

    def activate(self, key: IdentityKey, auth: Secret, blob: bytes) -> Secret:
        """What was encrypted to the endorsement key for that identity key, decrypted.

        It proves to whoever made `blob` that both keys live in one chip. The bytes are as the kind
        gives them (`tpm12`: TPM_SYMMETRIC_KEY).
        """
        ...

    def close(self) -> None:
        """Let go of the chip; nothing of ours stays loaded."""
        ...
