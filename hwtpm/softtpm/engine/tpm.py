"""Our TPM 1.2: power, dispatch, authorisation, durability.

The order of checks for one command: frame, ordinal, parameters, state (startup, self test,
disabled, deactivated, owner, lockout), tag, authorisation tails, handles, sessions, authorisation,
then the command's own actions (Part 1 sections 8 and 13; libtpms checks in the same order).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from hwtpm.clock import Clock, RealClock
from hwtpm.softtpm.base import StateName, Storage
from hwtpm.softtpm.engine import chapters
from hwtpm.softtpm.engine.call import ACTIONS, Authorises, Call, Refuse, Serves, Tail
from hwtpm.softtpm.engine.keys import KeyTable, LoadedKey
from hwtpm.softtpm.engine.lockout import Lockout
from hwtpm.softtpm.engine.pcrs import PCR_ATTRIBUTES
from hwtpm.softtpm.engine.rsa import load_root_key
from hwtpm.softtpm.engine.sessions import SessionTable
from hwtpm.softtpm.engine.state import (
    ZERO_DIGEST,
    Permanent,
    Stclear,
    decode_permanent,
    encode_permanent,
    fresh_permanent,
)
from hwtpm.tpm12.const import MAX_FRAME, KeyHandleValue, Tag
from hwtpm.tpm12.frame import AUTH_REQUEST_SIZE, HEADER_SIZE, error_response
from hwtpm.tpm12.rc import NON_FATAL, Rc
from hwtpm.wire import Fault, WireError

__all__ = ["Engine"]

_HEADER: Final = struct.Struct(">HII")
_TAIL: Final = struct.Struct(">I20sB20s")
_RC_OF_FAULT: Final = {
    Fault.SHORT: Rc.BAD_PARAM_SIZE,
    Fault.TRAILING: Rc.BAD_PARAM_SIZE,
    Fault.LIMIT: Rc.SIZE,
    Fault.VALUE: Rc.BAD_PARAMETER,
    Fault.HEAD: Rc.BAD_PARAMETER,
}

_IN_FAILURE_MODE: Final = ("TPM_GetTestResult", "TPM_GetCapability")

chapters.load()


class Engine:
    """A TPM 1.2 (implements `hwtpm.softtpm.base.SoftwareTpm`).

    Args:
        storage: keeps the permanent and the saved state.
        random: makes n random bytes; a deterministic one makes a run repeatable.
        clock: tick counter and dictionary-attack delays.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        random: Callable[[int], bytes] = os.urandom,
        clock: Clock | None = None,
    ) -> None:
        self.storage = storage
        self.random = random
        self.clock = clock or RealClock()
        self.sessions = SessionTable(random)
        self.keys = KeyTable(random)
        self.lockout = Lockout(self.clock)
        self.permanent = fresh_permanent(ZERO_DIGEST)
        self.stclear: Stclear | None = None  # None until TPM_Startup
        self.powered = False
        self.failed_self_test = False
        self.sha1_thread: hashlib._Hash | None = None
        self.tick_nonce = ZERO_DIGEST
        self.ticks_start_s = 0.0
        self._roots: dict[int, tuple[object, LoadedKey]] = {}
        self._auth_failed = False

    # --- power -------------------------------------------------------------------------------

    @property
    def description(self) -> str:
        return "hwtpm engine 0.1"

    def power_on(self) -> None:
        blob = self.storage.load(StateName.PERMANENT)
        self.power_off()
        if blob is None:
            self.permanent = fresh_permanent(self.random(20))
            self.storage.store(StateName.PERMANENT, encode_permanent(self.permanent))
        else:
            self.permanent = decode_permanent(blob)
        self.lockout.resume(self.permanent.auth_failures)
        self.tick_nonce = self.random(20)
        self.ticks_start_s = self.clock.now()
        self.powered = True

    def power_off(self) -> None:
        """Lose all volatile state; every command is refused until the next power-on."""
        self.powered = False
        self.failed_self_test = False
        self.forget_volatile()
        self.stclear = None

    def forget_volatile(self) -> None:
        """Drop sessions, loaded keys and a SHA-1 calculation."""
        self.sessions.clear()
        self.keys.clear()
        self.sha1_thread = None

    def close(self) -> None:
        self.power_off()

    # --- what the chapters share ---------------------------------------------------------------

    @property
    def volatile(self) -> Stclear:
        """The state since TPM_Startup; the dispatcher lets no action run before it."""
        if self.stclear is None:
            raise Refuse(Rc.INVALID_POSTINIT)
        return self.stclear

    @property
    def physical_presence(self) -> bool:
        """Physical presence as asserted by command; this TPM has no hardware pin for it."""
        return self.stclear is not None and self.stclear.flags.physical_presence

    @property
    def owned(self) -> bool:
        """True if there is an owner (and so an SRK)."""
        return self.permanent.srk is not None

    def key(self, handle: int) -> LoadedKey:
        """The key with that handle, the SRK included.

        Raises:
            Refuse: INVALID_KEYHANDLE; NOSRK.
        """
        if handle == KeyHandleValue.SRK:
            return self.root_key(KeyHandleValue.SRK)
        loaded = self.keys.get(handle)
        if loaded is None:
            raise Refuse(Rc.INVALID_KEYHANDLE)
        return loaded

    def root_key(self, handle: int) -> LoadedKey:
        """The EK or SRK, ready for use.

        Raises:
            Refuse: NO_ENDORSEMENT or NOSRK if it does not exist.
        """
        is_srk = handle == KeyHandleValue.SRK
        root = self.permanent.srk if is_srk else self.permanent.ek
        if root is None:
            raise Refuse(Rc.NOSRK if is_srk else Rc.NO_ENDORSEMENT)
        cached = self._roots.get(handle)
        if cached is None or cached[0] is not root:
            cached = (root, load_root_key(handle, root))
            self._roots[handle] = cached
        return cached[1]

    def note_auth_failure(self) -> None:
        """Count a wrong authorisation towards the dictionary-attack lockout."""
        self._auth_failed = True

    def drop_key(self, loaded: LoadedKey) -> None:
        """Forget a loaded key and the OSAP sessions bound to it."""
        self.keys.drop(loaded.handle)
        self.sessions.close_bound_to(loaded.entity)

    # --- commands ------------------------------------------------------------------------------

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        permanent, stclear = self.permanent, self.stclear
        tails: list[Tail] = []
        self._auth_failed = False
        try:
            answer = self._run(command, locality, tails)
            self._commit(permanent)
        except Refuse as verdict:
            self.permanent, self.stclear = permanent, stclear
            if not verdict.rc & NON_FATAL:
                for tail in tails:
                    self.sessions.close(tail.handle)
            if self._auth_failed:
                self._count_auth_failure()
            return error_response(verdict.rc)
        except BaseException:
            self.permanent, self.stclear = permanent, stclear
            raise
        return answer

    def _commit(self, before: Permanent) -> None:
        if self.permanent is not before:
            self.storage.store(StateName.PERMANENT, encode_permanent(self.permanent))

    def _count_auth_failure(self) -> None:
        before = self.permanent
        self.permanent = replace(before, auth_failures=self.lockout.failed(before.auth_failures))
        self._commit(before)

    def _run(self, command: bytes, locality: int, tails: list[Tail]) -> bytes:
        size = len(command)
        if size < HEADER_SIZE:
            raise Refuse(Rc.BAD_PARAM_SIZE)
        tag, declared, ordinal = _HEADER.unpack_from(command)
        count = tag - Tag.RQU_COMMAND
        if not 0 <= count <= 2:
            raise Refuse(Rc.BADTAG)
        if declared != size or size > MAX_FRAME:
            raise Refuse(Rc.BAD_PARAM_SIZE)
        served = ACTIONS.get(ordinal)
        if served is None:
            raise Refuse(Rc.BAD_ORDINAL)
        row = served.row
        request_class = row.request
        assert request_class is not None
        layout = request_class.layout
        try:
            request, end = layout.read(command, HEADER_SIZE, size)
        except WireError as error:
            raise Refuse(_RC_OF_FAULT[error.fault]) from None
        self._check_state(served)
        if count not in row.auths:
            raise Refuse(Rc.BADTAG)
        if size - end != count * AUTH_REQUEST_SIZE:
            raise Refuse(Rc.BAD_PARAM_SIZE)
        call = Call(self, row, command[HEADER_SIZE + layout.head_size : end], locality, tails)
        if count:
            self._open_tails(call, command, end, count)
        if layout.handles or count:
            self._authorise(served, call, command)
        reply = served.action(call, request)
        return self._answer(call, reply)

    def _check_state(self, served: Serves) -> None:
        if self.stclear is None:
            if not self.powered or not served.row.name == "TPM_Startup":
                raise Refuse(Rc.INVALID_POSTINIT)
            return
        if self.failed_self_test and served.row.name not in (
            "TPM_GetTestResult",
            "TPM_GetCapability",
        ):
            raise Refuse(Rc.FAILEDSELFTEST)
        if self.permanent.flags.disable and not served.when_disabled:
            raise Refuse(Rc.DISABLED)
        if self.stclear.flags.deactivated and not served.when_deactivated:
            raise Refuse(Rc.DEACTIVATED)
        if served.needs_owner and self.permanent.srk is None:
            raise Refuse(Rc.NOSRK)
        if served.authorises and self.lockout.active(self.permanent.auth_failures):
            raise Refuse(Rc.DEFEND_LOCK_RUNNING)

    def _open_tails(self, call: Call, command: bytes, at: int, count: int) -> None:
        for number in range(count):
            handle, nonce, flag, mac = _TAIL.unpack_from(command, at + number * AUTH_REQUEST_SIZE)
            if flag > 1:
                raise Refuse(Rc.BAD_PARAMETER)
            call.tails.append(Tail(handle, nonce, flag, mac))

    def _authorise(self, served: Serves, call: Call, command: bytes) -> None:
        wanted = served.authorises
        at = HEADER_SIZE
        for entity in wanted:
            if entity is Authorises.KEY:
                call.keys.append(self.key(int.from_bytes(command[at : at + 4], "big")))
                at += 4
        for tail in call.tails:
            session = self.sessions.get(tail.handle)
            if session is None:
                raise Refuse(Rc.INVALID_AUTHHANDLE)
            call.sessions.append(session)
        if len(call.sessions) == 2 and call.sessions[0] is call.sessions[1]:
            raise Refuse(Rc.AUTHFAIL)
        missing = len(wanted) - len(call.sessions)
        keys = iter(call.keys)
        for entity in wanted:
            if entity is Authorises.OWNER:
                call.authorise_owner()
            elif entity is Authorises.SRK:
                srk = self.root_key(KeyHandleValue.SRK)
                missing = self._authorise_key(call, srk, missing)
            elif entity is Authorises.KEY:
                missing = self._authorise_key(call, next(keys), missing)

    def _authorise_key(self, call: Call, key: LoadedKey, missing: int) -> int:
        """Prove a key's AuthData, unless the key needs none and its session was left out."""
        if missing > 0:
            if key.needs_auth:
                raise Refuse(Rc.AUTHFAIL)
            return missing - 1
        call.authorise(key.usage_auth, key.entity)
        return missing

    def _answer(self, call: Call, reply: object) -> bytes:
        out = bytearray(HEADER_SIZE)
        layout = reply.layout  # type: ignore[attr-defined]
        layout.write(reply, out)
        tails = call.tails
        if not tails:
            _HEADER.pack_into(out, 0, Tag.RSP_COMMAND, len(out), 0)
            return bytes(out)
        digest = hashlib.sha1(
            bytes(4) + call.row.ordinal.to_bytes(4, "big") + out[HEADER_SIZE + layout.head_size :]
        ).digest()
        for session, tail in zip(call.sessions, tails, strict=True):
            nonce = self.random(20)
            message = b"%b%b%b%c" % (digest, nonce, tail.nonce_odd, tail.continue_session)
            out += nonce
            out.append(tail.continue_session)
            out += hmac.digest(tail.key, message, "sha1")
            if tail.continue_session:
                session.nonce_even = nonce
            else:
                self.sessions.close(session.handle)
        _HEADER.pack_into(out, 0, Tag.RSP_COMMAND + len(tails), len(out), 0)
        return bytes(out)

    # --- the platform's side: establishment and the locality 4 hash --------------------------

    @property
    def established(self) -> bool:
        return self.permanent.flags.tpm_established

    def set_established(self, established: bool) -> None:
        """Durably set the established flag."""
        before = self.permanent
        if before.flags.tpm_established != established:
            flags = replace(before.flags, tpm_established=established)
            self.permanent = replace(before, flags=flags)
            self._commit(before)

    def reset_established(self, locality: int) -> int:
        if locality not in (3, 4):
            return Rc.BAD_LOCALITY
        self.set_established(False)
        return Rc.SUCCESS

    def hash_start(self) -> None:
        if self.stclear is None:
            return
        pcrs = tuple(
            ZERO_DIGEST if PCR_ATTRIBUTES[i].reset & 0x10 and i not in (16, 23) else value
            for i, value in enumerate(self.stclear.pcrs)
        )
        self.stclear = replace(self.stclear, pcrs=pcrs)
        self.set_established(True)
        self.sha1_thread = hashlib.sha1()

    def hash_data(self, data: bytes) -> None:
        if self.sha1_thread is not None:
            self.sha1_thread.update(data)

    def hash_end(self) -> None:
        if self.sha1_thread is None or self.stclear is None:
            return
        digest = self.sha1_thread.digest()
        self.sha1_thread = None
        value = hashlib.sha1(self.stclear.pcrs[17] + digest).digest()
        self.stclear = self.stclear.with_pcr(17, value)
