"""A TPM 1.2 as a caller sees it: typed commands and authorisation sessions over a transport.

Source: TPM Main, Version 1.2, Revision 116, Part 1 section 13 (authorisation protocols, ADIP).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self, TypeVar, cast

from hwtpm.errors import HwtpmError, UsageError, VerificationError
from hwtpm.secret import Secret
from hwtpm.tpm12 import rc
from hwtpm.tpm12.auth import (
    Session,
    adip_xor,
    authorise,
    osap_shared_secret,
    request_digest,
    response_digest,
    verify_response,
)
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.sessions import OIAP, OSAP
from hwtpm.tpm12.const import DIGEST_SIZE, ResourceType
from hwtpm.tpm12.frame import AuthRequest, build_request, parse_response
from hwtpm.tpm12.table import Request
from hwtpm.transport.base import Attached, Transport
from hwtpm.wire import Struct

__all__ = ["AuthSession", "Tpm"]

_log: Final = logging.getLogger(__name__)

R = TypeVar("R", bound=Struct)


class AuthSession:
    """An authorisation session that is open in the TPM; leaving the `with` block flushes it.

    Made by `Tpm.oiap` and `Tpm.osap`.
    """

    def __init__(self, tpm: Tpm, state: Session) -> None:
        self._tpm = tpm
        self._state = state
        self._nonce_odd = tpm.random(DIGEST_SIZE)
        self._open = True

    @property
    def handle(self) -> int:
        """The TPM's handle of this session."""
        return self._state.handle

    @property
    def open(self) -> bool:
        """Whether the TPM still has it; a failed command or a new AuthData ends it."""
        return self._open

    @property
    def nonce_odd(self) -> bytes:
        """The nonce that the next command is going to carry."""
        return self._nonce_odd

    def keyed(self, secret: Secret) -> Self:
        """This OIAP session, from now on authorising the entity with that AuthData."""
        self._state = self._state.keyed(secret)
        return self

    def encrypt_auth(self, auth: Secret) -> bytes:
        """A new entity's AuthData for this OSAP session's next command (ADIP, even nonce)."""
        return adip_xor(self._state.key.reveal(), self._state.nonce_even, _auth_value(auth))

    def encrypt_second_auth(self, auth: Secret) -> bytes:
        """The second new AuthData of the same command: ADIP with the odd nonce."""
        return adip_xor(self._state.key.reveal(), self._nonce_odd, _auth_value(auth))

    def sign(self, digest: bytes, *, last: bool) -> AuthRequest:
        """The authorisation tail for a request with that digest; `last` asks to end the session."""
        if not self._open:
            raise UsageError(
                f"authorisation session {self.handle:#010x} has ended", hint="open a new one"
            )
        return authorise(self._state, digest, self._nonce_odd, continue_session=not last)

    def proceed(self, sent: AuthRequest, answered: Session, *, alive: bool) -> None:
        """Roll on after a proven answer to `sent`."""
        self._state = answered
        self._nonce_odd = self._tpm.random(DIGEST_SIZE)
        self._open = alive and sent.continue_session

    def renew(self) -> None:
        """A command was refused and may be sent again: no odd nonce encrypts two AuthData."""
        self._nonce_odd = self._tpm.random(DIGEST_SIZE)

    def lost(self) -> None:
        """The TPM has ended it."""
        self._open = False

    def flush(self) -> None:
        """Make the TPM forget it, if it has not yet."""
        if self._open:
            self._open = False
            self._tpm.execute(FlushSpecific(self.handle, ResourceType.AUTH))

    @property
    def state(self) -> Session:
        """Handle, last even nonce and key."""
        return self._state

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.flush()
        except HwtpmError as flush_error:
            # What went wrong first is what the caller has to see.
            if error is None:
                raise
            _log.debug("session %#010x not flushed: %s", self.handle, flush_error.message)


