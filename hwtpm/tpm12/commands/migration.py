"""Migration (TPM Main, Version 1.2, Revision 116, Part 3, section 11)."""

from __future__ import annotations

from typing import Annotated

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U16, U32, Data, Digest, EncAuth, Key, KeyHandle, PubKey
from hwtpm.tpm12.types.migration import CmkAuth, MigrationKeyAuth, MsaComposite
from hwtpm.wire import SizedNested, Struct, structure

__all__ = [
    "AuthorizeMigrationKey",
    "AuthorizeMigrationKeyReply",
    "CmkApproveMA",
    "CmkApproveMAReply",
    "CmkConvertMigration",
    "CmkConvertMigrationReply",
    "CmkCreateBlob",
    "CmkCreateBlobReply",
    "CmkCreateKey",
    "CmkCreateKeyReply",
    "CmkCreateTicket",
    "CmkCreateTicketReply",
    "CmkSetRestrictions",
    "ConvertMigrationBlob",
    "ConvertMigrationBlobReply",
    "CreateMigrationBlob",
    "CreateMigrationBlobReply",
    "MigrateKey",
    "MigrateKeyReply",
]

_MsaList = Annotated[MsaComposite | None, SizedNested(MsaComposite)]


@structure("TPM_CreateMigrationBlob reply", ref="Part 3, 11.1")
class CreateMigrationBlobReply(Struct):
    """Reply of CreateMigrationBlob; `random` is empty in the rewrap mode."""

    random: Data
    out_data: Data


@command(
    0x28,
    "TPM_CreateMigrationBlob",
    "11.1",
    Duration.MEDIUM,
    (1, 2),
    Rule.PCR_ENFORCED | Rule.AUDITED,
    authorises=(Authorises.KEY, Authorises.LATER),
)
class CreateMigrationBlob(Request[CreateMigrationBlobReply]):
    """Encrypt a migratable key to another parent; the second authorisation is its migrationAuth."""

    parent_handle: KeyHandle
    migration_type: U16
    migration_key_auth: MigrationKeyAuth
    enc_data: Data


@structure("TPM_ConvertMigrationBlob reply", ref="Part 3, 11.2")
class ConvertMigrationBlobReply(Struct):
    """Reply of ConvertMigrationBlob: the encData of the key under its new parent."""

    out_data: Data


@command(
    0x2A,
    "TPM_ConvertMigrationBlob",
    "11.2",
    Duration.MEDIUM,
    (0, 1),
    Rule.PCR_ENFORCED | Rule.AUDITED,
    authorises=(Authorises.KEY,),
)
class ConvertMigrationBlob(Request[ConvertMigrationBlobReply]):
    """Make a migration blob a key of this parent."""

    parent_handle: KeyHandle
    in_data: Data
    random: Data


@structure("TPM_AuthorizeMigrationKey reply", ref="Part 3, 11.3")
class AuthorizeMigrationKeyReply(Struct):
    """Reply of AuthorizeMigrationKey."""

    out_data: MigrationKeyAuth


@command(
    0x2B,
    "TPM_AuthorizeMigrationKey",
    "11.3",
    Duration.SHORT,
    (1,),
    Rule.AUDITED,
    authorises=(Authorises.LATER,),
)
class AuthorizeMigrationKey(Request[AuthorizeMigrationKeyReply]):
    """Allow keys to be migrated to a public key; the owner's authorisation."""

    migration_scheme: U16
    migration_key: PubKey


@structure("TPM_MigrateKey reply", ref="Part 3, 11.4")
class MigrateKeyReply(Struct):
    """Reply of MigrateKey."""

    out_data: Data


