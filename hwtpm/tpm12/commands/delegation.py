"""Delegation commands (TPM Main, Version 1.2, Revision 116, Part 3, section 19)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U32, Bool, Data, EncAuth, KeyHandle, SecretData
from hwtpm.tpm12.types.delegation import DelegatePublic
from hwtpm.wire import Struct, structure

__all__ = [
    "CreateKeyDelegation",
    "CreateKeyDelegationReply",
    "CreateOwnerDelegation",
    "CreateOwnerDelegationReply",
    "DelegateManage",
    "DelegateManageReply",
    "DelegateReadTable",
    "DelegateReadTableReply",
    "LoadOwnerDelegation",
    "UpdateVerification",
    "UpdateVerificationReply",
    "VerifyDelegation",
]


@structure("TPM_Delegate_Manage reply", ref="Part 3, 19.1")
class DelegateManageReply(Struct):
    """Reply of DelegateManage: the new family's ID, or nothing."""

    ret_data: Data


@structure("TPM_Delegate_CreateKeyDelegation reply", ref="Part 3, 19.2")
class CreateKeyDelegationReply(Struct):
    """Reply of CreateKeyDelegation: an encoded DelegateKeyBlob."""

    blob: Data


@structure("TPM_Delegate_CreateOwnerDelegation reply", ref="Part 3, 19.3")
class CreateOwnerDelegationReply(Struct):
    """Reply of CreateOwnerDelegation: an encoded DelegateOwnerBlob."""

    blob: Data


@structure("TPM_Delegate_ReadTable reply", ref="Part 3, 19.5")
class DelegateReadTableReply(Struct):
    """Reply of DelegateReadTable: FamilyTableEntry after FamilyTableEntry; a TPM_DELEGATE_INDEX of
    4 bytes with a DelegatePublic for each row."""

    family_table: Data
    delegate_table: Data


@structure("TPM_Delegate_UpdateVerification reply", ref="Part 3, 19.6")
class UpdateVerificationReply(Struct):
    """Reply of UpdateVerification: the blob in its new form; nothing for a row."""

    output_data: Data


@command(
    0xD2,
    "TPM_Delegate_Manage",
    "19.1",
    Duration.MEDIUM,
    (0, 1),
    Rule.NO_OWNER,
    authorises=(Authorises.LATER,),
)
class DelegateManage(Request[DelegateManageReply]):
    """Create, enable, lock or remove a family: `op_code` is a FamilyOperation."""

    family_id: U32
    op_code: U32
    op_data: Data


@command(
    0xD4,
    "TPM_Delegate_CreateKeyDelegation",
    "19.2",
    Duration.MEDIUM,
    (1,),
    authorises=(Authorises.KEY,),
)
class CreateKeyDelegation(Request[CreateKeyDelegationReply]):
    """Delegate uses of a loaded key to whoever knows a new AuthData."""

    key_handle: KeyHandle
    public_info: DelegatePublic
    del_auth: EncAuth


@command(
    0xD5,
    "TPM_Delegate_CreateOwnerDelegation",
    "19.3",
    Duration.MEDIUM,
    (1,),
    authorises=(Authorises.OWNER,),
)
class CreateOwnerDelegation(Request[CreateOwnerDelegationReply]):
    """Delegate owner commands to whoever knows a new AuthData; `increment` first voids all other
    delegations of the family."""

    increment: Bool
    public_info: DelegatePublic
    del_auth: EncAuth


@command(
    0xD8,
    "TPM_Delegate_LoadOwnerDelegation",
    "19.4",
    Duration.MEDIUM,
    (0, 1),
    Rule.NO_OWNER,
    authorises=(Authorises.LATER,),
)
class LoadOwnerDelegation(Request[NoReply]):
    """Put an owner delegation, an encoded DelegateOwnerBlob, into a row of the TPM's table."""

    index: U32
    blob: SecretData  # plain for a TPM without an owner


@command(0xDB, "TPM_Delegate_ReadTable", "19.5", Duration.SHORT, (0,), Rule.NO_OWNER)
class DelegateReadTable(Request[DelegateReadTableReply]):
    """Read the families and the public parts of the delegations in the TPM."""


@command(
    0xD1,
    "TPM_Delegate_UpdateVerification",
    "19.6",
    Duration.SHORT,
    (1,),
    authorises=(Authorises.OWNER,),
)
class UpdateVerification(Request[UpdateVerificationReply]):
    """Bring a delegation to its family's verification count: a blob, or the index of a row."""

    input_data: Data


@command(0xD6, "TPM_Delegate_VerifyDelegation", "19.7", Duration.MEDIUM, (0,))
class VerifyDelegation(Request[NoReply]):
    """Ask if a delegation blob is valid now."""

    delegation: Data
