"""Eviction (TPM Main, Version 1.2, Revision 116, Part 3, section 22)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U32, KeyHandle

__all__ = [
    "FlushSpecific",
]


@command(
    0xBA,
    "TPM_FlushSpecific",
    "22.1",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class FlushSpecific(Request[NoReply]):
    """Forget a key, session, transport or saved context."""

    handle: KeyHandle
    resource_type: U32
