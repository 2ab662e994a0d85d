"""RSA keys made ahead by a process of its own, so that nobody waits for prime numbers.

The pool is a socket that the process fills. The kernel gives each message on it to exactly one
reader: no key is used twice, whichever processes share the pool and whenever one of them is forked
or killed. Nothing is written to disk; what nobody took is gone when the last reader closes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from hwtpm.errors import Busy
from hwtpm.softtpm.engine.rsa import generate, primes_of, private_from_primes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

__all__ = ["KeyPool"]

_BITS: Final = 2048  # EK, SRK, identities and storage keys: what takes long
_PRIME_SIZE: Final = _BITS // 16
_SEND_BUFFER: Final = 4608  # the kernel's least: some six keys


class KeyPool:
    """Ready keys of 2048 bits.

    Every process that has the pool's descriptor may take keys, forked children included; the filler
    ends with the process that opened the pool, or when nobody reads any more.

    Raises:
        Busy: the host does not let another process start.
    """

    def __init__(self) -> None:
        self._readers, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._readers.setblocking(False)
        self._owner = os.getpid()
        with writer:
            writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            try:
                self._filler = subprocess.Popen(
                    [sys.executable, "-P", "-m", "hwtpm.softtpm.keypool", str(writer.fileno())],
                    pass_fds=[writer.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            except OSError as error:
                self._readers.close()
                raise Busy(
                    f"cannot start the process that makes keys: {error.strerror}",
                    hint="the host has no room for it; keys can be made without a pool",
                ) from error

    def fileno(self) -> int:
        """The descriptor that a child needs in order to take keys."""
        return self._readers.fileno()

    @property
    def filler_pid(self) -> int:
        """The process that makes the keys."""
        return self._filler.pid

    def take(self, bits: int) -> RSAPrivateKey | None:
        """A key that nobody else has or will get; None if there is none of that size now."""
        if bits != _BITS:
            return None
        try:
            primes = self._readers.recv(2 * _PRIME_SIZE)
        except BlockingIOError:
            return None
        if len(primes) != 2 * _PRIME_SIZE:  # the filler has ended
            return None
        p, q = primes[:_PRIME_SIZE], primes[_PRIME_SIZE:]
        return private_from_primes(int.from_bytes(p, "big"), int.from_bytes(q, "big"))

    def close(self) -> None:
        """Give up the pool. The filler ends if this is the process that started it."""
        self._readers.close()
        if os.getpid() == self._owner:
            self._filler.terminate()
            self._filler.wait()


def _fill(writer: socket.socket) -> None:
    """Make keys until all readers are gone."""
    while True:
        p, q = primes_of(generate(_BITS))
        key = p.to_bytes(_PRIME_SIZE, "big") + q.to_bytes(_PRIME_SIZE, "big")
        try:
            writer.send(key)
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool's owner decides
    with contextlib.suppress(OSError):
        os.nice(10)
    _fill(socket.socket(fileno=int(sys.argv[1])))
