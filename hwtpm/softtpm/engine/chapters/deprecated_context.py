"""Context management of version 1.1 and TPM_Reset (Part 3 sections 27.2 and 27.5).

The blobs have the form of TPM_SaveContext's. What makes them good for one power-on session only is
their key: it never leaves volatile memory, and TPM_Reset forgets it.
"""

from __future__ import annotations

from dataclasses import replace

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.contexts import (
    SavedSession,
    counted,
    key_of,
    open_context,
    open_session,
    save_session,
    seal_context,
    uncounted,
)
from hwtpm.softtpm.engine.rsa import load_stored_key, stored_key
from hwtpm.softtpm.engine.state import AES_KEY_SIZE, ZERO_DIGEST, StoredKey
from hwtpm.tpm12.commands.deprecated import (
    LoadAuthContext,
    LoadAuthContextReply,
    LoadKeyContext,
    LoadKeyContextReply,
    Reset,
    SaveAuthContext,
    SaveAuthContextReply,
    SaveKeyContext,
    SaveKeyContextReply,
)
from hwtpm.tpm12.const import ResourceType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types.context import ContextBlob, ContextSensitive
from hwtpm.wire import Fault, Struct, WireError

__all__: list[str] = []

_NO_LABEL = bytes(16)


def _seal(call: Call, kind: ResourceType, handle: int, resource: Struct, count: int = 0) -> bytes:
    tpm = call.tpm
    if not tpm.volatile.old_context_key:
        tpm.stclear = replace(tpm.volatile, old_context_key=tpm.random(AES_KEY_SIZE))
    blob = ContextBlob(kind, handle, _NO_LABEL, count, ZERO_DIGEST, b"", b"")
    sensitive = ContextSensitive(ZERO_DIGEST, resource.encode())
    return seal_context(call, tpm.volatile.old_context_key, blob, sensitive).encode()


def _open(call: Call, kind: ResourceType, encoded: bytes) -> tuple[ContextBlob, bytes]:
    """What `_seal` was given. The codes are those of libtpms; section 27.2 names none."""
    try:
        blob = ContextBlob.decode(encoded)
    except WireError as error:
        head = error.fault is Fault.HEAD
        raise Refuse(Rc.INVALID_STRUCTURE if head else Rc.BAD_PARAM_SIZE) from None
    if blob.resource_type != kind:
        raise Refuse(Rc.BAD_PARAMETER)
    key = call.tpm.volatile.old_context_key
    if not key:
        raise Refuse(Rc.BADCONTEXT)
    return blob, open_context(call, key, blob).internal_data


@serves(SaveKeyContext)
def save_key_context(call: Call, request: SaveKeyContext) -> SaveKeyContextReply:
    """27.2.1. A key that the owner has stay is not for others to move out (22.1 action 2.b)."""
    tpm = call.tpm
    key = tpm.keys.get(request.key_handle)
    if key is None:
        raise Refuse(Rc.INVALID_KEYHANDLE)
    if tpm.permanent.keeps_key(key.handle):
        raise Refuse(Rc.OWNER_CONTROL)
    blob = _seal(call, ResourceType.KEY, key.handle, stored_key(key))
    call.after(lambda: tpm.keys.drop(request.key_handle))
    return SaveKeyContextReply(blob)


@serves(LoadKeyContext)
def load_key_context(call: Call, request: LoadKeyContext) -> LoadKeyContextReply:
    """27.2.2."""
    tpm = call.tpm
    _, resource = _open(call, ResourceType.KEY, request.key_context_blob)
    stored = StoredKey.decode(resource)
    handle = tpm.keys.handle_for(stored.handle, keep=False)
    tpm.keys.put(load_stored_key(replace(stored, handle=handle)))
    return LoadKeyContextReply(handle)


@serves(SaveAuthContext)
def save_auth_context(call: Call, request: SaveAuthContext) -> SaveAuthContextReply:
    """27.2.3. As a session must not come back twice, these too are counted."""
    tpm = call.tpm
    session = tpm.sessions.get(request.auth_handle)
    if session is None:
        raise Refuse(Rc.INVALID_AUTHHANDLE)
    saved, _ = save_session(tpm.permanent, session)
    state = counted(tpm.volatile)
    count = state.context_count
    tpm.stclear = replace(state, old_context_list=(*state.old_context_list, count))
    blob = _seal(call, ResourceType.AUTH, session.handle, saved, count)
    call.after(lambda: tpm.sessions.drop(request.auth_handle))
    return SaveAuthContextReply(blob)


@serves(LoadAuthContext)
def load_auth_context(call: Call, request: LoadAuthContext) -> LoadAuthContextReply:
    """27.2.4. The key that an OSAP session is bound to may have any handle."""
    tpm = call.tpm
    blob, resource = _open(call, ResourceType.AUTH, request.auth_context_blob)
    tpm.stclear = uncounted(tpm.volatile, blob.context_count, Rc.BADCONTEXT)
    session = open_session(tpm, SavedSession.decode(resource), keep_handle=False)
    wanted = key_of(session)
    if wanted and all(key.entity[1] != wanted for key in tpm.keys):
        raise Refuse(Rc.RESOURCEMISSING)
    call.after(lambda: tpm.sessions.put(session))
    return LoadAuthContextReply(session.handle)


@serves(Reset)
def reset(call: Call, request: Reset) -> NoReply:
    """27.5."""
    tpm = call.tpm
    if tpm.volatile.old_context_key:
        tpm.stclear = tpm.volatile.without_old_contexts()
    call.after(tpm.sessions.clear)
    return NoReply()
