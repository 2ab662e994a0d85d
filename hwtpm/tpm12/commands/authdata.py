"""Changing AuthData (TPM Main, Version 1.2, Revision 116, Part 3, section 17)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U16, Data, EncAuth, KeyHandle
from hwtpm.wire import Struct, structure

__all__ = ["ChangeAuth", "ChangeAuthOwner", "ChangeAuthReply"]


@structure("TPM_ChangeAuth reply", ref="Part 3, 17.1")
class ChangeAuthReply(Struct):
    """Reply of ChangeAuth."""

    out_data: Data


@command(
    0x0C,
    "TPM_ChangeAuth",
    "17.1",
    Duration.MEDIUM,
    (2,),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY_LATER, Authorises.LATER),
)
class ChangeAuth(Request[ChangeAuthReply]):
    """Give a wrapped key or sealed data another AuthData, as a blob beside the old one."""

    parent_handle: KeyHandle
    protocol_id: U16
    new_auth: EncAuth
    entity_type: U16
    enc_data: Data


@command(
    0x10,
    "TPM_ChangeAuthOwner",
    "17.2",
    Duration.SHORT,
    (1,),
    Rule.PCR_ENFORCED | Rule.AUDITED,
    authorises=(Authorises.OWNER,),
)
class ChangeAuthOwner(Request[NoReply]):
    """Change the AuthData of the owner or of the SRK."""

    protocol_id: U16
    new_auth: EncAuth
    entity_type: U16
