"""Saved contexts: resources that the TPM gives out and takes back (Part 2 section 18).

The cipher is AES-128 in counter mode; integrityDigest, which covers the plain text, is what makes
a blob genuine. Whatever is wrong with a blob shows there, before anything in it is looked at.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

from hwtpm.softtpm.engine.call import Call, Refuse
from hwtpm.softtpm.engine.sessions import Session
from hwtpm.softtpm.engine.state import MAX_CONTEXTS, ZERO_DIGEST, Permanent, Stclear
from hwtpm.softtpm.engine.volatile import StoredSession
from hwtpm.tpm12.aes import aes128_ctr
from hwtpm.tpm12.const import DIGEST_SIZE, EntityType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import AuthValue
from hwtpm.tpm12.types.context import ContextBlob, ContextSensitive
from hwtpm.wire import Blob, Fixed, Struct, structure

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.tpm import Engine

__all__ = [
    "Additional",
    "SavedSession",
    "counted",
    "key_of",
    "open_context",
    "open_session",
    "save_session",
    "seal_context",
    "uncounted",
]

_COUNTER_SIZE: Final = 16
_LAST_COUNT: Final = 2**32 - 2
_REF: Final = "docs/engine-state.md"


@structure("additional data of a context", ref=_REF)
class Additional(Struct):
    """The first counter block of the cipher, and the digest of the key that a session is bound to
    (21.2 action 8.f.i)."""

    counter_block: Annotated[bytes, Fixed("BYTE[16]", _COUNTER_SIZE)]
    entity: Annotated[bytes, Blob(DIGEST_SIZE)]


@structure("session in a context", ref=_REF)
class SavedSession(Struct):
    """A session, with the AuthData that what it is bound to had; zeros for none and for a key,
    whose AuthData never changes while it is loaded."""

    session: StoredSession
    entity_auth: AuthValue


# --- the blob ----------------------------------------------------------------------------------


def seal_context(
    call: Call, key: bytes, blob: ContextBlob, sensitive: ContextSensitive
) -> ContextBlob:
    """Actions 8 to 12 of 21.2.

    Args:
        call: the command under way.
        key: AES-128 key.
        blob: all that is public of it; of its additional data only the digest of an entity.
        sensitive: what is encrypted.
    """
    additional = Additional(call.tpm.random(_COUNTER_SIZE), blob.additional_data)
    plain = replace(
        blob,
        integrity_digest=ZERO_DIGEST,
        additional_data=additional.encode(),
        sensitive_data=sensitive.encode(),
    )
    return replace(
        plain,
        integrity_digest=_integrity(call, plain),
        sensitive_data=aes128_ctr(key, additional.counter_block, plain.sensitive_data),
    )


def open_context(call: Call, key: bytes, blob: ContextBlob) -> ContextSensitive:
    """Actions 3, 4 and 6 of 21.3.

    Raises:
        Refuse: BADCONTEXT if `seal_context` did not make it with that key, for this owner.
    """
    counter_block = blob.additional_data[:_COUNTER_SIZE]
    if len(counter_block) < _COUNTER_SIZE:
        raise Refuse(Rc.BADCONTEXT)
    plain = aes128_ctr(key, counter_block, blob.sensitive_data)
    blank = replace(blob, integrity_digest=ZERO_DIGEST, sensitive_data=plain)
    if not hmac.compare_digest(_integrity(call, blank), blob.integrity_digest):
        raise Refuse(Rc.BADCONTEXT)
    return ContextSensitive.decode(plain)


def _integrity(call: Call, blank: ContextBlob) -> bytes:
    return hmac.digest(call.tpm.permanent.tpm_proof, blank.encode(), "sha1")


# --- which blobs are still good ------------------------------------------------------------------


def counted(state: Stclear) -> Stclear:
    """The state with one more saved session, whose count is then `context_count` (action 10 of
    21.2). This TPM keeps whole counts, so there is no distance that is too large for it
    (CONTEXT_GAP).

    Raises:
        Refuse: TOOMANYCONTEXTS; NOCONTEXTSPACE.
    """
    if state.context_count > _LAST_COUNT:
        raise Refuse(Rc.TOOMANYCONTEXTS)
    if len(state.context_list) >= MAX_CONTEXTS:
        raise Refuse(Rc.NOCONTEXTSPACE)
    count = state.context_count + 1
    return replace(state, context_count=count, context_list=(*state.context_list, count))


def uncounted(state: Stclear, count: int, missing: Rc) -> Stclear:
    """The state in which the session with that count does not come back (action 9 of 21.3).

    Raises:
        Refuse: `missing` if it does not come back as it is.
    """
    if count not in state.context_list:
        raise Refuse(missing)
    return replace(
        state,
        context_list=tuple(c for c in state.context_list if c != count),
        old_context_list=tuple(c for c in state.old_context_list if c != count),
    )


# --- sessions ------------------------------------------------------------------------------------


def save_session(permanent: Permanent, session: Session) -> tuple[SavedSession, bytes]:
    """The session at rest, and the digest of the key that it is bound to or nothing."""
    auth = _auth_of(permanent, session) or ZERO_DIGEST
    return SavedSession(StoredSession.of(session), auth), key_of(session)


def open_session(tpm: Engine, saved: SavedSession, *, keep_handle: bool) -> Session:
    """The session under the handle that it had or another one, not yet in its slot. A key that it
    is bound to is not looked for.

    Raises:
        Refuse: RESOURCEMISSING if what it is bound to is gone or has another AuthData now;
            RESOURCES; BAD_HANDLE.
    """
    handle = tpm.sessions.handle_for(saved.session.handle, keep=keep_handle)
    session = saved.session.open(handle)
    auth = _auth_of(tpm.permanent, session)
    if auth is None or not hmac.compare_digest(auth, saved.entity_auth):
        raise Refuse(Rc.RESOURCEMISSING)
    return session


def key_of(session: Session) -> bytes:
    """The digest of the key that a session is bound to; empty for any other session."""
    if session.entity is None or session.entity[0] != EntityType.KEYHANDLE:
        return b""
    return session.entity[1]


def _auth_of(permanent: Permanent, session: Session) -> bytes | None:
    """The AuthData of what a session is bound to; zeros for none and for keys. For a session of a
    delegation it is a digest of all delegations: a change of the tables ends it, also where it is
    saved (19.1 action 4, 19.4 action 11)."""
    if session.delegation is not None:
        tables = (*permanent.families, *permanent.delegations)
        return hashlib.sha1(b"".join(entry.encode() for entry in tables)).digest()
    if session.entity is None:
        return ZERO_DIGEST
    kind, value = session.entity
    number = int.from_bytes(value, "big")
    match kind:
        case EntityType.OWNER:
            return permanent.owner_auth
        case EntityType.SRK:
            return None if permanent.srk is None else permanent.srk.usage_auth
        case EntityType.NV:
            area = permanent.nv_area(number)
            return None if area is None else area.auth
        case EntityType.COUNTER:
            counter = permanent.counter(number)
            return None if counter is None else counter.auth
        case _:
            return ZERO_DIGEST
