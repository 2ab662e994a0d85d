"""Endorsement key, ownership, physical presence and the switches that need them.

Source: TPM Main 1.2, Part 3 sections 5, 6, 9.3, 14 and 27.7.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from hwtpm.client.rsa import oaep_encrypt, public_part, rsa_parms, to_public_key
from hwtpm.client.session import Tpm
from hwtpm.errors import VerificationError
from hwtpm.secret import WELL_KNOWN, Secret
from hwtpm.tpm12.commands import deprecated, endorsement, management, optin, ownership
from hwtpm.tpm12.const import (
    DIGEST_SIZE,
    PROTOCOL_OWNER,
    AuthDataUsage,
    EncScheme,
    KeyHandleValue,
    KeyUsage,
    PhysicalPresence,
    SigScheme,
)
from hwtpm.tpm12.types import LEGACY_FORM, Key, PubKey

__all__ = [
    "Owned",
    "assert_presence",
    "create_ek",
    "disable_pubek_read",
    "force_clear",
    "owner_clear",
    "physical_disable",
    "physical_enable",
    "physical_set_deactivated",
    "read_ek",
    "read_ek_as_owner",
    "read_srk_as_owner",
    "reset_lock",
    "set_owner_install",
    "take_ownership",
]


@dataclass(frozen=True, slots=True)
class Owned:
    """A TPM that has just been taken into ownership."""

    srk: PubKey


def create_ek(tpm: Tpm) -> PubKey:
    """Create the endorsement key (RSA 2048), which a TPM has once in its life.

    Raises:
        TpmError: TPM_DISABLED_CMD if there is one.
        VerificationError: the answer is an old one.
    """
    nonce = tpm.random(DIGEST_SIZE)
    parms = rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE)
    reply = tpm.execute(endorsement.CreateEndorsementKeyPair(nonce, parms))
    return _fresh(tpm, reply.pub_endorsement_key, reply.checksum, nonce)


def read_ek(tpm: Tpm) -> PubKey:
    """The public endorsement key, as long as nobody owns the TPM.

    Raises:
        TpmError: TPM_DISABLED_CMD if it is owned, TPM_NO_ENDORSEMENT if there is no key.
        VerificationError: the answer is an old one.
    """
    nonce = tpm.random(DIGEST_SIZE)
    reply = tpm.execute(endorsement.ReadPubek(nonce))
    return _fresh(tpm, reply.pub_endorsement_key, reply.checksum, nonce)


def read_ek_as_owner(tpm: Tpm, owner_auth: Secret) -> PubKey:
    """The public endorsement key of an owned TPM."""
    return _read_internal(tpm, KeyHandleValue.EK, owner_auth)


def read_srk_as_owner(tpm: Tpm, owner_auth: Secret) -> PubKey:
    """The public storage root key."""
    return _read_internal(tpm, KeyHandleValue.SRK, owner_auth)


def take_ownership(
    tpm: Tpm, owner_auth: Secret, srk_auth: Secret = WELL_KNOWN, *, ek: PubKey | None = None
) -> Owned:
    """Become the owner: both AuthData go encrypted to the endorsement key, the SRK is created.

    `ek` is the key to encrypt to; give one that its certificate vouches for where the way to the
    TPM is not trusted. Left out, the TPM is asked for it.

    Raises:
        TpmError: TPM_OWNER_SET if there is an owner, TPM_INSTALL_DISABLED if none may be.
    """
    key = to_public_key(ek or read_ek(tpm))
    srk = Key(
        LEGACY_FORM,
        KeyUsage.STORAGE,
        0,
        AuthDataUsage.ALWAYS,
        rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE),
        b"",
        b"",
        b"",
    )
    request = ownership.TakeOwnership(
        PROTOCOL_OWNER,
        oaep_encrypt(key, owner_auth.reveal()),
        oaep_encrypt(key, srk_auth.reveal()),
        srk,
    )
    return Owned(public_part(tpm.execute_with(request, owner_auth).srk_pub))


def owner_clear(tpm: Tpm, owner_auth: Secret) -> None:
    """Remove the owner: SRK and everything under it are lost. The TPM is disabled afterwards."""
    tpm.execute_with(ownership.OwnerClear(), owner_auth)


def force_clear(tpm: Tpm) -> None:
    """Remove the owner with physical presence instead of the password; as `owner_clear`."""
    tpm.execute(ownership.ForceClear())


def disable_pubek_read(tpm: Tpm, owner_auth: Secret) -> None:
    """Forbid reading the endorsement key without the owner, even when there is none."""
    tpm.execute_with(deprecated.DisablePubekRead(), owner_auth)


def reset_lock(tpm: Tpm, owner_auth: Secret) -> None:
    """End a dictionary-attack lockout."""
    tpm.execute_with(management.ResetLockValue(), owner_auth)


def assert_presence(tpm: Tpm, *, present: bool = True) -> None:
    """Assert (or withdraw) physical presence by command.

    Raises:
        TpmError: TPM_BAD_PARAMETER where the manufacturer locked this way, as in all PCs after the
            firmware has run.
    """
    if present:
        tpm.execute(ownership.PhysicalPresence(PhysicalPresence.CMD_ENABLE))
    state = PhysicalPresence.PRESENT if present else PhysicalPresence.NOTPRESENT
    tpm.execute(ownership.PhysicalPresence(state))


def physical_enable(tpm: Tpm) -> None:
    """Enable the TPM; needs physical presence."""
    tpm.execute(optin.PhysicalEnable())


def physical_disable(tpm: Tpm) -> None:
    """Disable the TPM; needs physical presence."""
    tpm.execute(optin.PhysicalDisable())


def physical_set_deactivated(tpm: Tpm, deactivated: bool) -> None:
    """Deactivate or activate the TPM from its next start on; needs physical presence."""
    tpm.execute(optin.PhysicalSetDeactivated(deactivated))


def set_owner_install(tpm: Tpm, allowed: bool) -> None:
    """Allow or forbid to take ownership; needs physical presence."""
    tpm.execute(optin.SetOwnerInstall(allowed))


def _read_internal(tpm: Tpm, handle: KeyHandleValue, owner_auth: Secret) -> PubKey:
    return tpm.execute_with(endorsement.OwnerReadInternalPub(handle), owner_auth).public_portion


def _fresh(tpm: Tpm, pub: PubKey, checksum: bytes, nonce: bytes) -> PubKey:
    """The key, if its checksum is over our nonce (Part 3 section 14.1)."""
    if not hmac.compare_digest(hashlib.sha1(pub.encode() + nonce).digest(), checksum):
        raise VerificationError(
            f"{tpm.attached.address}: the endorsement key's checksum is not over our nonce",
            hint="somebody changes or repeats traffic between here and the TPM",
        )
    return pub
