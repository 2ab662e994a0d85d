"""DAA commands (TPM Main, Version 1.2, Revision 116, Part 3, section 26)."""

from __future__ import annotations

from typing import Annotated

from hwtpm.tpm12.table import Authorises, Duration, Request, Rule, command
from hwtpm.tpm12.types import U8, Data
from hwtpm.wire import Handle, Struct, structure

__all__ = ["DaaJoin", "DaaJoinReply", "DaaSign", "DaaSignReply"]

_SessionHandle = Annotated[int, Handle()]


@structure("TPM_DAA_Join reply", ref="Part 3, 26.1")
class DaaJoinReply(Struct):
    """Reply of DaaJoin; at stage 0 the data is the session's handle."""

    output_data: Data


# The actions prove the owner: a wrong proof ends the DAA session (actions 1 and 2).
@command(
    0x29,
    "TPM_DAA_Join",
    "26.1",
    Duration.LONG,
    (1,),
    Rule.OPTIONAL,
    authorises=(Authorises.LATER,),
)
class DaaJoin(Request[DaaJoinReply]):
    """One of the 25 stages that give a TPM its secrets with a DAA issuer."""

    handle: _SessionHandle
    stage: U8
    input_data0: Data
    input_data1: Data


@structure("TPM_DAA_Sign reply", ref="Part 3, 26.2")
class DaaSignReply(Struct):
    """Reply of DaaSign; at stage 0 the data is the session's handle."""

    output_data: Data


@command(
    0x31,
    "TPM_DAA_Sign",
    "26.2",
    Duration.LONG,
    (1,),
    Rule.OPTIONAL,
    authorises=(Authorises.LATER,),
)
class DaaSign(Request[DaaSignReply]):
    """One of the 16 stages of an anonymous signature over a message or an identity key."""

    handle: _SessionHandle
    stage: U8
    input_data0: Data
    input_data1: Data
