"""Local calls between the stack's own processes: one JSON object a packet, descriptors beside it.

Unix SOCK_SEQPACKET sockets keep the packets apart. A request is `{"op": name, "id": number, ...}`;
its answer has the same id and `"ok": true, "result": {...}`, or `"ok": false, "error": {...}` with
the error's kind, so that it is raised as the same class on the caller's side. Who may call is a
matter of file permissions: the sockets lie in a directory of mode 0700.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from hwtpm import errors
from hwtpm.clock import RealClock
from hwtpm.errors import (
    AccessDenied,
    DeviceNotFound,
    HwtpmError,
    ProtocolError,
    Timeout,
    TpmError,
    UsageError,
)
from hwtpm.loop import Loop
from hwtpm.tpm12.rc import Rc

__all__ = [
    "Answer",
    "Client",
    "Handler",
    "Json",
    "Server",
    "error_from_json",
    "error_to_json",
    "listen",
]

MAX_PACKET: Final = 60_000
_MAX_FDS: Final = 8
_LOG: Final = logging.getLogger(__name__)

Json = dict[str, object]


@dataclass(frozen=True)
class Answer:
    """What a handler gives back: a JSON object, and descriptors that the caller receives."""

    result: Json = field(default_factory=dict)
    fds: Sequence[int] = ()


Handler = Callable[["Peer", Json, list[int]], Answer]
"""Serves one request: who asks, the request, the descriptors that came with it."""


def error_to_json(error: HwtpmError) -> Json:
    """An error as it travels."""
    return {**error.describe(), "exit": error.exit_code}


_CLASSES: Final[dict[str, type[HwtpmError]]] = {
    cls.kind: cls
    for cls in (getattr(errors, name) for name in errors.__all__)
    if cls is not TpmError
}


def error_from_json(data: Json) -> HwtpmError:
    """The exception that travelled as `data`."""
    kind, message, hint = (str(data.get(key, "")) for key in ("kind", "message", "hint"))
    if kind == TpmError.kind:
        return TpmError(
            message,
            rc=rc if isinstance(rc := data.get("rc"), int) else Rc.FAIL,
            name=str(data.get("name", "")),
            meaning=str(data.get("meaning", "")),
            command=str(data.get("command", "")),
            hint=hint,
        )
    return _CLASSES.get(kind, HwtpmError)(message, hint=hint)


def listen(path: Path, kind: socket.SocketKind = socket.SOCK_SEQPACKET) -> socket.socket:
    """A listening socket at `path`, for its owner only; replaces a stale one."""
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(previous)
    listener.listen(16)
    return listener


class Client:
    """The calling side.

    Args:
        channel: connected to the server.
        name: says in errors who that is.
        timeout_s: how long a call may take, unless it says so itself.
        needed: pidfds of processes without which no answer comes; a listening socket may outlive
            the process behind it.
    """

    def __init__(
        self,
        channel: socket.socket,
        name: str,
        timeout_s: float = 60.0,
        needed: Iterable[int] = (),
    ) -> None:
        self._channel = channel
        self._name = name
        self._timeout_s = timeout_s
        self._answer_or_end = select.poll()
        for fd in (channel.fileno(), *needed):
            self._answer_or_end.register(fd, select.POLLIN)
        self._clock = RealClock()
        self._number = 0

    @classmethod
    def connect(
        cls, path: Path, name: str, timeout_s: float = 60.0, needed: Iterable[int] = ()
    ) -> Client:
        """Connect to the server at `path`; see the class for the rest.

        Raises:
            DeviceNotFound: nobody listens there.
            AccessDenied: the socket belongs to somebody else.
        """
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        channel.settimeout(timeout_s)
        try:
            channel.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            channel.close()
            raise DeviceNotFound(
                f"{name} is not running: nobody listens on {path}", hint="start it: vstack up"
            ) from error
        except OSError as error:
            channel.close()
            raise AccessDenied(
                f"cannot connect to {name} at {path}: {error.strerror or error}",
                hint="run as the user who started the stack, with the same --run",
            ) from error
        return cls(channel, name, timeout_s, needed)

    def fileno(self) -> int:
        """The connection; it hangs up when the server's process ends."""
        return self._channel.fileno()

    def call(
        self,
        op: str,
        params: Json | None = None,
        fds: Sequence[int] = (),
        timeout_s: float | None = None,
    ) -> Json:
        """The result of one call; descriptors that come back are closed.

        Raises:
            HwtpmError: what the server raised; Timeout or ProtocolError if it does not answer.
        """
        result, received = self.call_fds(op, params, fds, timeout_s)
        _close_all(received)
        return result

    def call_fds(
        self,
        op: str,
        params: Json | None = None,
        fds: Sequence[int] = (),
        timeout_s: float | None = None,
    ) -> tuple[Json, list[int]]:
        """Like `call`, and the descriptors that the server passed; they are the caller's."""
        self._number += 1
        packet = msgspec.json.encode({**(params or {}), "op": op, "id": self._number})
        if len(packet) > MAX_PACKET:
            raise UsageError(f"a call of {len(packet)} bytes to {self._name} is too long")
        patience_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = self._clock.now() + patience_s
        try:
            self._channel.settimeout(patience_s)
            socket.send_fds(self._channel, [packet], list(fds))
            while True:
                answer, received = self._receive(op, deadline)
                try:
                    reply = self._decode(op, answer)
                    # Otherwise it is the late answer to a call that was given up.
                    if reply.get("id", self._number) == self._number:
                        return self._result(reply), received
                except BaseException:
                    _close_all(received)
                    raise
                _close_all(received)
        except TimeoutError as error:
            raise Timeout(
                f"{self._name} did not answer {op!r} in {patience_s} s",
                hint="look at its log in the run directory",
            ) from error
        except OSError as error:
            raise ProtocolError(f"{self._name} hung up during {op!r}: {error}") from error

    def _receive(self, op: str, deadline: float) -> tuple[bytes, list[int]]:
        ready = self._answer_or_end.poll(max(0.0, deadline - self._clock.now()) * 1000)
        if not ready:
            raise TimeoutError
        if self._channel.fileno() not in dict(ready):
            raise ProtocolError(
                f"{self._name} cannot answer {op!r}: it, or what it needs, has ended",
                hint="look at its log in the run directory",
            )
        answer, received, _, _ = socket.recv_fds(self._channel, MAX_PACKET, _MAX_FDS)
        return answer, received

    def _decode(self, op: str, answer: bytes) -> Json:
        if not answer:
            raise ProtocolError(
                f"{self._name} ended during {op!r}", hint="look at its log in the run directory"
            )
        try:
            return msgspec.json.decode(answer, type=dict[str, object])
        except msgspec.DecodeError as error:
            raise ProtocolError(f"{self._name} answered {op!r} with no JSON object") from error

    @staticmethod
    def _result(reply: Json) -> Json:
        if reply.get("ok") is not True:
            problem = reply.get("error")
            raise error_from_json(problem if isinstance(problem, dict) else {})
        result = reply.get("result")
        return result if isinstance(result, dict) else {}

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _encode(about: Json, **answer: object) -> bytes:
    return msgspec.json.encode({**about, **answer})