@command(
    0x25,
    "TPM_MigrateKey",
    "11.4",
    Duration.MEDIUM,
    (0, 1),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class MigrateKey(Request[MigrateKeyReply]):
    """Pass a migration blob on to another public key, as a migration authority does."""

    ma_key_handle: KeyHandle
    pub_key: PubKey
    in_data: Data


@command(
    0x1C,
    "TPM_CMK_SetRestrictions",
    "11.5",
    Duration.SHORT,
    (1,),
    Rule.OPTIONAL,
    authorises=(Authorises.OWNER,),
)
class CmkSetRestrictions(Request[NoReply]):
    """Say which certified migration keys may be used by delegation."""

    restriction: U32


@structure("TPM_CMK_ApproveMA reply", ref="Part 3, 11.6")
class CmkApproveMAReply(Struct):
    """Reply of CmkApproveMA: a ticket for CmkCreateKey."""

    out_data: Digest


@command(
    0x1D,
    "TPM_CMK_ApproveMA",
    "11.6",
    Duration.SHORT,
    (1,),
    Rule.OPTIONAL,
    authorises=(Authorises.OWNER,),
)
class CmkApproveMA(Request[CmkApproveMAReply]):
    """Approve a list of migration authorities, given by the digest of its TPM_MSA_COMPOSITE."""

    migration_authority_digest: Digest


@structure("TPM_CMK_CreateKey reply", ref="Part 3, 11.7")
class CmkCreateKeyReply(Struct):
    """Reply of CmkCreateKey."""

    wrapped_key: Key


@command(
    0x13,
    "TPM_CMK_CreateKey",
    "11.7",
    Duration.LONG,
    (1,),
    Rule.OPTIONAL | Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class CmkCreateKey(Request[CmkCreateKeyReply]):
    """Create a certified migration key: it migrates as its migration authorities say."""

    parent_handle: KeyHandle
    data_usage_auth: EncAuth
    key_info: Key
    migration_authority_approval: Digest
    migration_authority_digest: Digest


@structure("TPM_CMK_CreateTicket reply", ref="Part 3, 11.8")
class CmkCreateTicketReply(Struct):
    """Reply of CmkCreateTicket."""

    sig_ticket: Digest


@command(
    0x12,
    "TPM_CMK_CreateTicket",
    "11.8",
    Duration.MEDIUM,
    (1,),
    Rule.OPTIONAL,
    authorises=(Authorises.OWNER,),
)
class CmkCreateTicket(Request[CmkCreateTicketReply]):
    """Check a signature, and get a ticket that says so to this TPM."""

    verification_key: PubKey
    signed_data: Digest
    signature_value: Data


@structure("TPM_CMK_CreateBlob reply", ref="Part 3, 11.9")
class CmkCreateBlobReply(Struct):
    """Reply of CmkCreateBlob."""

    random: Data
    out_data: Data


@command(
    0x1B,
    "TPM_CMK_CreateBlob",
    "11.9",
    Duration.MEDIUM,
    (1,),
    Rule.OPTIONAL | Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class CmkCreateBlob(Request[CmkCreateBlobReply]):
    """Encrypt a certified migration key to a migration authority, or to a key that one approved."""

    parent_handle: KeyHandle
    migration_type: U16
    migration_key_auth: MigrationKeyAuth
    pub_source_key_digest: Digest
    msa_list: _MsaList
    restrict_ticket: Data
    sig_ticket: Data
    enc_data: Data


@structure("TPM_CMK_ConvertMigration reply", ref="Part 3, 11.10")
class CmkConvertMigrationReply(Struct):
    """Reply of CmkConvertMigration: the encData of the key under its new parent."""

    out_data: Data


@command(
    0x24,
    "TPM_CMK_ConvertMigration",
    "11.10",
    Duration.MEDIUM,
    (1,),
    Rule.OPTIONAL | Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class CmkConvertMigration(Request[CmkConvertMigrationReply]):
    """Make the blob of a certified migration key a key of this parent."""

    parent_handle: KeyHandle
    restrict_ticket: CmkAuth
    sig_ticket: Digest
    migrated_key: Key
    msa_list: _MsaList
    random: Data
