"""Admin opt-in (TPM Main, Version 1.2, Revision 116, Part 3, section 5)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import AuthValue, Bool

__all__ = [
    "OwnerSetDisable",
    "PhysicalDisable",
    "PhysicalEnable",
    "PhysicalSetDeactivated",
    "SetOperatorAuth",
    "SetOwnerInstall",
    "SetTempDeactivated",
]


@command(
    0x71,
    "TPM_SetOwnerInstall",
    "5.1",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.PRESENCE | Rule.AUDITED,
)
class SetOwnerInstall(Request[NoReply]):
    """Allow or forbid TPM_TakeOwnership; needs physical presence."""

    state: Bool


@command(
    0x6E,
    "TPM_OwnerSetDisable",
    "5.2",
    Duration.SHORT,
    (1,),
    Rule.AUDITED | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
    authorises=(Authorises.OWNER,),
)
class OwnerSetDisable(Request[NoReply]):
    """Enable or disable the TPM with owner authorisation."""

    disable_state: Bool


@command(
    0x6F,
    "TPM_PhysicalEnable",
    "5.3",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.PRESENCE | Rule.AUDITED | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class PhysicalEnable(Request[NoReply]):
    """Enable the TPM; needs physical presence."""


@command(
    0x70,
    "TPM_PhysicalDisable",
    "5.4",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.PRESENCE | Rule.AUDITED | Rule.WHEN_DEACTIVATED,
)
class PhysicalDisable(Request[NoReply]):
    """Disable the TPM; needs physical presence."""


@command(
    0x72,
    "TPM_PhysicalSetDeactivated",
    "5.5",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.PRESENCE | Rule.AUDITED | Rule.WHEN_DEACTIVATED,
)
class PhysicalSetDeactivated(Request[NoReply]):
    """Set the permanent deactivated flag; needs physical presence."""

    state: Bool


@command(
    0x73,
    "TPM_SetTempDeactivated",
    "5.6",
    Duration.SHORT,
    (0, 1),
    Rule.NO_OWNER | Rule.PRESENCE | Rule.AUDITED | Rule.WHEN_DISABLED,
    authorises=(Authorises.LATER,),
)
class SetTempDeactivated(Request[NoReply]):
    """Deactivate the TPM until the next start; operator authorisation or physical presence."""


@command(0x74, "TPM_SetOperatorAuth", "5.7", Duration.SHORT, (0,), Rule.NO_OWNER | Rule.PRESENCE)
class SetOperatorAuth(Request[NoReply]):
    """Set the operator's AuthData; needs physical presence."""

    operator_auth: AuthValue
