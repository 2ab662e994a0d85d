"""Eviction (Part 3 section 22) and TPM_Terminate_Handle (section 27.1.2)."""

from __future__ import annotations

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.tpm12.commands.deprecated import TerminateHandle
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.const import ResourceType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply

__all__: list[str] = []


def _close_session(call: Call, handle: int) -> NoReply:
    if not call.tpm.sessions.drop(handle):
        raise Refuse(Rc.INVALID_AUTHHANDLE)
    return NoReply()


@serves(TerminateHandle)
def terminate_handle(call: Call, request: TerminateHandle) -> NoReply:
    """27.1.2."""
    return _close_session(call, request.handle)


@serves(FlushSpecific)
def flush_specific(call: Call, request: FlushSpecific) -> NoReply:
    """22.1."""
    if request.resource_type == ResourceType.AUTH:
        return _close_session(call, request.handle)
    if request.resource_type == ResourceType.KEY:
        key = call.tpm.keys.get(request.handle)
        if key is None:
            raise Refuse(Rc.BAD_PARAMETER)
        call.tpm.drop_key(key)
        return NoReply()
    raise Refuse(Rc.INVALID_RESOURCE)
