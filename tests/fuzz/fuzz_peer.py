"""libtpms in a child process: it may crash there, and its one TPM a process is no limit.

Its random numbers come from a stream that follows from a name, so that a run can be repeated.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import socket
import struct
from typing import Final

from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.libtpms import LibtpmsTpm

__all__ = ["ForkedLibtpms", "PeerDied"]

_HEAD: Final = struct.Struct(">BI")
_POWER, _FRESH = 0xFE, 0xFF  # a locality otherwise


class PeerDied(Exception):
    """The child has crashed on a command; the next `fresh` starts another one."""


class ForkedLibtpms:
    """A TPM that `fresh` gives its state."""

    description = "libtpms"

    def __init__(self) -> None:
        self._pid = 0
        self._socket: socket.socket | None = None

    def fresh(self, name: bytes, permanent: bytes) -> None:
        """Powered on with libtpms' permanent state; all that is random from now on follows from
        `name`."""
        if self._socket is None:
            self._spawn()
        self._ask(_FRESH, struct.pack(">B", len(name)) + name + permanent)

    def power_on(self) -> None:
        """A power cycle."""
        self._ask(_POWER, b"")

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        return self._ask(locality, command)

    def close(self) -> None:
        """End the child."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _ask(self, what: int, data: bytes) -> bytes:
        assert self._socket is not None
        try:
            self._socket.send(_HEAD.pack(what, len(data)) + data)
            answer = self._socket.recv(1 << 16)
        except ConnectionResetError:
            answer = b""
        if not answer:
            self.close()
            raise PeerDied
        return answer

    def _spawn(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _serve(theirs)
            os._exit(0)
        theirs.close()


class _Random:
    """The random numbers of this process's OpenSSL (RAND_set_rand_method(3)): a hash stream."""

    _Bytes = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_int)
    _Status = ctypes.CFUNCTYPE(ctypes.c_int)

    def __init__(self) -> None:
        self.name = b""
        self._count = 0
        fill = self._Bytes(self._fill)
        self._method = (ctypes.c_void_p * 6)(
            None,
            ctypes.cast(fill, ctypes.c_void_p),
            None,
            None,
            ctypes.cast(fill, ctypes.c_void_p),
            ctypes.cast(status := self._Status(lambda: 1), ctypes.c_void_p),
        )
        self._kept = fill, status
        ctypes.CDLL("libcrypto.so.3").RAND_set_rand_method(self._method)

    def restart(self, name: bytes) -> None:
        self.name, self._count = name, 0

    def _fill(self, where: ctypes._Pointer[ctypes.c_ubyte], size: int) -> int:
        self._count += 1
        stream = hashlib.shake_256(b"%s/%d" % (self.name, self._count))
        ctypes.memmove(where, stream.digest(size), size)
        return 1


def _serve(commands: socket.socket) -> None:
    storage = MemoryStorage()
    tpm = LibtpmsTpm(storage)
    random = _Random()
    while message := commands.recv(1 << 16):
        what, _ = _HEAD.unpack_from(message)
        data = message[_HEAD.size :]
        if what == _FRESH:
            end = 1 + data[0]
            storage.blobs = {StateName.PERMANENT: data[end:]}
            random.restart(data[1:end])
        if what in (_FRESH, _POWER):
            tpm.power_on()
            commands.send(b"on")
        else:
            commands.send(tpm.execute(data, what))
