"""Monotonic counters (Part 3 section 25)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.state import MAX_COUNTERS, Counter, Stclear
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

__all__ = ["active_counter"]

# TPM_STCLEAR_DATA.countID is zero as long as no counter is active (25.2 action 1). Zero is also the
# handle of libtpms' first counter, and of ours: so what is kept is the handle plus one.
_NONE_YET: Final = 0
_RELEASED: Final = 0xFFFFFFFF
_NO_COUNTER: Final = 0xFFFFFFFF
_MAX_VALUE: Final = 0xFFFFFFFE


def active_counter(stclear: Stclear) -> int:
    """The handle of the counter that may be incremented until the next start; 0xFFFFFFFF if none is
    active or it has been released (Part 2 section 21.2, TPM_CAP_PROP_ACTIVE_COUNTER)."""
    kept = stclear.active_counter
    return _NO_COUNTER if kept in (_NONE_YET, _RELEASED) else kept - 1


def _counter(call: Call, handle: int) -> Counter:
    counter = call.tpm.permanent.counter(handle)
    if counter is None:
        raise Refuse(Rc.BAD_COUNTER)
    return counter


def _entity(counter: Counter) -> tuple[int, bytes]:
    return int(EntityType.COUNTER), counter.handle.to_bytes(4, "big")


@serves(CreateCounter)
def create_counter(call: Call, request: CreateCounter) -> CreateCounterReply:
    """25.1. A counter starts above all values that any counter ever had."""
    permanent = call.tpm.permanent
    auth = call.new_auth(request.enc_auth)
    start = permanent.next_counter
    if len(permanent.counters) >= MAX_COUNTERS or start > _MAX_VALUE:
        raise Refuse(Rc.RESOURCES)
    handle = next(h for h in range(MAX_COUNTERS) if permanent.counter(h) is None)
    counter = Counter(handle, auth, CounterValue(request.label, start))
    call.tpm.permanent = replace(permanent.with_counter(counter), next_counter=start + 1)
    return CreateCounterReply(counter.handle, counter.value)


@serves(IncrementCounter)
def increment_counter(call: Call, request: IncrementCounter) -> IncrementCounterReply:
    """25.2."""
    tpm = call.tpm
    stclear = tpm.volatile
    if stclear.active_counter not in (_NONE_YET, request.count_id + 1):
        raise Refuse(Rc.BAD_COUNTER)
    counter = _counter(call, request.count_id)
    call.authorise(counter.auth, _entity(counter))
    count = counter.value.counter + 1
    if count > _MAX_VALUE:
        raise Refuse(Rc.RESOURCES)
    value = replace(counter.value, counter=count)
    permanent = tpm.permanent.with_counter(replace(counter, value=value))
    tpm.permanent = replace(permanent, next_counter=max(permanent.next_counter, count + 1))
    if stclear.active_counter == _NONE_YET:
        tpm.stclear = replace(stclear, active_counter=counter.handle + 1)
    return IncrementCounterReply(value)


@serves(ReadCounter)
def read_counter(call: Call, request: ReadCounter) -> ReadCounterReply:
    """25.3."""
    return ReadCounterReply(_counter(call, request.count_id).value)


def _release(call: Call, counter: Counter) -> NoReply:
    tpm = call.tpm
    tpm.permanent = tpm.permanent.without_counter(counter.handle)
    if active_counter(tpm.volatile) == counter.handle:
        tpm.stclear = replace(tpm.volatile, active_counter=_RELEASED)
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
