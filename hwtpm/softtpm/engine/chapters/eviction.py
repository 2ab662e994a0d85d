"""Eviction (Part 3 section 22) and what it replaced (sections 27.1.1 and 27.1.2)."""

from __future__ import annotations

from typing import Any

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.contexts import uncounted
from hwtpm.softtpm.engine.handles import HandleTable
from hwtpm.tpm12.commands.deprecated import EvictKey, TerminateHandle
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.const import ResourceType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply

__all__: list[str] = []


def _drop_key(call: Call, handle: int, missing: Rc) -> None:
    tpm = call.tpm
    key = tpm.keys.get(handle)
    if key is None:
        raise Refuse(missing)
    if tpm.permanent.keeps_key(handle):
        raise Refuse(Rc.KEY_OWNER_CONTROL)
    call.after(lambda: tpm.drop_key(key))


def _drop(call: Call, table: HandleTable[Any], handle: int, missing: Rc) -> None:
    if handle not in table.handles:
        raise Refuse(missing)
    call.after(lambda: table.drop(handle))


@serves(EvictKey)
def evict_key(call: Call, request: EvictKey) -> NoReply:
    """27.1.1."""
    _drop_key(call, request.evict_handle, Rc.INVALID_KEYHANDLE)
    return NoReply()


@serves(TerminateHandle)
def terminate_handle(call: Call, request: TerminateHandle) -> NoReply:
    """27.1.2."""
    _drop(call, call.tpm.sessions, request.handle, Rc.INVALID_AUTHHANDLE)
    return NoReply()


@serves(FlushSpecific)
def flush_specific(call: Call, request: FlushSpecific) -> NoReply:
    """22.1. For a session that is not there client software knows INVALID_AUTHHANDLE from all
    chips, where action 7 says BAD_PARAMETER."""
    tpm, handle = call.tpm, request.handle
    match request.resource_type:
        case ResourceType.CONTEXT:
            tpm.stclear = uncounted(tpm.volatile, handle, Rc.BAD_PARAMETER)
        case ResourceType.KEY:
            _drop_key(call, handle, Rc.BAD_PARAMETER)
        case ResourceType.AUTH:
            _drop(call, tpm.sessions, handle, Rc.INVALID_AUTHHANDLE)
        case ResourceType.TRANS:
            # At once: TPM_ExecuteTransport looks whether its own session has been flushed in it.
            if not tpm.transports.drop(handle):
                raise Refuse(Rc.BAD_PARAMETER)
        case ResourceType.DAA_TPM:
            _drop(call, tpm.daa, handle, Rc.BAD_PARAMETER)
        case _:
            raise Refuse(Rc.INVALID_RESOURCE)
    return NoReply()
