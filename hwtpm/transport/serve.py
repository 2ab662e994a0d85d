"""A TPM for raw clients: they write a command to a stream socket and read its answer.

Nothing that a client sends, or fails to send, stops the others: frames are collected as they come,
half a frame has a deadline, an answer that is not taken costs its client the connection.
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from hwtpm.loop import Loop
from hwtpm.tpm12.const import MAX_FRAME
from hwtpm.tpm12.frame import HEADER_SIZE, error_response
from hwtpm.tpm12.rc import Rc
from hwtpm.transport.frames import frame_size

__all__ = ["FrameServer"]

_LOG: Final = logging.getLogger(__name__)
_MAX_CLIENTS: Final = 8
_HALF_FRAME_S: Final = 10.0  # for the rest of a command that has begun
_ACCEPT_PAUSE_S: Final = 0.1  # when we ran out of descriptors, which nobody frees in no time
_KEEPALIVE_S: Final = 60


class FrameServer:
    """Serves raw TPM commands on a listening stream socket, one after the other.

    Args:
        loop: what it runs on; commands run there too.
        listener: the socket; stays the caller's.
        execute: answers one whole command frame with one whole response frame; raises nothing.
        exclusive: the client that came first has the TPM until it hangs up, and the others wait;
            one that hangs up while it waits gets nothing of what it sent executed. Otherwise the
            commands of all clients are served in turn.
        most_clients: connections at a time, waiting ones included; more are closed at once.
        half_frame_s: how long the rest of a command may take that has begun.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        execute: Callable[[bytes], bytes],
        *,
        exclusive: bool = False,
        most_clients: int = _MAX_CLIENTS,
        half_frame_s: float = _HALF_FRAME_S,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._execute = execute
        self._exclusive = exclusive
        self._most_clients = most_clients
        self._half_frame_s = half_frame_s
        self._clients: dict[int, _Client] = {}  # in the order in which they came
        self._open = self._accepting = True
        listener.setblocking(False)
        loop.watch(listener, self._accept)

    def close(self) -> None:
        """Hang up on everybody and stop accepting; closing twice is allowed."""
        self._open = False
        for client in tuple(self._clients.values()):
            self._drop(client)
        if self._accepting:
            self._accepting = False
            self._loop.unwatch(self._listener)

    def _accept(self) -> None:
        try:
            channel, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            _LOG.warning("a client cannot be accepted now: %s", error)
            self._loop.unwatch(self._listener)
            self._accepting = False
            self._loop.after(_ACCEPT_PAUSE_S, self._accept_again)
            return
        if len(self._clients) >= self._most_clients:
            _LOG.warning("a client was turned away: there are %d already", len(self._clients))
            channel.close()
            return
        channel.setblocking(False)
        if channel.family != socket.AF_UNIX:
            _set_up_tcp(channel)
        client = _Client(channel)
        first = not self._clients
        self._clients[channel.fileno()] = client
        if first or not self._exclusive:
            self._begin(client)
        else:
            self._loop.watch(channel, lambda: self._drop(client), select.EPOLLRDHUP)

    def _accept_again(self) -> None:
        if self._open:
            self._loop.watch(self._listener, self._accept)
            self._accepting = True

    def _begin(self, client: _Client) -> None:
        client.served = True
        self._loop.watch(client.channel, partial(self._serve, client))

    def _serve(self, client: _Client) -> None:
        """Serve one command at most, so that others get their turn."""
        try:
            command = self._take(client)
        except OSError:
            self._drop(client)
            return
        if command is None:
            return
        if not command:  # where the next command starts is not known any more
            header = client.frame[:HEADER_SIZE].hex()
            _LOG.warning("hung up on a client: %s starts no command", header)
            self._send(client, error_response(Rc.BAD_PARAM_SIZE))
            self._drop(client)
        elif not self._send(client, self._execute(command)):
            self._drop(client)
        elif client.frame:  # what is here already wakes nobody
            self._loop.after(0, partial(self._serve_more, client))

    def _serve_more(self, client: _Client) -> None:
        if self._clients.get(client.channel.fileno()) is client:
            self._serve(client)

    def _take(self, client: _Client) -> bytes | None:
        """The next whole command; empty if its header cannot be one's; None while it is not all
        there.

        Raises:
            OSError: the client is gone.
        """
        frame = client.frame
        size = frame_size(frame)
        while size is not None and not 0 < size <= len(frame):
            try:
                chunk = client.channel.recv(MAX_FRAME)
            except BlockingIOError:
                if frame and client.half is None:
                    client.half = object()
                    expire = partial(self._expire, client, client.half)
                    self._loop.after(self._half_frame_s, expire)
                return None
            if not chunk:
                raise ConnectionResetError
            if not frame and frame_size(chunk) == len(chunk):
                return chunk  # what clients do that wait for their answers
            frame += chunk
            size = frame_size(frame)
        client.half = None
        if size is None:
            return b""
        command = bytes(frame[:size])
        del frame[:size]
        return command

    def _send(self, client: _Client, answer: bytes) -> bool:
        """Whether all of it was taken, without waiting."""
        try:
            return client.channel.send(answer) == len(answer)
        except OSError:
            return False

    def _expire(self, client: _Client, half: object) -> None:
        if client.half is half:
            _LOG.warning(
                "hung up on a client: no rest of its command within %g s", self._half_frame_s
            )
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if self._clients.get(client.channel.fileno()) is not client:
            return
        del self._clients[client.channel.fileno()]
        client.half = None
        self._loop.unwatch(client.channel)
        client.channel.close()
        if self._open and client.served and self._exclusive and self._clients:
            following = next(iter(self._clients.values()))
            self._loop.unwatch(following.channel)
            self._begin(following)


@dataclass(eq=False)
class _Client:
    """`half` is a token while a frame has begun and is not whole."""

    channel: socket.socket
    frame: bytearray = field(default_factory=bytearray)
    half: object | None = None
    served: bool = False


def _set_up_tcp(channel: socket.socket) -> None:
    """Answers leave at once; a client whose machine is gone does not keep the TPM."""
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