class Peer:
    """One connection to a server; what belongs to it ends with it."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.on_close: list[Callable[[], None]] = []


class Server:
    """The serving side, on a loop. One request at a time; a bad one gets an error answer."""

    def __init__(self, loop: Loop, handler: Handler, listener: socket.socket | None = None) -> None:
        self._loop = loop
        self._handler = handler
        self._listener = listener
        self._peers: dict[int, Peer] = {}
        if listener is not None:
            listener.setblocking(False)
            loop.watch(listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):  # the caller is gone, or there are too many
            self.adopt(self._listener.accept()[0])

    def adopt(self, channel: socket.socket) -> Peer:
        """Serve a connection that exists already."""
        channel.setblocking(False)
        peer = Peer(channel)
        self._peers[channel.fileno()] = peer
        self._loop.watch(channel, lambda: self._serve(peer))
        return peer

    def _serve(self, peer: Peer) -> None:
        try:
            packet, fds, flags, _ = socket.recv_fds(peer.channel, MAX_PACKET, _MAX_FDS)
        except BlockingIOError:
            return
        except OSError:
            self._drop(peer)
            return
        if not packet:
            self._drop(peer)
            return
        try:
            answer = self._answer(peer, packet, flags, fds)
        finally:
            for fd in fds:
                os.close(fd)
        self._send(peer, *answer)

    def _answer(
        self, peer: Peer, packet: bytes, flags: int, fds: list[int]
    ) -> tuple[bytes, Sequence[int]]:
        about: Json = {}
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise UsageError("the request is too long")
            try:
                request = msgspec.json.decode(packet, type=dict[str, object])
            except msgspec.DecodeError as error:
                raise UsageError(f"the request is no JSON object: {error}") from error
            about = {"id": request.pop("id", None)}
            answer = self._handler(peer, request, fds)
        except HwtpmError as error:
            return _encode(about, ok=False, error=error_to_json(error)), ()
        except Exception as error:
            _LOG.exception("a request failed")
            problem = HwtpmError(f"internal error: {type(error).__name__}: {error}")
            return _encode(about, ok=False, error=error_to_json(problem)), ()
        return _encode(about, ok=True, result=answer.result), answer.fds

    def _send(self, peer: Peer, answer: bytes, fds: Sequence[int]) -> None:
        try:
            socket.send_fds(peer.channel, [answer], list(fds))
        except OSError:  # the caller is gone, or does not read: it loses its connection
            self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        if self._peers.pop(peer.channel.fileno(), None) is None:
            return
        self._loop.unwatch(peer.channel)
        peer.channel.close()
        for ended in peer.on_close:
            ended()

    def close(self) -> None:
        """Hang up on everybody and stop listening."""
        for peer in tuple(self._peers.values()):
            self._drop(peer)
        if self._listener is not None:
            self._loop.unwatch(self._listener)
            self._listener.close()
