"""Monotonic counters (Part 3 section 25)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.state import MAX_COUNTERS, Counter
from hwtpm.tpm12.commands.counters import (
    CreateCounter,
    CreateCounterReply,
    IncrementCounter,
    IncrementCounterReply,
    ReadCounter,
    ReadCounterReply,
    ReleaseCounter,
    ReleaseCounterOwner,
)
from hwtpm.tpm12.const import EntityType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types import CounterValue

__all__ = ["RELEASED"]

RELEASED: Final = 0xFFFFFFFF
"""TPM_STCLEAR_DATA.countID once the active counter is released: nothing can be incremented."""
_MAX_VALUE: Final = 0xFFFFFFFE


def _counter(call: Call, handle: int) -> Counter:
    counter = call.tpm.permanent.counter(handle)
    if counter is None:
        raise Refuse(Rc.BAD_COUNTER)
    return counter


def _entity(counter: Counter) -> tuple[int, bytes]:
    return int(EntityType.COUNTER), counter.handle.to_bytes(4, "big")


@serves(CreateCounter)
def create_counter(call: Call, request: CreateCounter) -> CreateCounterReply:
    """25.1. A counter starts above all values that any counter ever had, so the start value also
    serves as its handle."""
    permanent = call.tpm.permanent
    auth = call.new_auth(request.enc_auth)
    start = permanent.next_counter
    if len(permanent.counters) >= MAX_COUNTERS or start > _MAX_VALUE:
        raise Refuse(Rc.RESOURCES)
    counter = Counter(start, auth, CounterValue(request.label, start))
    call.tpm.permanent = replace(permanent.with_counter(counter), next_counter=start + 1)
    return CreateCounterReply(counter.handle, counter.value)


@serves(IncrementCounter)
def increment_counter(call: Call, request: IncrementCounter) -> IncrementCounterReply:
    """25.2."""
    tpm = call.tpm
    stclear = tpm.volatile
    if stclear.active_counter not in (0, request.count_id):
        raise Refuse(Rc.BAD_COUNTER)
    counter = _counter(call, request.count_id)
    call.authorise(counter.auth, _entity(counter))
    count = counter.value.counter + 1
    if count > _MAX_VALUE:
        raise Refuse(Rc.RESOURCES)
    value = replace(counter.value, counter=count)
    permanent = tpm.permanent.with_counter(replace(counter, value=value))
    tpm.permanent = replace(permanent, next_counter=max(permanent.next_counter, count + 1))
    if not stclear.active_counter:
        tpm.stclear = replace(stclear, active_counter=counter.handle)
    return IncrementCounterReply(value)


@serves(ReadCounter)
def read_counter(call: Call, request: ReadCounter) -> ReadCounterReply:
    """25.3."""
    return ReadCounterReply(_counter(call, request.count_id).value)


def _release(call: Call, counter: Counter) -> NoReply:
    tpm = call.tpm
    tpm.permanent = tpm.permanent.without_counter(counter.handle)
    if tpm.volatile.active_counter == counter.handle:
        tpm.stclear = replace(tpm.volatile, active_counter=RELEASED)
    call.end_sessions_of(_entity(counter))
    return NoReply()


@serves(ReleaseCounter)
def release_counter(call: Call, request: ReleaseCounter) -> NoReply:
    """25.4."""
    counter = _counter(call, request.count_id)
    call.authorise(counter.auth, _entity(counter))
    return _release(call, counter)


@serves(ReleaseCounterOwner)
def release_counter_owner(call: Call, request: ReleaseCounterOwner) -> NoReply:
    """25.5."""
    return _release(call, _counter(call, request.count_id))
