"""Admin startup and state (TPM Main, Version 1.2, Revision 116, Part 3, section 3)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, NoReply, Request, Rule, command, declare
from hwtpm.tpm12.types import U16

__all__ = [
    "SaveState",
    "Startup",
]


declare(
    0x97,
    "TPM_Init",
    "3.1",
    Duration.MEDIUM,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)


@command(
    0x99,
    "TPM_Startup",
    "3.2",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class Startup(Request[NoReply]):
    """Tell the TPM how the platform starts: ST_CLEAR, ST_STATE or ST_DEACTIVATED."""

    startup_type: U16


@command(
    0x98,
    "TPM_SaveState",
    "3.3",
    Duration.MEDIUM,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class SaveState(Request[NoReply]):
    """Keep the volatile state for a later TPM_Startup(ST_STATE)."""
