"""The process of `oracle.Oracle`: libtpms with a random number generator that repeats.

Messages in both directions are a length of 4 bytes and so many bytes; a request starts with a
letter. Run with the seed as its argument.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.libtpms import LibtpmsTpm

_Fill = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_int)
_Status = ctypes.CFUNCTYPE(ctypes.c_int)


class _RandMethod(ctypes.Structure):
    """RAND_METHOD of OpenSSL (rand.h): seed, bytes, cleanup, add, pseudorand, status."""

    _fields_ = (
        ("seed", ctypes.c_void_p),
        ("bytes", _Fill),
        ("cleanup", ctypes.c_void_p),
        ("add", ctypes.c_void_p),
        ("pseudorand", _Fill),
        ("status", _Status),
    )


class Stream:
    """All that libtpms' library calls random: SHA-1 of the seed and a counter."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0
        self._left = b""
        self._method = _RandMethod(
            None, _Fill(self._fill), None, None, _Fill(self._fill), _Status(lambda: 1)
        )

    def install(self) -> None:
        """Replace the generator of the OpenSSL that libtpms uses (not that of `cryptography`)."""
        crypto = ctypes.CDLL("libcrypto.so.3")
        crypto.RAND_set_rand_method(ctypes.byref(self._method))

    def restart(self) -> None:
        self._count, self._left = 0, b""

    def _fill(self, buffer: ctypes.Array[ctypes.c_ubyte], size: int) -> int:
        while len(self._left) < size:
            self._left += hashlib.sha1(self._seed + self._count.to_bytes(8, "big")).digest()
            self._count += 1
        ctypes.memmove(buffer, self._left[:size], size)
        self._left = self._left[size:]
        return 1


def _receive(source: BinaryIO) -> bytes | None:
    head = source.read(4)
    return source.read(struct.unpack(">I", head)[0]) if len(head) == 4 else None


def main() -> None:
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libtpms may print
    stream = Stream(bytes.fromhex(sys.argv[1]))
    stream.install()
    storage = MemoryStorage()
    tpm = LibtpmsTpm(storage)

    def power_on(state: bytes) -> bytes:
        if state:
            storage.blobs = {StateName.PERMANENT: state}
        stream.restart()
        tpm.power_on()
        return b""

    handlers: dict[bytes, Callable[[bytes], bytes]] = {
        b"P": power_on,
        b"X": lambda command: tpm.execute(command[1:], command[0]),
        b"S": lambda _: storage.blobs[StateName.PERMANENT],
    }
    while (request := _receive(requests)) is not None:
        answer = handlers[request[:1]](request[1:])
        answers.write(struct.pack(">I", len(answer)) + answer)
        answers.flush()
    # OpenSSL would call the generator once more while the interpreter is taken down.
    os._exit(0)


if __name__ == "__main__":
    main()
