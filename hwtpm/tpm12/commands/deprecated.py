"""Deprecated commands (TPM Main, Version 1.2, Revision 116, Part 3, section 27)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U16, U32, Data, Digest, Key, KeyHandle, KeyParms, Nonce, PubKey
from hwtpm.tpm12.types.certify import CertifyInfo
from hwtpm.wire import Struct, structure

__all__ = [
    "ChangeAuthAsymFinish",
    "ChangeAuthAsymFinishReply",
    "ChangeAuthAsymStart",
    "ChangeAuthAsymStartReply",
    "DirRead",
    "DirReadReply",
    "DirWriteAuth",
    "DisablePubekRead",
    "EvictKey",
    "LoadAuthContext",
    "LoadAuthContextReply",
    "LoadKey",
    "LoadKeyContext",
    "LoadKeyContextReply",
    "LoadKeyReply",
    "OwnerReadPubek",
    "OwnerReadPubekReply",
    "Reset",
    "SaveAuthContext",
    "SaveAuthContextReply",
    "SaveKeyContext",
    "SaveKeyContextReply",
    "TerminateHandle",
]


@command(0x22, "TPM_EvictKey", "27.1.1", Duration.SHORT, (0,), Rule.DEPRECATED)
class EvictKey(Request[NoReply]):
    """Unload a key."""

    evict_handle: KeyHandle


@command(
    0x96,
    "TPM_Terminate_Handle",
    "27.1.2",
    Duration.SHORT,
    (0,),
    Rule.DEPRECATED | Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class TerminateHandle(Request[NoReply]):
    """Forget an authorisation session."""

    handle: KeyHandle


@structure("TPM_SaveKeyContext reply", ref="Part 3, 27.2.1")
class SaveKeyContextReply(Struct):
    """Reply of SaveKeyContext."""

    key_context_blob: Data


@command(
    0xB4,
    "TPM_SaveKeyContext",
    "27.2.1",
    Duration.MEDIUM,
    (0,),
    Rule.OPTIONAL | Rule.DEPRECATED | Rule.NO_OWNER,
)
class SaveKeyContext(Request[SaveKeyContextReply]):
    """Move a loaded key out of the TPM until the power goes."""

    key_handle: KeyHandle


@structure("TPM_LoadKeyContext reply", ref="Part 3, 27.2.2")
class LoadKeyContextReply(Struct):
    """Reply of LoadKeyContext."""

    key_handle: KeyHandle


@command(
    0xB5,
    "TPM_LoadKeyContext",
    "27.2.2",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.DEPRECATED | Rule.NO_OWNER,
)
class LoadKeyContext(Request[LoadKeyContextReply]):
    """Bring a key back in."""

    key_context_blob: Data


@structure("TPM_SaveAuthContext reply", ref="Part 3, 27.2.3")
class SaveAuthContextReply(Struct):
    """Reply of SaveAuthContext."""

    auth_context_blob: Data


@command(
    0xB6,
    "TPM_SaveAuthContext",
    "27.2.3",
    Duration.MEDIUM,
    (0,),
    Rule.OPTIONAL | Rule.DEPRECATED | Rule.NO_OWNER,
)
class SaveAuthContext(Request[SaveAuthContextReply]):
    """Move an authorisation session out of the TPM until the power goes."""

    auth_handle: KeyHandle


@structure("TPM_LoadAuthContext reply", ref="Part 3, 27.2.4")
class LoadAuthContextReply(Struct):
    """Reply of LoadAuthContext."""

    auth_handle: KeyHandle


@command(
    0xB7,
    "TPM_LoadAuthContext",
    "27.2.4",
    Duration.MEDIUM,
    (0,),
    Rule.OPTIONAL | Rule.DEPRECATED | Rule.NO_OWNER,
)
class LoadAuthContext(Request[LoadAuthContextReply]):
    """Bring an authorisation session back in."""

    auth_context_blob: Data


@command(
    0x19,
    "TPM_DirWriteAuth",
    "27.3.1",
    Duration.SHORT,
    (1,),
    Rule.DEPRECATED,
    authorises=(Authorises.OWNER,),
)
class DirWriteAuth(Request[NoReply]):
    """Write the data integrity register, with owner authorisation."""

    dir_index: U32
    new_contents: Digest


@structure("TPM_DirRead reply", ref="Part 3, 27.3.2")
class DirReadReply(Struct):
    """Reply of DirRead."""

    dir_contents: Digest


@command(0x1A, "TPM_DirRead", "27.3.2", Duration.SHORT, (0,), Rule.DEPRECATED)
class DirRead(Request[DirReadReply]):
    """Read the data integrity register."""

    dir_index: U32


@structure("TPM_ChangeAuthAsymStart reply", ref="Part 3, 27.4.1")
class ChangeAuthAsymStartReply(Struct):
    """Reply of ChangeAuthAsymStart. The handle is part of the response digest."""

    certify_info: CertifyInfo
    sig: Data
    eph_handle: U32
    temp_key: Key


@command(
    0x0E,
    "TPM_ChangeAuthAsymStart",
    "27.4.1",
    Duration.LONG,
    (0, 1),
    Rule.DEPRECATED | Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class ChangeAuthAsymStart(Request[ChangeAuthAsymStartReply]):
    """Create an ephemeral key for a new AuthData to travel under, certified by an identity."""

    id_handle: KeyHandle
    anti_replay: Nonce
    temp_key: KeyParms


@structure("TPM_ChangeAuthAsymFinish reply", ref="Part 3, 27.4.2")
class ChangeAuthAsymFinishReply(Struct):
    """Reply of ChangeAuthAsymFinish."""

    out_data: Data
    salt_nonce: Nonce
    change_proof: Digest


@command(
    0x0F,
    "TPM_ChangeAuthAsymFinish",
    "27.4.2",
    Duration.MEDIUM,
    (0, 1),
    Rule.DEPRECATED | Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY_LATER,),
)
class ChangeAuthAsymFinish(Request[ChangeAuthAsymFinishReply]):
    """Give a wrapped key or sealed data the AuthData that came under the ephemeral key."""

    parent_handle: KeyHandle
    eph_handle: KeyHandle
    entity_type: U16
    new_auth_link: Digest
    enc_new_auth: Data
    enc_data: Data


@command(
    0x5A,
    "TPM_Reset",
    "27.5",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class Reset(Request[NoReply]):
    """Forget all authorisation sessions."""


@structure("TPM_OwnerReadPubek reply", ref="Part 3, 27.6")
class OwnerReadPubekReply(Struct):
    """Reply of OwnerReadPubek."""

    pub_endorsement_key: PubKey


@command(
    0x7D,
    "TPM_OwnerReadPubek",
    "27.6",
    Duration.SHORT,
    (1,),
    Rule.DEPRECATED | Rule.AUDITED,
    authorises=(Authorises.OWNER,),
)
class OwnerReadPubek(Request[OwnerReadPubekReply]):
    """Read the public endorsement key with owner authorisation."""


@command(
    0x7E,
    "TPM_DisablePubekRead",
    "27.7",
    Duration.SHORT,
    (1,),
    Rule.AUDITED,
    authorises=(Authorises.OWNER,),
)
class DisablePubekRead(Request[NoReply]):
    """Forbid TPM_ReadPubek."""


@structure("TPM_LoadKey reply", ref="Part 3, 27.8")
class LoadKeyReply(Struct):
    """Reply of LoadKey. The handle is part of the response digest."""

    inkey_handle: U32


@command(
    0x20,
    "TPM_LoadKey",
    "27.8",
    Duration.MEDIUM,
    (0, 1),
    Rule.DEPRECATED | Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class LoadKey(Request[LoadKeyReply]):
    """Load a wrapped key."""

    parent_handle: KeyHandle
    in_key: Key
