"""Migration structures (TPM Main, Version 1.2, Revision 116, Part 2)."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from hwtpm.tpm12.const import DIGEST_SIZE, MAX_FRAME, Tag
from hwtpm.tpm12.types import MAX_MODULUS, U8, U16, AuthValue, Digest, PubKey
from hwtpm.wire import Array, Blob, Fixed, Struct, structure

__all__ = [
    "CmkAuth",
    "CmkMaApproval",
    "CmkMigAuth",
    "CmkSigTicket",
    "MigrateAsymKey",
    "MigrationKeyAuth",
    "MsaComposite",
]

_MAX_AUTHORITIES: Final = MAX_FRAME // DIGEST_SIZE  # 5.15: four or more


@structure("TPM_MIGRATIONKEYAUTH", ref="Part 2, 5.12")
class MigrationKeyAuth(Struct):
    """A public key that the owner allows keys to be migrated to; `digest` proves it."""

    migration_key: PubKey
    migration_scheme: U16
    digest: Digest


@structure("TPM_MIGRATE_ASYMKEY", ref="Part 2, 10.8")
class MigrateAsymKey(Struct):
    """A private key on its way to another TPM, but for its first 20 bytes, which are the seed of
    the OAEP encoding that this structure travels in."""

    payload: U8
    usage_auth: AuthValue
    pub_data_digest: Digest
    part_priv_key: Annotated[bytes, Blob(MAX_MODULUS, secret=True)]


@structure("TPM_MSA_COMPOSITE", ref="Part 2, 5.15")
class MsaComposite(Struct):
    """The migration selection authorities of a certified migration key: digests of their
    TPM_PUBKEYs."""

    mig_auth_digest: Annotated[
        tuple[bytes, ...], Array(Fixed("TPM_DIGEST", DIGEST_SIZE), _MAX_AUTHORITIES)
    ]

    def digest(self) -> bytes:
        """SHA-1 of the structure, what the other structures know a list of authorities by."""
        return hashlib.sha1(self.encode()).digest()


@structure("TPM_CMK_AUTH", ref="Part 2, 5.16")
class CmkAuth(Struct):
    """What a migration authority signs to approve a destination: digests of TPM_PUBKEYs."""

    migration_authority_digest: Digest
    destination_key_digest: Digest
    source_key_digest: Digest


@structure("TPM_CMK_MIGAUTH", ref="Part 2, 5.19", head=Tag.CMK_MIGAUTH.to_bytes(2, "big"))
class CmkMigAuth(Struct):
    """What the migrationAuth of a certified migration key is the HMAC of."""

    msa_digest: Digest
    pub_key_digest: Digest


@structure("TPM_CMK_SIGTICKET", ref="Part 2, 5.20", head=Tag.CMK_SIGTICKET.to_bytes(2, "big"))
class CmkSigTicket(Struct):
    """What a ticket of TPM_CMK_CreateTicket is the HMAC of."""

    ver_key_digest: Digest
    signed_data: Digest


@structure("TPM_CMK_MA_APPROVAL", ref="Part 2, 5.21", head=Tag.CMK_MA_APPROVAL.to_bytes(2, "big"))
class CmkMaApproval(Struct):
    """What a ticket of TPM_CMK_ApproveMA is the HMAC of."""

    migration_authority_digest: Digest
