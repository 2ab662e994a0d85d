"""One command under way: what a chapter's action sees and may do.

An action is a function `(call, request) -> reply`. It refuses by raising `Refuse` with the return
code that the specification gives; the dispatcher then forgets everything the action changed.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from hwtpm.softtpm.engine.delegation import check_use, delegate_row
from hwtpm.softtpm.engine.refusal import Refuse
from hwtpm.softtpm.engine.sessions import Session
from hwtpm.tpm12.auth import ADIP, request_digest, session_hmac
from hwtpm.tpm12.const import DelegateType, EntityType, KeyFlag, KeyHandleValue
from hwtpm.tpm12.delegation import CMK_DELEGATE_OF
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Command, Request, Rule
from hwtpm.tpm12.types.delegation import DelegatePublic
from hwtpm.wire import Struct

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.keys import LoadedKey
    from hwtpm.softtpm.engine.tpm import Engine
    from hwtpm.softtpm.engine.transports import TransportSession

__all__ = ["Call", "Refuse", "Serves", "serves"]


class Call:
    """The command under way.

    `delegated` has an entry for each session that was proven so far, in order: the delegation that
    it stands for, or None if it was proven with the AuthData of the owner or key itself.
    """

    __slots__ = (
        "_digest",
        "_params",
        "audited",
        "deferred",
        "delegated",
        "keys",
        "locality",
        "out_digest",
        "row",
        "sessions",
        "tails",
        "tpm",
        "within",
    )

    def __init__(
        self,
        tpm: Engine,
        row: Command,
        params: bytes,
        locality: int,
        tails: list[Tail],
        within: TransportSession | None,
    ) -> None:
        self.tpm = tpm
        self.row = row
        self.locality = locality
        self.tails = tails
        self.sessions: list[Session] = []
        self.keys: list[LoadedKey] = []
        self.delegated: list[DelegatePublic | None] = []
        self.deferred: list[Callable[[], object]] = []
        self.within = within  # the transport session that wraps the command
        self.out_digest = b""  # outParamDigest, if it is not that of the reply's parameters
        self.audited: tuple[bytes, bytes] | None = None  # what audit takes for the two digests
        self._params = params  # without handles
        self._digest = b""

    @property
    def digest(self) -> bytes:
        """inParamDigest of the request."""
        if not self._digest:
            self._digest = request_digest(self.row.ordinal, self._params)
        return self._digest

    @digest.setter
    def digest(self, value: bytes) -> None:
        self._digest = value

    @property
    def unproven(self) -> int:
        """How many sessions the request carries that no secret has been proven with yet."""
        return len(self.sessions) - len(self.delegated)

    def after(self, effect: Callable[[], object]) -> None:
        """Have `effect` happen once the command has succeeded and what it changed is durable.

        For what the dispatcher cannot take back: sessions that end, keys that are unloaded.
        """
        self.deferred.append(effect)

    def end_sessions_of(self, entity: tuple[int, bytes]) -> None:
        """End the OSAP and DSAP sessions of an entity that is gone, this command's own included."""
        self._end_sessions(lambda session: session.entity == entity)

    def end_delegated_sessions(self) -> None:
        """End the DSAP sessions, and the OSAP sessions opened while the owner pointer named a
        delegation; this command's own included."""
        self._end_sessions(lambda session: session.delegation is not None)

    def _end_sessions(self, ends: Callable[[Session], bool]) -> None:
        for session, tail in zip(self.sessions, self.tails, strict=True):
            if ends(session):
                tail.continue_session = 0
        self.after(lambda: self.tpm.end_sessions(ends))

    def authorise(
        self,
        secret: bytes,
        entity: tuple[int, bytes],
        *,
        delegation: DelegatePublic | None = None,
        during_lockout: bool = False,
    ) -> Session:
        """Prove the next session of the request with an entity's AuthData.

        Args:
            secret: the entity's AuthData, 20 bytes.
            entity: entity type and the digest or handle that an OSAP session is bound to.
            delegation: the one that `secret` belongs to; an OSAP or DSAP session has its own.
            during_lockout: also while the dictionary-attack defence refuses authorisation.

        Raises:
            Refuse: AUTHFAIL or AUTH2FAIL, also for a command that is not delegated;
                DEFEND_LOCK_RUNNING; what `check_use` raises.
        """
        number = len(self.delegated)
        failed = Rc.AUTH2FAIL if number else Rc.AUTHFAIL
        if number >= len(self.sessions):
            raise Refuse(failed)
        if not during_lockout:
            self.require_no_lockout()
        session = self.sessions[number]
        key = secret
        if session.entity is not None:
            if session.entity != entity:
                raise Refuse(failed)
            key, delegation = session.shared_secret, session.delegation
        if delegation is not None:
            # Before the secret is tried (18.1.1 action 11, 18.2.1 action 11).
            kind = DelegateType.OWNER if entity == OWNER_ENTITY else DelegateType.KEY
            check_use(self, delegation, kind, failed)
        if not self.proves(key, delegation):
            self.tpm.note_auth_failure()
            raise Refuse(failed)
        return session

    def require_no_lockout(self) -> None:
        """Refuse with DEFEND_LOCK_RUNNING while the dictionary-attack defence is at work."""
        if self.tpm.locked_out:
            raise Refuse(Rc.DEFEND_LOCK_RUNNING)

    def proves(self, key: bytes, delegation: DelegatePublic | None = None) -> bool:
        """Whether the next session of the request comes with the HMAC that this key makes."""
        number = len(self.delegated)
        session, tail = self.sessions[number], self.tails[number]
        expected = session_hmac(
            key, self.digest, session.nonce_even, tail.nonce_odd, tail.continue_session
        )
        if not hmac.compare_digest(expected, tail.hmac):
            return False
        tail.key = key
        self.delegated.append(delegation)
        return True

    def authorise_owner(self, *, during_lockout: bool = False) -> Session:
        """Prove the next session with the owner's AuthData, or with that of the delegation which
        TPM_SetOwnerPointer has put in its place (18.1.1 action 4).

        Raises:
            Refuse: what `authorise` raises; AUTHFAIL or AUTH2FAIL, too, without an owner.
        """
        permanent = self.tpm.permanent
        if permanent.srk is None:
            raise Refuse(Rc.AUTH2FAIL if self.delegated else Rc.AUTHFAIL)
        reference = self.tpm.volatile.owner_reference
        if reference == KeyHandleValue.OWNER:
            return self.authorise(permanent.owner_auth, OWNER_ENTITY, during_lockout=during_lockout)
        row = delegate_row(permanent, reference)
        return self.authorise(
            row.auth_value, OWNER_ENTITY, delegation=row.pub, during_lockout=during_lockout
        )

    def authorise_key(self, key: LoadedKey) -> Session:
        """Prove the next session with a key's AuthData.

        Raises:
            Refuse: INVALID_KEYUSAGE for a certified migration key that the owner does not let
                delegations use (11.5, 18.3); what `authorise` raises.
        """
        session = self.authorise(key.usage_auth, key.entity)
        if self.delegated[-1] is not None and key.key.key_flags & KeyFlag.MIGRATE_AUTHORITY:
            allowed = CMK_DELEGATE_OF.get(key.key.key_usage, 0)
            if not self.tpm.permanent.restrict_delegate & allowed:
                raise Refuse(Rc.INVALID_KEYUSAGE)
        return session

    def authorise_use(self, key: LoadedKey) -> None:
        """Prove a key's AuthData, unless the key needs none and its session was left out.

        Raises:
            Refuse: AUTHFAIL for a session that is missing; what `authorise_key` raises.
        """
        if self.unproven:
            self.authorise_key(key)
        elif key.needs_auth:
            raise Refuse(Rc.AUTHFAIL)

    def new_auth(self, encrypted: bytes, *, second: bool = False, number: int = 0) -> bytes:
        """Decrypt a new AuthData that came under an OSAP session; the session ends with this
        command (Part 1 section 13.5).

        Args:
            encrypted: 20 bytes as sent.
            second: the second AuthData of a command uses the odd nonce (TPM_CreateWrapKey).
            number: which session of the request encrypts it.

        Raises:
            Refuse: BAD_MODE for an OIAP session.
        """
        session, tail = self.sessions[number], self.tails[number]
        if session.entity is None:
            raise Refuse(Rc.BAD_MODE)
        tail.continue_session = 0
        nonce = tail.nonce_odd if second else session.nonce_even
        return ADIP[session.adip](session.shared_secret, nonce, encrypted)

    def require_presence(self) -> None:
        """Refuse with BAD_PRESENCE unless physical presence is asserted."""
        if not self.tpm.physical_presence:
            raise Refuse(Rc.BAD_PRESENCE)


