"""The TIS command state machine as data: state -> event -> state.

TIS 1.21 "State transition" table (PTP: "FIFO interface state transitions"). Everything that
changes a state stands here; device, tests and docs read the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = ["PC_CLIENT", "READY_AFTER_COMPLETION", "Event", "State", "Transitions"]


class State(StrEnum):
    """Where a command is."""

    IDLE = "idle"
    READY = "ready"
    RECEPTION = "reception"
    EXECUTION = "execution"
    COMPLETION = "completion"


class Event(StrEnum):
    """What can happen to a command."""

    COMMAND_READY = "commandReady"  # software writes 1 to STS.commandReady
    FIFO_WRITE = "fifo-write"
    GO = "tpmGo"  # software writes 1 to STS.tpmGo and Expect is clear
    RESPONSE = "response"  # the TPM has answered
    RETRY = "responseRetry"  # software writes 1 to STS.responseRetry
    ABORTED = "aborted"  # an abort that software asked for with commandReady has taken effect


Transitions = Mapping[State, Mapping[Event, State]]


def _table(commandready_from_completion: State) -> Transitions:
    idle, ready, reception, execution, completion = State
    go, response, aborted = Event.GO, Event.RESPONSE, Event.ABORTED
    commandready, write = Event.COMMAND_READY, Event.FIFO_WRITE
    changes: dict[State, dict[Event, State]] = {
        idle: {commandready: ready},
        ready: {write: reception},
        reception: {commandready: ready, go: execution},
        # commandReady only asks for the abort: the state changes when the TPM has stopped.
        execution: {response: completion, aborted: ready},
        completion: {commandready: commandready_from_completion},
    }
    return MappingProxyType(
        {
            state: MappingProxyType({event: changes[state].get(event, state) for event in Event})
            for state in State
        }
    )


PC_CLIENT: Final = _table(State.IDLE)
"""The specification's machine: the first commandReady after a response leads to IDLE."""

READY_AFTER_COMPLETION: Final = _table(State.READY)
"""The short cut that the specification allows and QEMU takes."""
