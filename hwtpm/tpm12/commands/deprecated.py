"""Deprecated commands (TPM Main, Version 1.2, Revision 116, Part 3, section 27)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command, declare
from hwtpm.tpm12.types import KeyHandle

__all__ = ["DisablePubekRead", "TerminateHandle"]

declare(0x22, "TPM_EvictKey", "27.1.1", Duration.SHORT, (0,), Rule.DEPRECATED)


@command(
    0x96,
    "TPM_Terminate_Handle",
    "27.1.2",
    Duration.SHORT,
    (0,),
    Rule.DEPRECATED | Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class TerminateHandle(Request[NoReply]):
    """Forget an authorisation session."""

    handle: KeyHandle


declare(
    0xB4,
    "TPM_SaveKeyContext",
    "27.2.1",
    Duration.MEDIUM,
    (0,),
    Rule.OPTIONAL | Rule.DEPRECATED | Rule.NO_OWNER,
)

declare(
    0xB5,
    "TPM_LoadKeyContext",
    "27.2.2",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.DEPRECATED | Rule.NO_OWNER,
)

declare(
    0xB6,
    "TPM_SaveAuthContext",
    "27.2.3",
    Duration.MEDIUM,
    (0,),
    Rule.OPTIONAL | Rule.DEPRECATED | Rule.NO_OWNER,
)

declare(
    0xB7,
    "TPM_LoadAuthContext",
    "27.2.4",
    Duration.MEDIUM,
    (0,),
    Rule.OPTIONAL | Rule.DEPRECATED | Rule.NO_OWNER,
)

declare(0x19, "TPM_DirWriteAuth", "27.3.1", Duration.SHORT, (1,), Rule.DEPRECATED)

declare(0x1A, "TPM_DirRead", "27.3.2", Duration.SHORT, (0,), Rule.DEPRECATED)

declare(
    0x0E,
    "TPM_ChangeAuthAsymStart",
    "27.4.1",
    Duration.LONG,
    (0, 1),
    Rule.DEPRECATED | Rule.PCR_ENFORCED,
)

declare(
    0x0F,
    "TPM_ChangeAuthAsymFinish",
    "27.4.2",
    Duration.MEDIUM,
    (0, 1),
    Rule.DEPRECATED | Rule.PCR_ENFORCED,
)

declare(
    0x5A,
    "TPM_Reset",
    "27.5",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)

declare(0x7D, "TPM_OwnerReadPubek", "27.6", Duration.SHORT, (1,), Rule.DEPRECATED | Rule.AUDITED)


@command(
    0x7E,
    "TPM_DisablePubekRead",
    "27.7",
    Duration.SHORT,
    (1,),
    Rule.AUDITED,
    authorises=(Authorises.OWNER,),
)
class DisablePubekRead(Request[NoReply]):
    """Forbid TPM_ReadPubek."""


declare(0x20, "TPM_LoadKey", "27.8", Duration.MEDIUM, (0, 1), Rule.DEPRECATED | Rule.PCR_ENFORCED)
