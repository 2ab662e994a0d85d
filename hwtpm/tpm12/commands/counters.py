"""Monotonic counter (TPM Main, Version 1.2, Revision 116, Part 3, section 25)."""

from __future__ import annotations

from typing import Annotated

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U32, CounterValue, EncAuth
from hwtpm.wire import Fixed, Struct, structure

__all__ = [
    "CreateCounter",
    "CreateCounterReply",
    "IncrementCounter",
    "IncrementCounterReply",
    "ReadCounter",
    "ReadCounterReply",
    "ReleaseCounter",
    "ReleaseCounterOwner",
]


@structure("TPM_CreateCounter reply", ref="Part 3, 25.1")
class CreateCounterReply(Struct):
    """Reply of CreateCounter."""

    count_id: U32
    counter_value: CounterValue


@command(0xDC, "TPM_CreateCounter", "25.1", Duration.SHORT, (1,), authorises=(Authorises.OWNER,))
class CreateCounter(Request[CreateCounterReply]):
    """Create a monotonic counter."""

    enc_auth: EncAuth
    label: Annotated[bytes, Fixed("BYTE[4]", 4)]


@structure("TPM_IncrementCounter reply", ref="Part 3, 25.2")
class IncrementCounterReply(Struct):
    """Reply of IncrementCounter."""

    count: CounterValue


@command(0xDD, "TPM_IncrementCounter", "25.2", Duration.SHORT, (1,), authorises=(Authorises.LATER,))
class IncrementCounter(Request[IncrementCounterReply]):
    """Increment the active counter."""

    count_id: U32


@structure("TPM_ReadCounter reply", ref="Part 3, 25.3")
class ReadCounterReply(Struct):
    """Reply of ReadCounter."""

    count: CounterValue


@command(0xDE, "TPM_ReadCounter", "25.3", Duration.SHORT, (0,), Rule.NO_OWNER)
class ReadCounter(Request[ReadCounterReply]):
    """Read a counter."""

    count_id: U32


@command(
    0xDF,
    "TPM_ReleaseCounter",
    "25.4",
    Duration.SHORT,
    (1,),
    Rule.NO_OWNER,
    authorises=(Authorises.LATER,),
)
class ReleaseCounter(Request[NoReply]):
    """Delete a counter with its own authorisation."""

    count_id: U32


@command(
    0xE0, "TPM_ReleaseCounterOwner", "25.5", Duration.SHORT, (1,), authorises=(Authorises.OWNER,)
)
class ReleaseCounterOwner(Request[NoReply]):
    """Delete a counter with owner authorisation."""

    count_id: U32
