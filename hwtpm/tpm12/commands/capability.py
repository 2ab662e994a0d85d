"""The capability commands (TPM Main, Version 1.2, Revision 116, Part 3, section 7)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U32, Data, Version
from hwtpm.wire import Struct, structure

__all__ = [
    "GetCapability",
    "GetCapabilityOwner",
    "GetCapabilityOwnerReply",
    "GetCapabilityReply",
    "SetCapability",
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


@command(
    0x3F,
    "TPM_SetCapability",
    "7.2",
    Duration.SHORT,
    (0, 1),
    Rule.NO_OWNER | Rule.PRESENCE | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
    authorises=(Authorises.LATER,),
)
class SetCapability(Request[NoReply]):
    """Set a flag or value of the TPM, with owner authorisation where that one needs it."""

    cap_area: U32
    sub_cap: Data
    set_value: Data


@structure("TPM_GetCapabilityOwner reply", ref="Part 3, 7.3")
class GetCapabilityOwnerReply(Struct):
    """Reply of GetCapabilityOwner. Bit N is the Nth flag of TPM_PERMANENT_FLAGS and
    TPM_STCLEAR_FLAGS."""

    version: Version
    non_volatile_flags: U32
    volatile_flags: U32


@command(
    0x66,
    "TPM_GetCapabilityOwner",
    "7.3",
    Duration.SHORT,
    (1,),
    Rule.DEPRECATED,
    authorises=(Authorises.OWNER,),
)
class GetCapabilityOwner(Request[GetCapabilityOwnerReply]):
    """Get all flags at once with owner authorisation."""
