"""Session management: owner-evict keys and saved contexts (Part 3 section 21)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

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
from hwtpm.softtpm.engine.daa_sessions import DaaSession
from hwtpm.softtpm.engine.rsa import load_stored_key, stored_key
from hwtpm.softtpm.engine.sessions import Session
from hwtpm.softtpm.engine.state import MAX_OWNER_EVICT, ZERO_DIGEST, StoredKey
from hwtpm.softtpm.engine.volatile import StoredTransport
from hwtpm.tpm12.commands.context import (
    KeyControlOwner,
    LoadContext,
    LoadContextReply,
    SaveContext,
    SaveContextReply,
)
from hwtpm.tpm12.const import DIGEST_SIZE, KEY_CONTROL_OWNER_EVICT, KeyFlag, ResourceType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types.context import ContextBlob, ContextSensitive
from hwtpm.wire import Struct

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.tpm import Engine

__all__: list[str] = []


# --- 21.1 TPM_KeyControlOwner ------------------------------------------------------------------


@serves(KeyControlOwner)
def key_control_owner(call: Call, request: KeyControlOwner) -> NoReply:
    """21.1. The EK and the SRK are no loaded keys."""
    tpm, handle = call.tpm, request.key_handle
    permanent = tpm.permanent
    key = tpm.keys.get(handle)
    if key is None:
        raise Refuse(Rc.INVALID_KEYHANDLE)
    if request.pub_key != key.public:
        raise Refuse(Rc.BAD_PARAMETER)
    if request.bit_name != KEY_CONTROL_OWNER_EVICT:
        raise Refuse(Rc.BAD_MODE)
    if request.bit_value == permanent.keeps_key(handle):
        return NoReply()
    if not request.bit_value:
        tpm.permanent = permanent.without_key(handle)
        return NoReply()
    if len(permanent.owner_evict) >= MAX_OWNER_EVICT:
        raise Refuse(Rc.NOSPACE)
    if key.parent_condition or key.key.key_flags & KeyFlag.VOLATILE:
        raise Refuse(Rc.BAD_PARAMETER)
    tpm.permanent = replace(permanent, owner_evict=(*permanent.owner_evict, stored_key(key)))
    return NoReply()


# --- 21.2 TPM_SaveContext ----------------------------------------------------------------------


@serves(SaveContext)
def save_context(call: Call, request: SaveContext) -> SaveContextReply:
    """21.2."""
    blob = ContextBlob(
        request.resource_type, request.handle, request.label, 0, ZERO_DIGEST, b"", b""
    )
    if request.resource_type == ResourceType.KEY:
        sealed = _save_key(call, blob)
    else:
        sealed = _save_session(call, blob)
    return SaveContextReply(sealed)


def _save_key(call: Call, blob: ContextBlob) -> ContextBlob:
    """A copy: the key stays loaded."""
    tpm = call.tpm
    key = tpm.keys.get(blob.handle)
    if key is None:
        raise Refuse(Rc.INVALID_RESOURCE)
    if tpm.volatile.context_nonce_key == ZERO_DIGEST:
        tpm.stclear = replace(tpm.volatile, context_nonce_key=tpm.random(DIGEST_SIZE))
    if tpm.permanent.keeps_key(key.handle):
        raise Refuse(Rc.OWNER_CONTROL)
    sensitive = ContextSensitive(tpm.volatile.context_nonce_key, stored_key(key).encode())
    return seal_context(call, tpm.permanent.context_key, blob, sensitive)


def _save_session(call: Call, blob: ContextBlob) -> ContextBlob:
    """The only copy: the session leaves its slot."""
    tpm = call.tpm
    kind, handle = blob.resource_type, blob.handle
    resource, entity, drop = _session_at_rest(call, kind, handle)
    if tpm.volatile.context_nonce_session == ZERO_DIGEST:
        tpm.stclear = replace(tpm.volatile, context_nonce_session=tpm.random(DIGEST_SIZE))
    tpm.stclear = counted(tpm.volatile)
    blob = replace(blob, context_count=tpm.volatile.context_count, additional_data=entity)
    sensitive = ContextSensitive(tpm.volatile.context_nonce_session, resource.encode())
    call.after(lambda: drop(handle))
    return seal_context(call, tpm.permanent.context_key, blob, sensitive)


def _session_at_rest(
    call: Call, kind: int, handle: int
) -> tuple[Struct, bytes, Callable[[int], bool]]:
    """The session as it is kept outside, the digest of the key that it is bound to or nothing, and
    what empties its slot.

    Raises:
        Refuse: INVALID_RESOURCE, also for the transport session that wraps the command (24.2
            description 7.a leaves it open): an exclusive one must not come back after commands
            that are not in its log (21.2, informative), and none with a nonce that was used.
    """
    tpm = call.tpm
    if kind == ResourceType.AUTH and (session := tpm.sessions.get(handle)) is not None:
        return *save_session(tpm.permanent, session), tpm.sessions.drop
    if kind == ResourceType.TRANS and (transport := tpm.transports.get(handle)) is not None:
        if transport is call.within:
            raise Refuse(Rc.INVALID_RESOURCE)
        return StoredTransport.of(transport), b"", tpm.transports.drop
    if kind == ResourceType.DAA_TPM and (daa := tpm.daa.get(handle)) is not None:
        return daa, b"", tpm.daa.drop
    raise Refuse(Rc.INVALID_RESOURCE)


# --- 21.3 TPM_LoadContext ----------------------------------------------------------------------


@serves(LoadContext)
def load_context(call: Call, request: LoadContext) -> LoadContextReply:
    """21.3. The integrity of the blob (action 6) is looked at before its contents (action 5)."""
    blob = request.context_blob
    if blob is None:
        raise Refuse(Rc.BAD_PARAM_SIZE)
    sensitive = open_context(call, call.tpm.permanent.context_key, blob)
    if blob.resource_type == ResourceType.KEY:
        handle = _load_key(call, sensitive, keep_handle=request.keep_handle)
    else:
        handle = _load_session(call, request, blob, sensitive)
    return LoadContextReply(handle)


def _load_key(call: Call, sensitive: ContextSensitive, *, keep_handle: bool) -> int:
    tpm = call.tpm
    stored = StoredKey.decode(sensitive.internal_data)
    bound = stored.parent_condition or stored.key.key_flags & KeyFlag.VOLATILE
    nonce = tpm.volatile.context_nonce_key
    if bound and not hmac.compare_digest(sensitive.context_nonce, nonce):
        raise Refuse(Rc.BADCONTEXT)
    handle = tpm.keys.handle_for(stored.handle, keep=keep_handle)
    tpm.keys.put(load_stored_key(replace(stored, handle=handle)))
    return handle


def _load_session(
    call: Call, request: LoadContext, blob: ContextBlob, sensitive: ContextSensitive
) -> int:
    # The session fills its slot when the list that it leaves is durable: never is it in both.
    tpm, keep, data = call.tpm, request.keep_handle, sensitive.internal_data
    if not hmac.compare_digest(sensitive.context_nonce, tpm.volatile.context_nonce_session):
        raise Refuse(Rc.BADCONTEXT)
    tpm.stclear = uncounted(tpm.volatile, blob.context_count, Rc.BADCONTEXT)
    if blob.resource_type == ResourceType.TRANS:
        stored = StoredTransport.decode(data)
        transport = stored.open(tpm.transports.handle_for(stored.handle, keep=keep))
        call.after(lambda: tpm.transports.put(transport))
        return transport.handle
    if blob.resource_type == ResourceType.DAA_TPM:
        daa = DaaSession.decode(data)
        daa = replace(daa, handle=tpm.daa.handle_for(daa.handle, keep=keep))
        call.after(lambda: tpm.daa.put(daa))
        return daa.handle
    session = open_session(tpm, SavedSession.decode(data), keep_handle=keep)
    _check_key(tpm, session, request.entity_handle)
    call.after(lambda: tpm.sessions.put(session))
    return session.handle


def _check_key(tpm: Engine, session: Session, entity_handle: int) -> None:
    """Action 5.a.ii: entityHandle is where to look for the key that a session is bound to."""
    wanted = key_of(session)
    if not wanted:
        return
    try:
        key = tpm.key(entity_handle)
    except Refuse:
        raise Refuse(Rc.BAD_HANDLE) from None
    if key.entity[1] != wanted:
        raise Refuse(Rc.RESOURCEMISSING)
