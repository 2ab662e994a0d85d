"""Authorization sessions (Part 3 section 18)."""

from __future__ import annotations

from hwtpm.softtpm.engine.call import OWNER_ENTITY, Call, Refuse, serves
from hwtpm.softtpm.engine.sessions import Session
from hwtpm.tpm12.auth import osap_shared_secret
from hwtpm.tpm12.commands.sessions import OIAP, OSAP, OIAPReply, OSAPReply
from hwtpm.tpm12.const import ET_XOR, EntityType, KeyHandleValue
from hwtpm.tpm12.rc import Rc

__all__: list[str] = []


def _open(call: Call) -> Session:
    tpm = call.tpm
    session = Session(tpm.sessions.new_handle(), tpm.random(20))
    tpm.sessions.put(session)
    return session


@serves(OIAP)
def oiap(call: Call, request: OIAP) -> OIAPReply:
    """18.1."""
    session = _open(call)
    return OIAPReply(session.handle, session.nonce_even)


def _entity(call: Call, kind: int, value: int) -> tuple[tuple[int, bytes], bytes]:
    """What an OSAP session is bound to, and its AuthData."""
    tpm = call.tpm
    permanent = tpm.permanent
    if kind == EntityType.OWNER:
        return OWNER_ENTITY, permanent.owner_auth
    if kind in (EntityType.SRK, EntityType.KEYHANDLE):
        handle = int(KeyHandleValue.SRK) if kind == EntityType.SRK else value
        key = tpm.key(handle)
        return key.entity, key.usage_auth
    if kind == EntityType.COUNTER:
        for counter in permanent.counters:
            if counter.handle == value:
                return (kind, value.to_bytes(4, "big")), counter.auth
        raise Refuse(Rc.BAD_COUNTER)
    if kind == EntityType.NV:
        area = permanent.nv_area(value)
        if area is None:
            raise Refuse(Rc.BADINDEX)
        return (kind, value.to_bytes(4, "big")), area.auth
    raise Refuse(Rc.BAD_PARAMETER)


@serves(OSAP)
def osap(call: Call, request: OSAP) -> OSAPReply:
    """18.2."""
    adip, kind = divmod(request.entity_type, 256)
    if adip != ET_XOR:
        raise Refuse(Rc.INAPPROPRIATE_ENC)
    entity, auth = _entity(call, kind, request.entity_value)
    nonce_even_osap = call.tpm.random(20)
    session = _open(call)
    session.entity = entity
    session.adip = adip
    session.shared_secret = osap_shared_secret(auth, nonce_even_osap, request.nonce_odd_osap)
    return OSAPReply(session.handle, session.nonce_even, nonce_even_osap)
