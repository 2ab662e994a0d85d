"""Two TPMs that are told the same things, each in the words of its own handles and nonces.

Sessions, keys and blobs go by names of the fuzzer's own; a `Side` knows what its TPM calls them.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from hwtpm.tpm12.auth import adip_xor, request_digest, response_digest, session_hmac
from hwtpm.tpm12.commands.transport import ExecuteTransport, ExecuteTransportReply
from hwtpm.tpm12.const import ResourceType, Tag
from hwtpm.tpm12.frame import AUTH_RESPONSE_SIZE, HEADER_SIZE
from hwtpm.tpm12.table import Command
from hwtpm.tpm12.types.transport import TransportPublic
from hwtpm.tpm12.wrapped import (
    Way,
    crypt,
    outer_request_digest,
    outer_response_digest,
    request_data,
    response_data,
)
from hwtpm.wire import Struct, WireError

__all__ = ["Answer", "Auth", "Open", "Plan", "Side", "Through", "rc_of"]


def rc_of(response: bytes) -> int:
    return int.from_bytes(response[6:10], "big")


@dataclass
class Open:
    """A session as one side knows it; `shared` is None for OIAP."""

    handle: int
    nonce_even: bytes
    shared: bytes | None = None
    kind: int = ResourceType.AUTH


@dataclass(frozen=True)
class Auth:
    """One session of a command: its name, the secret to prove, what the caller adds."""

    session: str
    secret: bytes
    nonce_odd: bytes
    go_on: bool = True
    spoil: bool = False  # send a wrong HMAC
    honest: bool = True  # it is the secret that the entity has
    bound: str = ""  # the entity of an OSAP session


Value = Any  # a field's value, or a function of the side that makes it


@dataclass(frozen=True)
class Through:
    """The transport session that a command travels in."""

    auth: Auth
    public: TransportPublic


@dataclass(frozen=True)
class Plan:
    """A command for both sides."""

    row: Command
    fields: dict[str, Value]
    auths: tuple[Auth, ...] = ()
    locality: int = 0
    damage: Callable[[bytes], bytes] | None = None  # to the finished frame
    tell: str = ""  # name for what the command makes
    note: dict[str, Any] = field(default_factory=dict)
    through: Through | None = None


@dataclass(frozen=True)
class Answer:
    """What one side said: its frame, and the reply's structure if there is one.

    `outer`: TPM_ExecuteTransport was refused, not the command in it.
    """

    raw: bytes
    reply: Struct | None
    outer: bool = False

    def continued(self, sessions: int) -> list[int]:
        """continueAuthSession of each session in a response that has them all."""
        ends = (len(self.raw) - number * AUTH_RESPONSE_SIZE for number in range(sessions))
        return [self.raw[end - 21] for end in ends]

    @property
    def rc(self) -> int:
        return rc_of(self.raw)


class Tpm(Protocol):
    """What the fuzzer asks of a TPM."""

    def power_on(self) -> None: ...

    def execute(self, command: bytes, locality: int = 0) -> bytes: ...


class Side:
    """One TPM with what was opened, loaded and made in it."""

    def __init__(self, name: str, tpm: Tpm) -> None:
        self.name = name
        self.tpm = tpm
        self.sessions: dict[str, Open] = {}
        self.handles: dict[str, int] = {}
        self.blobs: dict[str, Any] = {}

    def forget(self) -> None:
        """After a power cycle: handles and sessions are gone, blobs stay."""
        self.sessions.clear()
        self.handles.clear()

    def encrypt_auth(self, session: str, secret: bytes, nonce_odd: bytes | None = None) -> bytes:
        """A new AuthData under an OSAP session; zeros' worth of nonsense under another."""
        opened = self.sessions[session]
        return adip_xor(opened.shared or bytes(20), nonce_odd or opened.nonce_even, secret)

    def issue(self, plan: Plan) -> Answer:
        """Send the command and read the answer; a wrong resAuth is an error of its own."""
        row = plan.row
        assert row.request is not None
        assert row.reply is not None
        values = {name: v(self) if callable(v) else v for name, v in plan.fields.items()}
        request = row.request(**values)
        body = request.encode()
        digest = request_digest(row.ordinal, body[row.request.layout.head_size :])
        tails = b"".join(self._tail(auth, digest) for auth in plan.auths)
        size = HEADER_SIZE + len(body) + len(tails)
        header = struct.pack(">HII", Tag.RQU_COMMAND + len(plan.auths), size, row.ordinal)
        frame = header + body + tails
        if plan.through is not None:
            return self._transported(plan, plan.through, frame)
        if plan.damage is not None:
            frame = plan.damage(frame)
        raw = self.tpm.execute(frame, plan.locality)
        if rc_of(raw) or plan.damage is not None:
            return Answer(raw, None)
        return Answer(raw, self._read(plan, raw))

    def _transported(self, plan: Plan, through: Through, frame: bytes) -> Answer:
        """The answer to a command in a transport session (Part 3 section 24.2)."""
        row, auth, execute = plan.row, through.auth, ExecuteTransport.command
        opened = self.sessions[auth.session]

        def crypted(way: Way, even: bytes, data: bytes, span: tuple[int, int]) -> bytes:
            start, end = span
            middle = data[start:end]
            middle = crypt(through.public, auth.secret, even, auth.nonce_odd, way, middle)
            return data[:start] + middle + data[end:]

        start, end = request_data(row, frame)
        inner = request_digest(row.ordinal, frame[start:end])
        digest = outer_request_digest(execute.ordinal, len(frame), inner)
        wrapped = crypted(b"in", opened.nonce_even, frame, (start, end))
        body = ExecuteTransport(wrapped).encode() + self._tail(auth, digest)
        size = HEADER_SIZE + len(body)
        header = struct.pack(">HII", Tag.RQU_AUTH1, size, execute.ordinal)
        raw = self.tpm.execute(header + body, plan.locality)
        if rc_of(raw):
            return Answer(raw, None, outer=True)
        reply = ExecuteTransportReply.decode(raw[HEADER_SIZE:-AUTH_RESPONSE_SIZE])
        nonce, go_on, mac = raw[-41:-21], raw[-21], raw[-20:]
        span = response_data(row, reply.wrapped_rsp)
        answer = crypted(b"out", nonce, reply.wrapped_rsp, span)
        inner = response_digest(rc_of(answer), row.ordinal, answer[span[0] : span[1]])
        digest = outer_response_digest(
            execute.ordinal, reply.current_ticks, reply.locality, len(answer), inner
        )
        expected = session_hmac(auth.secret, digest, nonce, auth.nonce_odd, go_on)
        assert hmac.compare_digest(mac, expected), f"{self.name}: {row.name}: outer resAuth"
        assert reply.locality == plan.locality, f"{self.name}: {row.name}: locality"
        opened.nonce_even = nonce
        return Answer(answer, None if rc_of(answer) else self._read(plan, answer))

    def _tail(self, auth: Auth, digest: bytes) -> bytes:
        opened = self.sessions[auth.session]
        key = auth.secret if opened.shared is None else opened.shared
        mac = session_hmac(key, digest, opened.nonce_even, auth.nonce_odd, auth.go_on)
        if auth.spoil:
            mac = mac[:-1] + bytes([mac[-1] ^ 1])
        return opened.handle.to_bytes(4, "big") + auth.nonce_odd + bytes([auth.go_on]) + mac

    def _read(self, plan: Plan, raw: bytes) -> Struct:
        reply_class = plan.row.reply
        assert reply_class is not None
        stop = len(raw) - len(plan.auths) * AUTH_RESPONSE_SIZE
        try:
            reply, end = reply_class.layout.read(raw, HEADER_SIZE, stop)
        except WireError as error:
            raise AssertionError(f"{self.name}: {plan.row.name}: {error}: {raw.hex()}") from None
        assert end == stop, f"{self.name}: {plan.row.name}: {raw.hex()}"
        params = raw[HEADER_SIZE + reply_class.layout.head_size : stop]
        digest = response_digest(0, plan.row.ordinal, params)
        for number, auth in enumerate(plan.auths):
            at = stop + number * AUTH_RESPONSE_SIZE
            nonce, go_on, mac = raw[at : at + 20], raw[at + 20], raw[at + 21 : at + 41]
            opened = self.sessions[auth.session]
            key = auth.secret if opened.shared is None else opened.shared
            if self._proves(plan) and auth.honest:
                expected = session_hmac(key, digest, nonce, auth.nonce_odd, go_on)
                assert hmac.compare_digest(mac, expected), f"{self.name}: {plan.row.name}: resAuth"
            opened.nonce_even = nonce
            if not go_on:
                del self.sessions[auth.session]
        return reply

    def _proves(self, plan: Plan) -> bool:
        """ChangeAuth and its kin answer under the new secret; the conformance suite knows which."""
        return "new secret" not in plan.note
