"""Admin testing (TPM Main, Version 1.2, Revision 116, Part 3, section 4)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import Data
from hwtpm.wire import Struct, structure

__all__ = [
    "ContinueSelfTest",
    "GetTestResult",
    "GetTestResultReply",
    "SelfTestFull",
]


@command(
    0x50,
    "TPM_SelfTestFull",
    "4.1",
    Duration.LONG,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class SelfTestFull(Request[NoReply]):
    """Run all self tests now."""


@command(
    0x53,
    "TPM_ContinueSelfTest",
    "4.2",
    Duration.LONG,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class ContinueSelfTest(Request[NoReply]):
    """Finish the self tests that did not run yet."""


@structure("TPM_GetTestResult reply", ref="Part 3, 4.3")
class GetTestResultReply(Struct):
    """Reply of GetTestResult."""

    out_data: Data


@command(
    0x54,
    "TPM_GetTestResult",
    "4.3",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class GetTestResult(Request[GetTestResultReply]):
    """Ask for the result of the self tests; works in failure mode."""
