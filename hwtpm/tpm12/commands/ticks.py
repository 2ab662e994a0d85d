"""Timing ticks (TPM Main, Version 1.2, Revision 116, Part 3, section 23)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, Request, Rule, command
from hwtpm.tpm12.types import CurrentTicks, Data, Digest, KeyHandle, Nonce
from hwtpm.wire import Struct, structure

__all__ = [
    "GetTicks",
    "GetTicksReply",
    "TickStampBlob",
    "TickStampBlobReply",
]


@structure("TPM_GetTicks reply", ref="Part 3, 23.1")
class GetTicksReply(Struct):
    """Reply of GetTicks."""

    current_time: CurrentTicks


@command(0xF1, "TPM_GetTicks", "23.1", Duration.SHORT, (0,), Rule.NO_OWNER)
class GetTicks(Request[GetTicksReply]):
    """Read the tick counter."""


@structure("TPM_TickStampBlob reply", ref="Part 3, 23.2")
class TickStampBlobReply(Struct):
    """Reply of TickStampBlob."""

    current_ticks: CurrentTicks
    sig: Data


@command(
    0xF2,
    "TPM_TickStampBlob",
    "23.2",
    Duration.MEDIUM,
    (0, 1),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class TickStampBlob(Request[TickStampBlobReply]):
    """Sign a digest together with the tick counter."""

    key_handle: KeyHandle
    anti_replay: Nonce
    digest_to_stamp: Digest
