"""Administrative functions: management (TPM Main, Version 1.2, Revision 116, Part 3, section 9)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command, declare

__all__ = [
    "ResetLockValue",
]


declare(
    0xAA,
    "TPM_FieldUpgrade",
    "9.1",
    Duration.LONG,
    (0, 1, 2),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.PRESENCE | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)

declare(
    0x9A,
    "TPM_SetRedirection",
    "9.2",
    Duration.SHORT,
    (0, 1),
    Rule.OPTIONAL | Rule.PRESENCE | Rule.AUDITED,
)


@command(0x40, "TPM_ResetLockValue", "9.3", Duration.SHORT, (1,), authorises=(Authorises.LATER,))
class ResetLockValue(Request[NoReply]):
    """Reset the dictionary-attack counters with owner authorisation."""
