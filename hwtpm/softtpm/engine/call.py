"""One command under way: what a chapter's action sees and may do.

An action is a function `(call, request) -> reply`. It refuses by raising `Refuse` with the return
code that the specification gives; the dispatcher then forgets everything the action changed.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from hwtpm.softtpm.engine.sessions import Session
from hwtpm.tpm12.auth import adip_xor, request_digest, session_hmac
from hwtpm.tpm12.const import ET_XOR, EntityType, KeyHandleValue
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Command, Request, Rule
from hwtpm.wire import Struct

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.keys import LoadedKey
    from hwtpm.softtpm.engine.tpm import Engine

__all__ = ["Call", "Refuse", "Serves", "serves"]


class Refuse(Exception):
    """The command is answered with this return code."""

    def __init__(self, rc: Rc) -> None:
        super().__init__(rc)
        self.rc = rc


class Call:
    """The command under way."""

    __slots__ = (
        "_digest",
        "_params",
        "_proven",
        "deferred",
        "keys",
        "locality",
        "row",
        "sessions",
        "tails",
        "tpm",
    )

    def __init__(
        self,
        tpm: Engine,
        row: Command,
        params: bytes,
        locality: int,
        tails: list[Tail],
    ) -> None:
        self.tpm = tpm
        self.row = row
        self.locality = locality
        self.tails = tails
        self.sessions: list[Session] = []
        self.keys: list[LoadedKey] = []
        self.deferred: list[Callable[[], object]] = []
        self._params = params  # without handles
        self._digest = b""
        self._proven = 0

    @property
    def digest(self) -> bytes:
        """inParamDigest of the request."""
        if not self._digest:
            self._digest = request_digest(self.row.ordinal, self._params)
        return self._digest

    @property
    def unproven(self) -> int:
        """How many sessions the request carries that no secret has been proven with yet."""
        return len(self.sessions) - self._proven

    def after(self, effect: Callable[[], object]) -> None:
        """Have `effect` happen once the command has succeeded and what it changed is durable.

        For what the dispatcher cannot take back: sessions that end, keys that are unloaded.
        """
        self.deferred.append(effect)

    def end_sessions_of(self, entity: tuple[int, bytes]) -> None:
        """End the OSAP sessions of an entity that is gone, this command's own included."""
        for session, tail in zip(self.sessions, self.tails, strict=True):
            if session.entity == entity:
                tail.continue_session = 0
        self.after(lambda: self.tpm.end_sessions_of(entity))

    def authorise(
        self, secret: bytes, entity: tuple[int, bytes], *, during_lockout: bool = False
    ) -> Session:
        """Prove the next session of the request with an entity's AuthData.

        Args:
            secret: the entity's AuthData, 20 bytes.
            entity: entity type and the digest or handle that an OSAP session is bound to.
            during_lockout: also while the dictionary-attack defence refuses authorisation.

        Raises:
            Refuse: AUTHFAIL or AUTH2FAIL; DEFEND_LOCK_RUNNING.
        """
        number = self._proven
        failed = Rc.AUTH2FAIL if number else Rc.AUTHFAIL
        if number >= len(self.sessions):
            raise Refuse(failed)
        if not during_lockout and self.tpm.locked_out:
            raise Refuse(Rc.DEFEND_LOCK_RUNNING)
        session, tail = self.sessions[number], self.tails[number]
        key = secret
        if session.entity is not None:
            if session.entity != entity:
                raise Refuse(failed)
            key = session.shared_secret
        expected = session_hmac(
            key, self.digest, session.nonce_even, tail.nonce_odd, tail.continue_session
        )
        if not hmac.compare_digest(expected, tail.hmac):
            self.tpm.note_auth_failure()
            raise Refuse(failed)
        tail.key = key
        self._proven = number + 1
        return session

    def authorise_owner(self) -> Session:
        """Prove the next session with the owner's AuthData.

        Raises:
            Refuse: NOSRK without an owner; AUTHFAIL.
        """
        permanent = self.tpm.permanent
        if permanent.srk is None:
            raise Refuse(Rc.NOSRK)
        return self.authorise(permanent.owner_auth, OWNER_ENTITY)

    def new_auth(self, encrypted: bytes, *, second: bool = False, number: int = 0) -> bytes:
        """Decrypt a new AuthData that came under an OSAP session; the session ends with this
        command (Part 1 section 13.5).

        Args:
            encrypted: 20 bytes as sent.
            second: the second AuthData of a command uses the odd nonce (TPM_CreateWrapKey).
            number: which session of the request encrypts it.

        Raises:
            Refuse: BAD_MODE for an OIAP session; INAPPROPRIATE_ENC for an unsupported scheme.
        """
        session, tail = self.sessions[number], self.tails[number]
        if session.entity is None:
            raise Refuse(Rc.BAD_MODE)
        if session.adip != ET_XOR:
            raise Refuse(Rc.INAPPROPRIATE_ENC)
        tail.continue_session = 0
        nonce = tail.nonce_odd if second else session.nonce_even
        return adip_xor(session.shared_secret, nonce, encrypted)

    def require_presence(self) -> None:
        """Refuse with BAD_PRESENCE unless physical presence is asserted."""
        if not self.tpm.physical_presence:
            raise Refuse(Rc.BAD_PRESENCE)


class Tail:
    """The 45 bytes that a request carries for one session, and the secret it was proven with."""

    __slots__ = ("continue_session", "handle", "hmac", "key", "nonce_odd")

    def __init__(self, handle: int, nonce_odd: bytes, continue_session: int, mac: bytes) -> None:
        self.handle = handle
        self.nonce_odd = nonce_odd
        self.continue_session = continue_session
        self.hmac = mac
        self.key = b""


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
