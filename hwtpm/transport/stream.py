"""TPMs behind stream sockets: raw commands, no framing but the TPM's own."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import (
    AccessDenied,
    BusError,
    Busy,
    DeviceNotFound,
    HwtpmError,
    ProtocolError,
    Timeout,
    UsageError,
)
from hwtpm.transport.base import Attached
from hwtpm.transport.deadlines import Deadlines
from hwtpm.transport.frames import check_command, missing

__all__ = ["CONNECT_TIMEOUT_S", "StreamTransport", "connect_tcp", "connect_unix"]

CONNECT_TIMEOUT_S: Final = 5.0

_UNKNOWN_END: Final = "raw commands on a {kind} socket; what answers there is not known"


class StreamTransport:
    """A connected socket with a TPM at its other end.

    After a lost, late or malformed answer the stream has no known position any more, so that every
    further command fails: open the address again.
    """

    def __init__(
        self,
        connection: socket.socket,
        attached: Attached,
        *,
        deadlines: Deadlines | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._socket = connection
        self._attached = attached
        self._deadlines = deadlines or Deadlines()
        self._clock = clock or RealClock()
        self._usable = True

    @property
    def attached(self) -> Attached:
        """The socket's address; never real hardware, because that cannot be known here."""
        return self._attached

    def execute(self, command: bytes) -> bytes:
        """See `Transport.execute`.

        Raises:
            UsageError: `command` is no TPM frame, or the transport is closed or lost.
            BusError: the connection is lost.
            ProtocolError: the answer is cut short, or cannot be one.
            Timeout: no whole answer within the command's deadline.
        """
        address = self._attached.address
        check_command(command, address)
        if not self._usable:
            raise UsageError(f"{address}: closed, or lost by an earlier error", hint="open it anew")
        wait_s = self._deadlines.of(command)
        try:
            self._expect_silence()
            response = self._exchange(command, self._clock.now() + wait_s)
        except TimeoutError as error:
            self.close()
            raise Timeout(
                f"{address}: no whole answer to {command[:10].hex()} within {wait_s:g} s",
                hint="see whether the TPM behind that socket is alive, or another client has it",
            ) from error
        except OSError as error:
            self.close()
            raise BusError(
                f"{address}: the connection is lost: {error.strerror or error}",
                hint="see whether the TPM behind that socket is alive, then open it anew",
            ) from error
        except BaseException:
            self.close()
            raise
        return response

    def close(self) -> None:
        """See `Transport.close`."""
        self._usable = False
        self._socket.close()

    def _expect_silence(self) -> None:
        """Nothing may have come unasked: it would be taken for the answer."""
        self._socket.setblocking(False)
        try:
            early = self._socket.recv(1)
        except BlockingIOError:
            return
        if not early:
            raise ConnectionResetError("the other end has closed it")
        raise ProtocolError(
            f"{self._attached.address}: bytes came that nobody asked for",
            hint="is what listens there a TPM that takes raw commands?",
        )

    def _exchange(self, command: bytes, deadline: float) -> bytes:
        self._socket.settimeout(self._left(deadline))
        self._socket.sendall(command)
        response = bytearray()
        while wanted := missing(response, self._attached.address):
            self._socket.settimeout(self._left(deadline))
            chunk = self._socket.recv(wanted)
            if not chunk:
                raise ProtocolError(
                    f"{self._attached.address}: the answer ends after {len(response)} bytes,"
                    f" {wanted} more were due",
                    hint="the other end closed the connection; see its log",
                )
            response += chunk
        return bytes(response)

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock.now()
        if left <= 0:
            raise TimeoutError
        return left


def connect_unix(
    address: str,
    path: Path,
    *,
    deadlines: Deadlines | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> StreamTransport:
    """Connect to the TPM that listens on a unix socket.

    Raises:
        DeviceNotFound: there is no such socket, or nobody listens on it.
        AccessDenied: its permissions forbid it.
        Busy: it takes no more connections now.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise _unix_error(error, address, path) from error
    attached = Attached(address, "unix", False, _UNKNOWN_END.format(kind="unix"))
    return StreamTransport(connection, attached, deadlines=deadlines)


def connect_tcp(
    address: str,
    host: str,
    port: int,
    *,
    deadlines: Deadlines | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> StreamTransport:
    """Connect to the TPM that listens on a TCP port.

    Raises:
        DeviceNotFound: the host is unknown or unreachable, or nobody listens there.
    """
    try:
        connection = socket.create_connection((host, port), timeout_s)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DeviceNotFound(
            f"{address}: cannot connect: {reason}",
            hint="start the TPM that should listen there, or correct the host and port",
        ) from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    attached = Attached(address, "tcp", False, _UNKNOWN_END.format(kind="TCP"))
    return StreamTransport(connection, attached, deadlines=deadlines)


def _unix_error(error: OSError, address: str, path: Path) -> HwtpmError:
    match error:
        case FileNotFoundError():
            return DeviceNotFound(
                f"{address}: there is no {path}", hint="start the TPM that makes this socket"
            )
        case ConnectionRefusedError():
            return DeviceNotFound(
                f"{address}: nobody listens on {path}",
                hint="start the TPM that should; the socket is left over from an earlier one",
            )
        case PermissionError():
            return AccessDenied(
                f"{address}: no permission to connect to {path}",
                hint="ask its owner for write permission on the socket",
            )
        case TimeoutError() | BlockingIOError():
            return Busy(
                f"{address}: {path} takes no connection now",
                hint="end the client that uses this TPM, or wait for it",
            )
    return DeviceNotFound(
        f"{address}: cannot connect to {path}: {error.strerror or error}",
        hint="name a unix socket that a TPM listens on",
    )
