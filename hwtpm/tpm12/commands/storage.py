"""Storage functions (TPM Main, Version 1.2, Revision 116, Part 3, section 10)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, Request, Rule, command
from hwtpm.tpm12.types import Data, EncAuth, Key, KeyHandle, PubKey, SecretData, StoredData
from hwtpm.wire import Struct, structure

__all__ = [
    "CreateWrapKey",
    "CreateWrapKeyReply",
    "GetPubKey",
    "GetPubKeyReply",
    "LoadKey2",
    "LoadKey2Reply",
    "Seal",
    "SealReply",
    "Sealx",
    "SealxReply",
    "UnBind",
    "UnBindReply",
    "Unseal",
    "UnsealReply",
]


@structure("TPM_Seal reply", ref="Part 3, 10.1")
class SealReply(Struct):
    """Reply of Seal."""

    sealed_data: StoredData


@command(
    0x17, "TPM_Seal", "10.1", Duration.MEDIUM, (1,), Rule.PCR_ENFORCED, authorises=(Authorises.KEY,)
)
class Seal(Request[SealReply]):
    """Encrypt data so that only this TPM, in the named PCR state, gives it back."""

    key_handle: KeyHandle
    enc_auth: EncAuth
    pcr_info: Data
    in_data: SecretData


@structure("TPM_Unseal reply", ref="Part 3, 10.2")
class UnsealReply(Struct):
    """Reply of Unseal."""

    secret: SecretData


@command(
    0x18,
    "TPM_Unseal",
    "10.2",
    Duration.MEDIUM,
    (1, 2),
    Rule.PCR_ENFORCED,
    authorises=(
        Authorises.KEY,
        Authorises.LATER,
    ),
)
class Unseal(Request[UnsealReply]):
    """Get sealed data back; the second authorisation is that of the data."""

    parent_handle: KeyHandle
    in_data: StoredData


@structure("TPM_UnBind reply", ref="Part 3, 10.3")
class UnBindReply(Struct):
    """Reply of UnBind."""

    out_data: SecretData


@command(
    0x1E,
    "TPM_UnBind",
    "10.3",
    Duration.MEDIUM,
    (0, 1),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY_LATER,),
)
class UnBind(Request[UnBindReply]):
    """Decrypt data that was bound to a key outside the TPM."""

    key_handle: KeyHandle
    in_data: Data


@structure("TPM_CreateWrapKey reply", ref="Part 3, 10.4")
class CreateWrapKeyReply(Struct):
    """Reply of CreateWrapKey."""

    wrapped_key: Key


@command(
    0x1F,
    "TPM_CreateWrapKey",
    "10.4",
    Duration.LONG,
    (1,),
    Rule.PCR_ENFORCED | Rule.AUDITED,
    authorises=(Authorises.KEY,),
)
class CreateWrapKey(Request[CreateWrapKeyReply]):
    """Create a key and wrap it under its parent."""

    parent_handle: KeyHandle
    data_usage_auth: EncAuth
    data_migration_auth: EncAuth
    key_info: Key


@structure("TPM_LoadKey2 reply", ref="Part 3, 10.5")
class LoadKey2Reply(Struct):
    """Reply of LoadKey2."""

    inkey_handle: KeyHandle


@command(
    0x41,
    "TPM_LoadKey2",
    "10.5",
    Duration.MEDIUM,
    (0, 1),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class LoadKey2(Request[LoadKey2Reply]):
    """Load a wrapped key; its handle stays out of the response digest."""

    parent_handle: KeyHandle
    in_key: Key


@structure("TPM_GetPubKey reply", ref="Part 3, 10.6")
class GetPubKeyReply(Struct):
    """Reply of GetPubKey."""

    pub_key: PubKey


@command(
    0x21,
    "TPM_GetPubKey",
    "10.6",
    Duration.SHORT,
    (0, 1),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY_TO_READ,),
)
class GetPubKey(Request[GetPubKeyReply]):
    """Read the public part of a loaded key."""

    key_handle: KeyHandle


@structure("TPM_Sealx reply", ref="Part 3, 10.7")
class SealxReply(Struct):
    """Reply of Sealx."""

    sealed_data: StoredData


@command(
    0x3D,
    "TPM_Sealx",
    "10.7",
    Duration.MEDIUM,
    (1,),
    Rule.OPTIONAL | Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class Sealx(Request[SealxReply]):
    """Seal data that comes, and later leaves, encrypted with the session's shared secret."""

    key_handle: KeyHandle
    enc_auth: EncAuth
    pcr_info: Data
    in_data: Data
