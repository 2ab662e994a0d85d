"""Auditing (TPM Main, Version 1.2, Revision 116, Part 3, section 8)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U32, Bool, CounterValue, Data, Digest, KeyHandle, Nonce
from hwtpm.wire import Struct, structure

__all__ = [
    "GetAuditDigest",
    "GetAuditDigestReply",
    "GetAuditDigestSigned",
    "GetAuditDigestSignedReply",
    "SetOrdinalAuditStatus",
]


@structure("TPM_GetAuditDigest reply", ref="Part 3, 8.3")
class GetAuditDigestReply(Struct):
    """Reply of GetAuditDigest. `ord_list` holds ordinals of four bytes each, ascending."""

    counter_value: CounterValue
    audit_digest: Digest
    more: Bool
    ord_list: Data

    @property
    def ordinals(self) -> tuple[int, ...]:
        """The audited ordinals."""
        listed = self.ord_list
        return tuple(int.from_bytes(listed[at : at + 4], "big") for at in range(0, len(listed), 4))


@command(
    0x85,
    "TPM_GetAuditDigest",
    "8.3",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.NEVER_AUDITED,
)
class GetAuditDigest(Request[GetAuditDigestReply]):
    """Read the audit digest and which commands are audited, from an ordinal on."""

    start_ordinal: U32


@structure("TPM_GetAuditDigestSigned reply", ref="Part 3, 8.4")
class GetAuditDigestSignedReply(Struct):
    """Reply of GetAuditDigestSigned."""

    counter_value: CounterValue
    audit_digest: Digest
    ordinal_digest: Digest
    sig: Data


@command(
    0x86,
    "TPM_GetAuditDigestSigned",
    "8.4",
    Duration.MEDIUM,
    (0, 1),
    Rule.OPTIONAL | Rule.NEVER_AUDITED,
    authorises=(Authorises.KEY,),
)
class GetAuditDigestSigned(Request[GetAuditDigestSignedReply]):
    """Sign the audit digest and the list of audited commands; an identity can end the digest."""

    key_handle: KeyHandle
    close_audit: Bool
    anti_replay: Nonce


@command(
    0x8D,
    "TPM_SetOrdinalAuditStatus",
    "8.5",
    Duration.SHORT,
    (1,),
    Rule.OPTIONAL | Rule.AUDITED,
    authorises=(Authorises.OWNER,),
)
class SetOrdinalAuditStatus(Request[NoReply]):
    """Have a command audited or not."""

    ordinal_to_audit: U32
    audit_state: Bool