class Tail:
    """The 45 bytes that a request carries for one session, the secret it was proven with, and the
    session's next even nonce (made with the response if no action needed it before)."""

    __slots__ = (
        "continue_session",
        "handle",
        "hmac",
        "key",
        "nonce_even",
        "nonce_odd",
        "of_transport",
    )

    def __init__(self, handle: int, nonce_odd: bytes, continue_session: int, mac: bytes) -> None:
        self.handle = handle
        self.nonce_odd = nonce_odd
        self.continue_session = continue_session
        self.hmac = mac
        self.key = b""
        self.nonce_even = b""
        self.of_transport = False  # the handle is that of a transport session


OWNER_ENTITY: Final = (int(EntityType.OWNER), int(KeyHandleValue.OWNER).to_bytes(4, "big"))

Action = Callable[[Call, Request[Struct]], Struct]


@dataclass(frozen=True, slots=True)
class Serves:
    """A command with its action and what the dispatcher does before it."""

    row: Command
    action: Action
    needs_owner: bool
    when_disabled: bool
    when_deactivated: bool


Q = TypeVar("Q", bound=Request[Struct])
P = TypeVar("P", bound=Struct)

ACTIONS: dict[int, Serves] = {}


def serves(
    request: type[Q],
) -> Callable[[Callable[[Call, Q], P]], Callable[[Call, Q], P]]:
    """Declare a function as the action of the command with that request class."""

    def enter(action: Callable[[Call, Q], P]) -> Callable[[Call, Q], P]:
        row = request.command
        if row.ordinal in ACTIONS:
            raise TypeError(f"{row.name} has two actions")
        rules = row.rules
        ACTIONS[row.ordinal] = Serves(
            row=row,
            action=action,  # type: ignore[arg-type]  # the request's class is what decode makes
            needs_owner=Rule.NO_OWNER not in rules,
            when_disabled=bool(rules & (Rule.WHEN_DISABLED | Rule.MAYBE_DISABLED)),
            when_deactivated=bool(rules & (Rule.WHEN_DEACTIVATED | Rule.MAYBE_DEACTIVATED)),
        )
        return action

    return enter
