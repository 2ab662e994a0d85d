"""Integrity collection and reporting (TPM Main, Version 1.2, Revision 116, Part 3, section 16)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import (
    U32,
    Bool,
    Data,
    Digest,
    KeyHandle,
    Nonce,
    PcrComposite,
    PcrInfoShort,
    PcrSelection,
)
from hwtpm.wire import Struct, structure

__all__ = [
    "Extend",
    "ExtendReply",
    "PcrRead",
    "PcrReadReply",
    "PcrReset",
    "Quote",
    "Quote2",
    "Quote2Reply",
    "QuoteReply",
]


@structure("TPM_Extend reply", ref="Part 3, 16.1")
class ExtendReply(Struct):
    """Reply of Extend."""

    out_digest: Digest


@command(
    0x14,
    "TPM_Extend",
    "16.1",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class Extend(Request[ExtendReply]):
    """Extend a PCR with a digest."""

    pcr_num: U32
    in_digest: Digest


@structure("TPM_PcrRead reply", ref="Part 3, 16.2")
class PcrReadReply(Struct):
    """Reply of PcrRead."""

    out_digest: Digest


@command(0x15, "TPM_PcrRead", "16.2", Duration.SHORT, (0,), Rule.NO_OWNER)
class PcrRead(Request[PcrReadReply]):
    """Read a PCR."""

    pcr_index: U32


@structure("TPM_Quote reply", ref="Part 3, 16.3")
class QuoteReply(Struct):
    """Reply of Quote."""

    pcr_data: PcrComposite
    sig: Data


@command(
    0x16,
    "TPM_Quote",
    "16.3",
    Duration.MEDIUM,
    (0, 1),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class Quote(Request[QuoteReply]):
    """Sign selected PCRs and external data."""

    key_handle: KeyHandle
    external_data: Nonce
    target_pcr: PcrSelection


@command(
    0xC8,
    "TPM_PCR_Reset",
    "16.4",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class PcrReset(Request[NoReply]):
    """Reset the selected PCRs, if the locality may."""

    pcr_selection: PcrSelection


@structure("TPM_Quote2 reply", ref="Part 3, 16.5")
class Quote2Reply(Struct):
    """Reply of Quote2."""

    pcr_data: PcrInfoShort
    version_info: Data
    sig: Data


@command(
    0x3E,
    "TPM_Quote2",
    "16.5",
    Duration.MEDIUM,
    (0, 1),
    Rule.OPTIONAL | Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class Quote2(Request[Quote2Reply]):
    """Sign selected PCRs with locality and version."""

    key_handle: KeyHandle
    external_data: Nonce
    target_pcr: PcrSelection
    add_version: Bool
