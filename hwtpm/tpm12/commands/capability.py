"""The capability commands (TPM Main, Version 1.2, Revision 116, Part 3, section 7)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, Request, Rule, command, declare
from hwtpm.tpm12.types import U32, Data
from hwtpm.wire import Struct, structure

__all__ = [
    "GetCapability",
    "GetCapabilityReply",
]


@structure("TPM_GetCapability reply", ref="Part 3, 7.1")
class GetCapabilityReply(Struct):
    """Reply of GetCapability."""

    resp: Data


@command(
    0x65,
    "TPM_GetCapability",
    "7.1",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class GetCapability(Request[GetCapabilityReply]):
    """Ask what the TPM is and can do."""

    cap_area: U32
    sub_cap: Data


declare(
    0x3F,
    "TPM_SetCapability",
    "7.2",
    Duration.SHORT,
    (0, 1),
    Rule.NO_OWNER | Rule.PRESENCE | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)

declare(0x66, "TPM_GetCapabilityOwner", "7.3", Duration.SHORT, (1,), Rule.DEPRECATED)
