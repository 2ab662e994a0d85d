"""RSA keys made ahead by a process of its own, so that nobody waits for prime numbers.

The pool is a socket that the process fills. The kernel gives each message on it to exactly one
reader: no key is used twice, whichever processes share the pool and whenever one of them is forked
or killed. Nothing is written to disk; what nobody took is gone when the last reader closes.

Whoever holds the descriptor is trusted: it could look at keys and leave them for others (MSG_PEEK).
vTPMs that must not trust each other's processes do without a pool.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from hwtpm.errors import Busy
from hwtpm.softtpm.engine.rsa import generate, primes_of, private_from_primes
from hwtpm.tpm12.const import DEFAULT_EXPONENT

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

__all__ = ["KeyPool"]

_BITS: Final = 2048  # EK, SRK, identities and storage keys: what takes long
_PRIME_SIZE: Final = _BITS // 16
_PR_SET_DUMPABLE: Final = 4
_SEND_BUFFER: Final = 4608  # the kernel's least: some six keys


class KeyPool:
    """Ready keys of 2048 bits.

    Every process that has the pool's descriptor may take keys, forked children included; the filler
    ends with the process that opened the pool, or when nobody reads any more.

    Raises:
        Busy: the host does not let another process start.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        with contextlib.ExitStack() as opened:
            try:
                pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._readers, writer = (opened.enter_context(end) for end in pair)
                writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
                self._filler = subprocess.Popen(
                    [sys.executable, "-P", "-m", "hwtpm.softtpm.keypool", str(writer.fileno())],
                    pass_fds=[writer.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
            except OSError as error:
                raise Busy(
                    f"cannot start the process that makes keys: {error.strerror}",
                    hint="the host has no room for it; keys can be made without a pool",
                ) from error
            opened.pop_all()
            writer.close()

    def fileno(self) -> int:
        """The descriptor that a child needs in order to take keys."""
        return self._readers.fileno()

    @property
    def filler_pid(self) -> int:
        """The process that makes the keys."""
        return self._filler.pid

    def take(self, bits: int) -> RSAPrivateKey | None:
        """A key that nobody else has or will get; None if there is none of that size now, or
        what there is is no key."""
        if bits != _BITS:
            return None
        try:
            # Not by O_NONBLOCK, which another process that shares the socket could take away. One
            # byte more than a key has, so that longer messages are not mistaken for one.
            primes = self._readers.recv(2 * _PRIME_SIZE + 1, socket.MSG_DONTWAIT)
        except OSError:  # nothing there; or the filler died with something unread
            return None
        if len(primes) != 2 * _PRIME_SIZE:  # the filler has ended
            return None
        p, q = (int.from_bytes(primes[at : at + _PRIME_SIZE], "big") for at in (0, _PRIME_SIZE))
        if (p * q).bit_length() != bits or p == q or not (_is_prime(p) and _is_prime(q)):
            return None
        return private_from_primes(p, q)

    def reap(self) -> int:
        """Wait for the filler's end; its exit code, negative for a signal."""
        return self._filler.wait()

    def close(self) -> None:
        """Give up the pool. The filler ends if this is the process that started it."""
        self._readers.close()
        if os.getpid() == self._owner:
            self._filler.terminate()
            self._filler.wait()


def _is_prime(number: int) -> bool:
    """False (by Fermat) for what is no prime, and for one that goes with no key of exponent e."""
    return number % DEFAULT_EXPONENT != 1 and pow(2, number - 1, number) == 1


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
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no core dumps, no ptrace: it has keys
    with contextlib.suppress(OSError):
        os.nice(10)
    _fill(socket.socket(fileno=int(sys.argv[1])))
