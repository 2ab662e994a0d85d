"""Our TPM 1.2: power, dispatch, durability.

The order of checks for one command: frame, ordinal, parameters, state (startup, self test,
disabled, deactivated, owner), tag, authorisation tails, handles, sessions, authorisation,
then the command's own actions (Part 1 sections 8 and 13; libtpms checks in the same order).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

import hwtpm.tpm12.commands  # noqa: F401 - fills the table
from hwtpm.clock import Clock, RealClock
from hwtpm.errors import UsageError
from hwtpm.softtpm.base import StateName, Storage
from hwtpm.softtpm.engine import auditing, chapters, selftest
from hwtpm.softtpm.engine.authorising import authorise, read_tails
from hwtpm.softtpm.engine.call import ACTIONS, Call, Refuse, Serves, Tail
from hwtpm.softtpm.engine.daa_sessions import MAX_DAA_SESSIONS, DaaSession
from hwtpm.softtpm.engine.entropy import Entropy, SystemEntropy
from hwtpm.softtpm.engine.handles import HandleTable
from hwtpm.softtpm.engine.keys import MAX_KEYS, LoadedKey
from hwtpm.softtpm.engine.launch import Launch, with_established
from hwtpm.softtpm.engine.lockout import Lockout
from hwtpm.softtpm.engine.rsa import load_root_key, load_stored_key
from hwtpm.softtpm.engine.sessions import MAX_SESSIONS, Session
from hwtpm.softtpm.engine.state import (
    ZERO_DIGEST,
    Permanent,
    Stclear,
    decode_permanent,
    encode_permanent,
    fresh_permanent,
)
from hwtpm.softtpm.engine.transports import MAX_TRANSPORTS, TransportSession
from hwtpm.softtpm.engine.volatile import encode_saved, export_volatile, import_volatile
from hwtpm.tpm12.auth import request_digest, response_digest, session_hmac
from hwtpm.tpm12.const import MAX_FRAME, KeyHandleValue, ResourceType, Tag
from hwtpm.tpm12.frame import (
    AUTH_REQUEST_SIZE,
    AUTH_RESPONSE_SIZE,
    HEADER_SIZE,
    error_response,
)
from hwtpm.tpm12.rc import NON_FATAL, Rc
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types import CurrentTicks, PcrSelection
from hwtpm.wire import Fault, Struct, WireError

__all__ = ["Engine"]

_HEADER: Final = struct.Struct(">HII")
_RC_OF_FAULT: Final = {
    Fault.SHORT: Rc.BAD_PARAM_SIZE,
    Fault.TRAILING: Rc.BAD_PARAM_SIZE,
    Fault.LIMIT: Rc.BAD_PARAM_SIZE,
    Fault.VALUE: Rc.BAD_PARAMETER,
    Fault.HEAD: Rc.BAD_PARAMETER,
}

_IN_FAILURE_MODE: Final = ("TPM_GetTestResult", "TPM_GetCapability")
_EXECUTE_TRANSPORT: Final = TABLE["TPM_ExecuteTransport"].ordinal
_OF_TRANSPORT: Final = (_EXECUTE_TRANSPORT, TABLE["TPM_ReleaseTransportSigned"].ordinal)
_SAVE_STATE: Final = TABLE["TPM_SaveState"].ordinal
TICK_RATE_US: Final = 1
# Any other command ends a SHA-1 calculation (Part 3 section 13.1).
_GOES_ON_WITH_SHA1: Final = frozenset(
    TABLE[name].ordinal for name in ("TPM_SHA1Update", "TPM_SHA1Complete", "TPM_SHA1CompleteExtend")
)

chapters.load()


class Engine:
    """A TPM 1.2 (implements `hwtpm.softtpm.base.SoftwareTpm`).

    Args:
        storage: keeps the permanent and the saved state.
        entropy: all randomness, keys included; a deterministic one makes a run repeatable.
        clock: tick counter and dictionary-attack delays.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        entropy: Entropy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.storage = storage
        self.entropy = entropy or SystemEntropy()
        self.random = self.entropy.random
        self.clock = clock or RealClock()
        self.sessions: HandleTable[Session] = HandleTable(
            self.random, ResourceType.AUTH, MAX_SESSIONS, Rc.RESOURCES
        )
        self.keys: HandleTable[LoadedKey] = HandleTable(
            self.random, ResourceType.KEY, MAX_KEYS, Rc.NOSPACE
        )
        self.transports: HandleTable[TransportSession] = HandleTable(
            self.random, ResourceType.TRANS, MAX_TRANSPORTS, Rc.RESOURCES
        )
        self.daa: HandleTable[DaaSession] = HandleTable(
            self.random, ResourceType.DAA_TPM, MAX_DAA_SESSIONS, Rc.RESOURCES
        )
        self._tables = (self.sessions, self.keys, self.transports, self.daa)
        self.lockout = Lockout(self.clock)
        self.permanent: Permanent = fresh_permanent(bytes)
        self.stclear: Stclear | None = None  # None until TPM_Startup
        self.powered = False
        self.failure = ""  # why the TPM is in failure mode; empty when it is not
        self.untested = True  # TPM_ContinueSelfTest has something left to do
        self.saved: Stclear | None = None  # what the storage holds for TPM_Startup(ST_STATE)
        self._saved_changes = 0  # `_changes` of what it holds
        self.saves_state = False  # the command under way is to do so when all else is durable
        self.sha1_thread: hashlib._Hash | None = None
        self.sha1_within: TransportSession | None = None  # where TPM_SHA1Start came
        self.tick_nonce = ZERO_DIGEST
        self.ticks_start_s = 0.0
        self._roots: dict[int, tuple[object, LoadedKey]] = {}
        self._auth_failed = False
        self._audited_list: tuple[int, ...] = ()
        self._audited: frozenset[int] = frozenset()  # the same as a set
        self._launch = Launch(self)
        self._open = True

    # --- power -------------------------------------------------------------------------------

    @property
    def description(self) -> str:
        return "hwtpm engine 0.1"

    def power_on(self) -> None:
        self._require_open()
        blob = self.storage.load(StateName.PERMANENT)
        self.power_off()
        if blob is None:
            permanent = fresh_permanent(self.random)
            self.storage.store(StateName.PERMANENT, encode_permanent(permanent))
        else:
            permanent = decode_permanent(blob)
        self.permanent = permanent
        for key in permanent.owner_evict:
            self.keys.put_later(key.handle, partial(load_stored_key, key))
        self.lockout.resume(permanent.auth_failures)
        self.tick_nonce = self.random(20)
        self.ticks_start_s = self.clock.now()
        self.run_self_tests(selftest.LIMITED)
        self.powered = True

    def power_off(self) -> None:
        """Lose all volatile state; the TPM answers nothing until the next power-on."""
        self.powered = False
        self.failure = ""
        self.untested = True
        self.forget_volatile()
        self.stclear = None
        self.saved = None
        self._launch.forget()

    def forget_volatile(self) -> None:
        """Drop sessions, loaded keys, root keys made ready for use and a SHA-1 calculation."""
        self._roots.clear()
        for table in self._tables:
            table.clear()
        self.sha1_thread = None

    def close(self) -> None:
        self.power_off()
        self._open = False

    def _require_open(self) -> None:
        if not self._open:
            raise UsageError(f"{self.description}: it is closed", hint="open a new one")

    def _require_power(self) -> None:
        if not self.powered:
            self._require_open()
            raise UsageError(f"{self.description}: it is off", hint="call power_on first")

    # --- self tests and failure mode -----------------------------------------------------------

    def run_self_tests(self, tests: Iterable[selftest.SelfTest]) -> bool:
        """Run these tests; the first one that fails puts the TPM into failure mode."""
        for test in tests:
            if not test.passes():
                self.enter_failure_mode(f"self test {test.name}")
                return False
        return True

    def enter_failure_mode(self, reason: str) -> None:
        """Answer TPM_FAILEDSELFTEST until the next power cycle; nothing takes this back."""
        self.failure = reason

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
        return (
            self.permanent.flags.physical_presence_cmd_enable
            and self.stclear is not None
            and self.stclear.flags.physical_presence
        )

    @property
    def current_ticks(self) -> CurrentTicks:
        """The tick counter now; it starts at power-on (Part 2 section 15.1)."""
        ticks = int((self.clock.now() - self.ticks_start_s) * 1_000_000 / TICK_RATE_US)
        return CurrentTicks(ticks, TICK_RATE_US, self.tick_nonce)

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

    @property
    def locked_out(self) -> bool:
        """True while the dictionary-attack defence refuses authorisation."""
        return self.lockout.active(self.permanent.auth_failures)

    def note_auth_failure(self) -> None:
        """Count a wrong authorisation towards the dictionary-attack lockout."""
        self._auth_failed = True

    def end_sessions(self, ends: Callable[[Session], bool]) -> None:
        """End the authorisation sessions that `ends` tells."""
        for session in self.sessions:
            if ends(session):
                self.sessions.drop(session.handle)

    def end_sessions_of(self, entity: tuple[int, bytes]) -> None:
        """End the sessions bound to an entity whose AuthData changed or that is gone."""
        self.end_sessions(lambda session: session.entity == entity)

    def drop_key(self, loaded: LoadedKey) -> None:
        """Forget a loaded key and the OSAP sessions bound to it."""
        self.keys.drop(loaded.handle)
        self.end_sessions_of(loaded.entity)

    # --- commands ------------------------------------------------------------------------------

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        """See `SoftwareTpm.execute`.

        Raises:
            UsageError: it is not powered on.
            Exception: what the storage raised, or a defect of this program. The state is then as
                it was before the command; the caller answers TPM_FAIL.
        """
        self._require_power()
        permanent, stclear = self.permanent, self.stclear
        tails: list[Tail] = []
        self._auth_failed = self.saves_state = False
        for table in self._tables:
            table.begin()
        try:
            answer, effects = self._run(command, locality, tails, None)
            self._commit(permanent, changing=bool(effects), saving=self.saves_state)
        except Refuse as verdict:
            self._undo(permanent, stclear)
            if not verdict.rc & NON_FATAL:
                self._close_sessions_of(tails)
            if self._auth_failed:
                # If storing raises, the count stays in memory all the same: a full disk must not
                # give an attacker unlimited tries.
                self._count_auth_failure()
                self._commit(permanent)
            return error_response(verdict.rc)
        except BaseException:
            self._undo(permanent, stclear)
            self._close_sessions_of(tails)
            if self._auth_failed:
                self._count_auth_failure()
            raise
        for effect in effects:
            effect()
        return answer

    def execute_within(self, outer: Call, transport: TransportSession, command: bytes) -> bytes:
        """The response to a command that a transport session wraps; `outer` wraps it.

        What a refused command changed is forgotten here; the rest becomes durable, and sessions
        end or roll on, with the outer command.
        """
        permanent, stclear = self.permanent, self.stclear
        tails: list[Tail] = []
        try:
            answer, effects = self._run(command, outer.locality, tails, transport)
        except Refuse as verdict:
            self._undo(permanent, stclear)
            if not verdict.rc & NON_FATAL:
                outer.after(lambda: self._close_sessions_of(tails))
            if self._auth_failed:
                self._count_auth_failure()
            return error_response(verdict.rc)
        outer.deferred += effects
        return answer

    def _undo(self, permanent: Permanent, stclear: Stclear | None) -> None:
        """Forget what a command changed that does not succeed."""
        self.permanent, self.stclear = permanent, stclear
        for table in self._tables:
            table.take_back()

    def _close_sessions_of(self, tails: list[Tail]) -> None:
        for tail in tails:
            self._close_session_of(tail)

    def _close_session_of(self, tail: Tail) -> None:
        if tail.of_transport:
            self.transports.drop(tail.handle)
        else:
            self.sessions.drop(tail.handle)

    @property
    def _changes(self) -> int:
        """Grows whenever something is loaded or unloaded."""
        return sum(table.changes for table in self._tables)

    def _commit(self, before: Permanent, *, changing: bool = False, saving: bool = False) -> None:
        """Make the state durable.

        In an order in which no crash leaves a saved state beside a permanent one that it does not
        belong to; there may be none, as after a power failure.

        Args:
            before: the permanent state that is durable.
            changing: sessions or keys are about to change.
            saving: keep the state for TPM_Startup(ST_STATE) as well. What the command's own
                sessions change afterwards does not outdate it.
        """
        changed = self.permanent is not before
        if self.saved is not None and (changed if saving else changing or self._outdated):
            self.forget_saved_state()
        if changed:
            self.storage.store(StateName.PERMANENT, encode_permanent(self.permanent))
        if saving:
            self.save_state()

    @property
    def _outdated(self) -> bool:
        """SaveState 3.3: what is saved is not what the TPM now has."""
        return self.stclear is not self.saved or self._changes != self._saved_changes

    def _count_auth_failure(self) -> None:
        permanent = self.permanent
        failures = self.lockout.failed(permanent.auth_failures)
        self.permanent = replace(permanent, auth_failures=failures)

    def _run(
        self, command: bytes, locality: int, tails: list[Tail], within: TransportSession | None
    ) -> tuple[bytes, list[Callable[[], object]]]:
        """The response of a command that succeeds, and what is to happen once it is durable."""
        if not 0 <= locality <= 4:
            raise Refuse(Rc.BAD_LOCALITY)
        size = len(command)
        if not HEADER_SIZE <= size <= MAX_FRAME:
            raise Refuse(Rc.BAD_PARAM_SIZE)
        tag, declared, ordinal = _HEADER.unpack_from(command)
        if declared != size:
            raise Refuse(Rc.BAD_PARAM_SIZE)
        stclear = self.stclear
        if stclear is not None and stclear.exclusive_transport and within is None:
            self._end_exclusive_transport(stclear.exclusive_transport, ordinal, command)
        count = tag - Tag.RQU_COMMAND
        if not 0 <= count <= 2:
            raise Refuse(Rc.BADTAG)
        if self.sha1_thread is not None and not self._goes_on_with_sha1(ordinal, within):
            self.sha1_thread = None
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
            raise Refuse(_rc_of(error)) from None
        self._check_state(served)
        if count not in row.auths:
            raise Refuse(Rc.BADTAG)
        if size - end != count * AUTH_REQUEST_SIZE:
            raise Refuse(Rc.BAD_PARAM_SIZE)
        params = command[HEADER_SIZE + layout.head_size : end]
        call = Call(self, row, params, locality, tails, within)
        if count:
            read_tails(call, command, end, count)
        if layout.handles or count:
            authorise(call, command)
        # Before the action: TPM_SetOrdinalAuditStatus may change what is audited (8.1).
        if self.permanent.audited is not self._audited_list:
            self._audited_list = self.permanent.audited
            self._audited = frozenset(self._audited_list)
        audited = ordinal in self._audited
        if audited and ordinal == _SAVE_STATE:
            auditing.record(self, call.digest)  # 8.1: what is saved has the event already
        reply = served.action(call, request)
        answer = self._answer(call, reply)
        if audited and ordinal != _SAVE_STATE:
            self._audit(call, answer, reply)
        if count:
            call.after(lambda: self._roll_sessions(call))
        return answer, call.deferred

    def _goes_on_with_sha1(self, ordinal: int, within: TransportSession | None) -> bool:
        """Whether the command leaves a SHA-1 calculation alone: it takes place outside of transport
        sessions or within one, and what counts is the wrapped command (13.1)."""
        if ordinal == _EXECUTE_TRANSPORT:
            return True
        return ordinal in _GOES_ON_WITH_SHA1 and within is self.sha1_within

    def _end_exclusive_transport(self, handle: int, ordinal: int, command: bytes) -> None:
        """End the exclusive transport session, unless the command belongs to it (Part 2 7.3)."""
        target = command[-AUTH_REQUEST_SIZE:][:4]
        if ordinal in _OF_TRANSPORT and target == handle.to_bytes(4, "big"):
            return
        session = self.transports.get(handle)
        # The handle may outlive the session, and be another's by now.
        if session is not None and session.exclusive:
            self.transports.drop(handle)

    def _check_state(self, served: Serves) -> None:
        if self.failure and served.row.name not in _IN_FAILURE_MODE:
            raise Refuse(Rc.FAILEDSELFTEST)
        if self.stclear is None:
            if served.row.name != "TPM_Startup" and not self.failure:
                raise Refuse(Rc.INVALID_POSTINIT)
            return
        if self.permanent.flags.disable and not served.when_disabled:
            raise Refuse(Rc.DISABLED)
        if self.stclear.flags.deactivated and not served.when_deactivated:
            raise Refuse(Rc.DEACTIVATED)
        if served.needs_owner and self.permanent.srk is None:
            raise Refuse(Rc.NOSRK)

    def _answer(self, call: Call, reply: Struct) -> bytes:
        out = bytearray(HEADER_SIZE)
        layout = reply.layout
        layout.write(reply, out)
        tails = call.tails
        if tails:
            params = bytes(out[HEADER_SIZE + layout.head_size :])
            digest = call.out_digest or response_digest(Rc.SUCCESS, call.row.ordinal, params)
            for tail in tails:
                nonce = tail.nonce_even = tail.nonce_even or self.random(20)
                out += nonce
                out.append(tail.continue_session)
                out += session_hmac(tail.key, digest, nonce, tail.nonce_odd, tail.continue_session)
        _HEADER.pack_into(out, 0, Tag.RSP_COMMAND + len(tails), len(out), 0)
        return bytes(out)

    def _audit(self, call: Call, answer: bytes, reply: Struct) -> None:
        ordinal = call.row.ordinal
        if call.audited is not None:
            auditing.record(self, *call.audited)
        elif call.within is not None and call.within.encrypts:
            # Part 1 on transport sessions: of a command that travels encrypted, only the ordinal.
            digest = response_digest(Rc.SUCCESS, ordinal, b"")
            auditing.record(self, request_digest(ordinal, b""), digest)
        else:
            params = answer[
                HEADER_SIZE + reply.layout.head_size : len(answer)
                - AUTH_RESPONSE_SIZE * len(call.tails)
            ]
            auditing.record(self, call.digest, response_digest(Rc.SUCCESS, ordinal, params))

    def _roll_sessions(self, call: Call) -> None:
        for session, tail in zip(call.sessions, call.tails, strict=True):
            if tail.continue_session:
                session.nonce_even = tail.nonce_even
            else:
                self._close_session_of(tail)

    # --- the saved state -----------------------------------------------------------------------

    def save_state(self) -> None:
        """Durably keep the state since TPM_Startup, and all that is loaded, for
        TPM_Startup(ST_STATE)."""
        self.storage.store(StateName.SAVED, encode_saved(self))
        self.saved, self._saved_changes = self.stclear, self._changes

    def forget_saved_state(self) -> None:
        """Durably forget what `save_state` kept, in this power cycle or an earlier one."""
        self.storage.delete(StateName.SAVED)
        self.saved = None

    # --- going on in another process -----------------------------------------------------------

    @property
    def measuring(self) -> bool:
        """True between TPM_HASH_START and TPM_HASH_END."""
        return self._launch.under_way

    def export_volatile(self) -> bytes:
        """See `MovableTpm.export_volatile`."""
        self._require_power()
        return export_volatile(self)

    def import_volatile(self, blob: bytes) -> None:
        """See `MovableTpm.import_volatile`."""
        self._require_open()
        import_volatile(self, blob)

    # --- the platform's side: establishment and the locality 4 hash --------------------------

    @property
    def established(self) -> bool:
        self._require_power()
        return self.permanent.flags.tpm_established

    def replace_state(self, permanent: Permanent, stclear: Stclear | None) -> None:
        """Take over a new state as a command would: durable or not at all."""
        before = self.permanent, self.stclear
        self.permanent, self.stclear = permanent, stclear
        try:
            self._commit(before[0])
        except BaseException:
            self.permanent, self.stclear = before
            raise

    def reset_established(self, locality: int) -> int:
        self._require_power()
        if locality not in (3, 4):
            return Rc.BAD_LOCALITY
        self.replace_state(with_established(self.permanent, False), self.stclear)
        return Rc.SUCCESS

    def hash_start(self) -> None:
        self._require_power()
        self._launch.start()

    def hash_data(self, data: bytes) -> None:
        self._require_power()
        self._launch.add(data)

    def hash_end(self) -> None:
        self._require_power()
        self._launch.end()


def _rc_of(error: WireError) -> Rc:
    """The return code for parameters that do not decode."""
    if error.fault is Fault.LIMIT and PcrSelection.layout.spec_name in error.path:
        return Rc.INVALID_PCR_INFO  # 16.3 action 4, 16.4 action 1
    return _RC_OF_FAULT[error.fault]
