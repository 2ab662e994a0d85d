"""What comes between a decoded command and its action: whose AuthData it takes, by its table row,
and the sessions that prove it (Part 1 section 13; Part 3 section 18)."""

from __future__ import annotations

import struct
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, Tail
from hwtpm.softtpm.engine.keys import LoadedKey
from hwtpm.softtpm.engine.sessions import Session
from hwtpm.tpm12.const import KeyHandleValue
from hwtpm.tpm12.frame import AUTH_REQUEST_SIZE, HEADER_SIZE
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Authorises

__all__ = ["authorise", "read_tails"]

_TAIL: Final = struct.Struct(">I20sB20s")
_PROVEN_KEYS: Final = (Authorises.KEY, Authorises.KEY_TO_READ)
_KEYS: Final = (*_PROVEN_KEYS, Authorises.KEY_LATER)


def read_tails(call: Call, command: bytes, at: int, count: int) -> None:
    """Decode the `count` authorisation tails that begin at that offset.

    Raises:
        Refuse: BAD_PARAMETER for a flag that is neither TRUE nor FALSE.
    """
    for number in range(count):
        handle, nonce, flag, mac = _TAIL.unpack_from(command, at + number * AUTH_REQUEST_SIZE)
        if flag > 1:
            raise Refuse(Rc.BAD_PARAMETER)
        call.tails.append(Tail(handle, nonce, flag, mac))


def authorise(call: Call, command: bytes) -> None:
    """Find the keys and sessions that the command names, and prove what its row says.

    Raises:
        Refuse: INVALID_KEYHANDLE; INVALID_AUTHHANDLE; what `Call.authorise` raises.
    """
    wanted = call.row.authorises
    at = HEADER_SIZE
    for entity in wanted:
        if entity in _KEYS:
            call.keys.append(call.tpm.key(int.from_bytes(command[at : at + 4], "big")))
            at += 4
    _find_sessions(call, with_transport=wanted[-1:] == (Authorises.TRANSPORT,))
    missing = len(wanted) - len(call.sessions)
    keys = iter(call.keys)
    for entity in wanted:
        if entity is Authorises.OWNER:
            call.authorise_owner()
        elif entity is Authorises.SRK:
            srk = call.tpm.root_key(KeyHandleValue.SRK)
            missing = _authorise_key(call, srk, missing)
        elif entity in _PROVEN_KEYS:
            reads = entity is Authorises.KEY_TO_READ
            missing = _authorise_key(call, next(keys), missing, reads=reads)


def _find_sessions(call: Call, *, with_transport: bool) -> None:
    """The sessions of the tails; the last one may be a transport session."""
    tpm = call.tpm
    for number, tail in enumerate(call.tails, 1):
        if with_transport and number == len(call.tails):
            tail.of_transport = True
            session: Session | None = tpm.transports.get(tail.handle)
        else:
            session = tpm.sessions.get(tail.handle)
        if session is None:
            raise Refuse(Rc.INVALID_AUTHHANDLE)
        call.sessions.append(session)
    if len(call.sessions) == 2 and call.sessions[0] is call.sessions[1]:
        raise Refuse(Rc.AUTHFAIL)


def _authorise_key(call: Call, key: LoadedKey, missing: int, *, reads: bool = False) -> int:
    """Prove a key's AuthData, unless the key needs none and its session was left out."""
    if missing > 0:
        if key.needs_auth_to_read if reads else key.needs_auth:
            raise Refuse(Rc.AUTHFAIL)
        return missing - 1
    call.authorise_key(key)
    return missing
