"""Administrative functions: management (TPM Main, Version 1.2, Revision 116, Part 3, section 9)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U32, Data, KeyHandle

__all__ = [
    "FieldUpgrade",
    "ResetLockValue",
    "SetRedirection",
]


@command(
    0xAA,
    "TPM_FieldUpgrade",
    "9.1",
    Duration.LONG,
    (0, 1, 2),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.PRESENCE | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
    authorises=(Authorises.LATER, Authorises.LATER),
)
class FieldUpgrade(Request[NoReply]):
    """Upgrade the firmware. The parameters are the manufacturer's; ours is one sized block."""

    upgrade: Data


@command(
    0x9A,
    "TPM_SetRedirection",
    "9.2",
    Duration.SHORT,
    (0, 1),
    Rule.OPTIONAL | Rule.PRESENCE | Rule.AUDITED,
    authorises=(Authorises.LATER,),
)
class SetRedirection(Request[NoReply]):
    """Attach a key to a receiver of its output, a GPIO channel."""

    key_handle: KeyHandle
    redir_cmd: U32
    input_data: Data


@command(0x40, "TPM_ResetLockValue", "9.3", Duration.SHORT, (1,), authorises=(Authorises.LATER,))
class ResetLockValue(Request[NoReply]):
    """Reset the dictionary-attack counters with owner authorisation."""