class Tpm:
    """One TPM 1.2 behind a transport, which it owns: closing one closes the other.

    `random` gives n random bytes for the odd nonces; a fixed sequence makes runs repeatable.
    """

    def __init__(
        self, transport: Transport, *, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._transport = transport
        self.random = random

    @property
    def transport(self) -> Transport:
        """The way to it, for frames that are no typed commands."""
        return self._transport

    @property
    def attached(self) -> Attached:
        """What it runs on."""
        return self._transport.attached

    def execute(self, request: Request[R], *sessions: AuthSession, last: bool = False) -> R:
        """The reply to `request`, authorised by these sessions, with its authenticity proven.

        `last` asks the TPM to end the sessions with this command.

        Raises:
            TpmError: the TPM refused; the sessions have ended unless the code is non-fatal.
            VerificationError: the reply is not from the TPM that knows the session keys.
            ProtocolError: the reply is no reply to this command.
        """
        command = request.command
        if len(sessions) not in command.auths:
            raise UsageError(
                f"{command.name} takes {sorted(command.auths)} authorisations, got {len(sessions)}"
            )
        reply = command.reply
        assert reply is not None  # every row that has a request class has a reply class
        body = request.encode()
        digest = request_digest(command.ordinal, body[request.layout.head_size :])
        sent = tuple(session.sign(digest, last=last) for session in sessions)
        try:
            response = self._transport.execute(build_request(command.ordinal, body, sent))
            frame = parse_response(response)
        except HwtpmError:
            # Whether the TPM rolled its nonces on is not known: a next try would be a wrong one.
            for session in sessions:
                session.lost()
            raise
        if frame.rc:
            for session in sessions:
                if frame.rc & rc.NON_FATAL:
                    session.renew()
                else:
                    session.lost()
            raise rc.error(frame.rc, command.name, self.attached.address)
        if len(frame.auths) != len(sent):
            raise VerificationError(
                f"{command.name} on {self.attached.address}: the answer has {len(frame.auths)}"
                f" authorisations instead of {len(sent)}",
                hint="somebody changes traffic between here and the TPM",
            )
        digest = response_digest(0, command.ordinal, frame.body[reply.layout.head_size :])
        for session, asked, answer in zip(sessions, sent, frame.auths, strict=True):
            state = verify_response(session.state, asked, answer, digest)
            session.proceed(asked, state, alive=answer.continue_session)
        return cast("R", reply.decode(frame.body))

    def execute_with(self, request: Request[R], *secrets: Secret) -> R:
        """The reply to `request`, each authorisation by an OIAP session of its own.

        Raises: as `execute`.
        """
        with ExitStack() as stack:
            sessions = [stack.enter_context(self.oiap(secret)) for secret in secrets]
            return self.execute(request, *sessions, last=True)

    def oiap(self, secret: Secret) -> AuthSession:
        """A new OIAP session that authorises the entity whose AuthData is `secret`.

        Raises:
            TpmError: the TPM has no room for one more session.
        """
        _auth_value(secret)
        reply = self.execute(OIAP())
        return AuthSession(self, Session(reply.auth_handle, reply.nonce_even, secret))

    def osap(self, entity_type: int, entity: int, secret: Secret) -> AuthSession:
        """A new OSAP session bound to one entity (TPM_ENTITY_TYPE and handle or index).

        It can carry new AuthData: see `AuthSession.encrypt_auth`.

        Raises:
            TpmError: there is no such entity, or no room for one more session.
        """
        auth = _auth_value(secret)
        nonce_odd = self.random(DIGEST_SIZE)
        reply = self.execute(OSAP(entity_type, entity, nonce_odd))
        shared = osap_shared_secret(auth, reply.nonce_even_osap, nonce_odd)
        return AuthSession(self, Session(reply.auth_handle, reply.nonce_even, Secret(shared)))

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _auth_value(secret: Secret) -> bytes:
    """The 20 bytes of an AuthData, or UsageError."""
    if len(secret) != DIGEST_SIZE:
        raise UsageError(
            f"AuthData has {DIGEST_SIZE} bytes, this one {len(secret)}",
            hint="make one from a password with Secret.auth_from_text",
        )
    return secret.reveal()
