"""A small QMP client: one command at a time, each with a deadline.

Source: QEMU Machine Protocol Specification (QEMU's docs/interop/qmp-spec): JSON objects, one a
line; a greeting, then `qmp_capabilities`, then commands; events may come in between.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

import msgspec

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import ProtocolError, Timeout

__all__ = ["Qmp"]

LINE_LIMIT: Final = 1 << 20  # bytes of one message; QEMU's longest are some tens of kilobytes


class Qmp:
    """A QMP session over a connected stream socket, which the session owns from now on."""

    def __init__(
        self, channel: socket.socket, *, timeout_s: float = 10.0, clock: Clock | None = None
    ) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._clock = clock or RealClock()
        self._buffer = bytearray()
        self._number = 0

    def close(self) -> None:
        """Close the socket."""
        self._channel.close()

    def negotiate(self) -> None:
        """Read the greeting and enter command mode; once, before anything else.

        Raises:
            Timeout, ProtocolError: the peer is silent, gone, or no QMP server.
        """
        greeting = self._receive(self._clock.now() + self._timeout_s, "greeting")
        if "QMP" not in greeting:
            raise ProtocolError(f"QMP: expected a greeting, got {str(greeting)[:200]}")
        self.execute("qmp_capabilities")

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> object:
        """Run `command` and give its return value.

        Events that come meanwhile are dropped, as is the late answer to an earlier command.

        Raises:
            ProtocolError: QEMU refused it, hung up, or sent no QMP.
            Timeout: no answer within `timeout_s` seconds (default: the session's).
        """
        deadline = self._clock.now() + (self._timeout_s if timeout_s is None else timeout_s)
        self._number += 1
        message: dict[str, object] = {"execute": command, "id": self._number}
        if arguments is not None:
            message["arguments"] = arguments
        self._send(msgspec.json.encode(message) + b"\n", deadline, command)
        while True:
            answer = self._receive(deadline, command)
            if answer.get("id", self._number) != self._number:
                continue
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise ProtocolError(f"QEMU refused {command}: {str(answer['error'])[:500]}")

    def _send(self, line: bytes, deadline: float, command: str) -> None:
        try:
            self._channel.settimeout(self._left(deadline, command))
            self._channel.sendall(line)
        except TimeoutError as error:
            raise _silent(command) from error
        except OSError as error:
            raise ProtocolError(f"QEMU is gone ({error}); command {command}") from error

    def _receive(self, deadline: float, command: str) -> dict[str, object]:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_LIMIT:
                raise ProtocolError(f"QMP: more than {LINE_LIMIT} bytes without a line's end")
            try:
                self._channel.settimeout(self._left(deadline, command))
                data = self._channel.recv(65536)
            except TimeoutError as error:
                raise _silent(command) from error
            except OSError as error:
                raise ProtocolError(f"QEMU is gone ({error}); command {command}") from error
            if not data:
                raise ProtocolError(f"QEMU hung up; command {command}")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return msgspec.json.decode(line, type=dict[str, object])
        except msgspec.DecodeError as error:
            raise ProtocolError(f"QMP: {error}: {line[:200]!r}") from error

    def _left(self, deadline: float, command: str) -> float:
        if (left_s := deadline - self._clock.now()) <= 0:
            raise _silent(command)
        return left_s


def _silent(command: str) -> Timeout:
    return Timeout(
        f"QEMU did not answer {command} in time",
        hint="QEMU freezes while its vTPM leaves a control request unanswered: look at the vTPM",
    )
