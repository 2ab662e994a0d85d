"""The local platform: a tpmif ring between two processes of one Linux host, without Xen.

The shared page is a sealed memfd in the place of a grant, and each event channel is a pipe. The
three descriptors reach the other process by inheritance or over a Unix socket (SCM_RIGHTS).

Flags such as O_NONBLOCK belong to an open file, which both processes share: a hostile peer may
clear them. So each end opens its doorbells anew, which a pipe allows and an eventfd does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import socket
import stat
from types import TracebackType
from typing import NamedTuple, Self

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import AccessDenied, Busy, HwtpmError, ProtocolError, Timeout
from vstack.xen.ring import PAGE_SIZE, BackRing, Cancelled, FrontRing, Request

__all__ = ["BackEnd", "FrontEnd", "LocalRing", "RingFds", "receive_fds", "send_fds"]

DEFAULT_TIMEOUT_S = 300.0  # TPM 1.2 commands that make a key may take minutes on a chip
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class RingFds(NamedTuple):
    """The descriptors of one ring: the shared page, and the doorbell of each end."""

    page: int
    to_back: int
    to_front: int


def send_fds(channel: socket.socket, fds: RingFds) -> None:
    """Pass the ring to the process at the other end of a Unix socket."""
    socket.send_fds(channel, [b"tpmif2"], list(fds))


def receive_fds(channel: socket.socket) -> RingFds:
    """Take the ring that `send_fds` passed; the descriptors are the caller's to close.

    Raises:
        ProtocolError: something else came.
    """
    message, fds, _, _ = socket.recv_fds(channel, 16, 8)
    if message != b"tpmif2" or len(fds) != len(RingFds._fields):
        for fd in fds:
            os.close(fd)
        raise ProtocolError(
            f"expected a tpmif ring of three descriptors, got {len(fds)} and {message!r}"
        )
    return RingFds(*fds)


class LocalRing:
    """A new ring: owner of its descriptors until `close`; the two ends keep their own copies."""

    def __init__(self, fds: RingFds) -> None:
        self.fds = fds

    @classmethod
    def create(cls) -> LocalRing:
        """Make the page (idle) and the doorbells; all descriptors are close-on-exec."""
        page = os.memfd_create("tpmif", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(page, PAGE_SIZE)
        fcntl.fcntl(page, fcntl.F_ADD_SEALS, _SEALS)
        return cls(RingFds(page, _make_bell(), _make_bell()))

    def close(self) -> None:
        """Close the creator's descriptors; ends that exist go on."""
        for fd in self.fds:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _End:
    """What both ends have: the mapped page, the bell they hear and the bell they ring."""

    def __init__(self, page: int, hears: int, rings: int) -> None:
        # Without the seals a peer could cut the file short, and reading the page would be SIGBUS.
        if fcntl.fcntl(page, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ProtocolError("tpmif ring: the shared page's size is not sealed")
        if os.fstat(page).st_size != PAGE_SIZE:
            raise ProtocolError(f"tpmif ring: the shared page is not {PAGE_SIZE} bytes long")
        self._map = mmap.mmap(page, PAGE_SIZE)
        self._view = memoryview(self._map)
        self._hears = _open_bell(hears)
        self._rings = _open_bell(rings)

    def fileno(self) -> int:
        """Readable when the other end has rung; for selectors."""
        return self._hears

    def close(self) -> None:
        """Unmap the page and close this end's descriptors."""
        self._view.release()
        self._map.close()
        os.close(self._hears)
        os.close(self._rings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ring_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full bell has been rung already
            os.write(self._rings, b"!")

    def _silence_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._hears, PAGE_SIZE)


class FrontEnd(_End):
    """The end that executes commands; a transport of the one-method shape. Not for two threads.

    `lifeline` is a socket to the back end's process: when that hangs up, waiting is over. Without
    it a command waits out its time, for a back end that may be started again on the same page.
    """

    def __init__(
        self, fds: RingFds, *, lifeline: int | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(fds.page, hears=fds.to_front, rings=fds.to_back)
        self._ring = FrontRing(self._view)
        self._clock = clock or RealClock()
        self._heard = select.poll()
        self._heard.register(self._hears, select.POLLIN)
        if lifeline is not None:
            self._heard.register(lifeline, select.POLLRDHUP)

    def close(self) -> None:
        """Unmap the page and close this end's descriptors."""
        del self._ring
        super().close()

    def execute(
        self, command: bytes, locality: int = 0, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> bytes:
        """Have the back end answer `command` at `locality`.

        Waits first, within the same deadline, for a back end that still works on a command that
        was given up; that command's late answer is dropped.

        Raises:
            UsageError: the command does not fit in the page, or there is no such locality.
            Timeout: no answer within `timeout_s` seconds; the command is cancelled.
            Busy: an earlier, cancelled command still occupies the back end at the deadline.
            ProtocolError: the back end cancelled the command or broke the ring's rules.
        """
        deadline = self._clock.now() + timeout_s
        while not self._ring.ready:
            if not self._wait(deadline):
                raise Busy(
                    f"tpmif ring: the back end has not released the page for {timeout_s} s",
                    hint="the back end is busy with a cancelled command, or gone: restart it",
                )
        self._ring.submit(command, locality)
        self._ring_bell()
        try:
            while (answer := self._ring.poll()) is None:
                if not self._wait(deadline):
                    raise Timeout(
                        f"tpmif ring: no answer to a command of {len(command)} bytes "
                        f"within {timeout_s} s; cancelled it"
                    )
        except BaseException:
            self._ring.cancel()
            self._ring_bell()
            raise
        if isinstance(answer, Cancelled):
            raise ProtocolError("tpmif ring: the back end cancelled the command")
        return answer

    def reset(self) -> None:
        """Take over from a front end that went away: cancel what it may have left in the page."""
        self._ring.reset()
        self._ring_bell()

    def _wait(self, deadline: float) -> bool:
        """Until the back end rings (True) or the deadline passes (False).

        Spinning on the state byte before this was measured (2 cores): it wins 40 us when the answer
        takes under 30 us and both cores are free, and loses 20-35 us and the core's time else.
        """
        left_s = deadline - self._clock.now()
        if left_s <= 0 or not (ready := self._heard.poll(left_s * 1000)):
            return False
        if all(fd != self._hears for fd, _ in ready):
            raise ProtocolError(
                "tpmif ring: the back end's process has ended",
                hint="look at its log; it is usually started again by itself",
            )
        self._silence_bell()
        return True


class BackEnd(_End):
    """The end that answers: when `fileno` is readable, `take`; later `finish`, once per request."""

    def __init__(self, fds: RingFds) -> None:
        super().__init__(fds.page, hears=fds.to_back, rings=fds.to_front)
        self._ring = BackRing(self._view)
        # An earlier back end may have heard the bell and died: hear it again.
        with contextlib.suppress(BlockingIOError):
            os.write(self._hears, b"!")

    def close(self) -> None:
        """Unmap the page and close this end's descriptors; an open request stays in the page."""
        del self._ring
        super().close()

    @property
    def cancel_requested(self) -> bool:
        """The front end gave up the open request, which still has to be finished."""
        return self._ring.cancel_requested

    def take(self) -> Request | None:
        """The next request, or None if there is none or one is still open. Never waits.

        Raises:
            ProtocolError: the request was malformed; it has been refused and the ring goes on.
        """
        self._silence_bell()
        try:
            event = self._ring.poll()
        except HwtpmError:
            self._ring_bell()
            raise
        if isinstance(event, Cancelled):
            self._ring_bell()
            return None
        return event

    def finish(self, response: bytes) -> None:
        """Answer the request that was taken.

        Raises:
            UsageError: none was taken; or the response does not fit, and the request stays open.
        """
        self._ring.finish(response)
        self._ring_bell()


def _make_bell() -> int:
    reading, writing = os.pipe()
    try:
        return _open_bell(reading)
    finally:
        os.close(reading)
        os.close(writing)


def _open_bell(fd: int) -> int:
    """The pipe `fd`, opened once more: both its ends in one, never blocking."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        raise ProtocolError("tpmif ring: a doorbell is no pipe")
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AccessDenied(
            f"tpmif ring: cannot open a doorbell: {error.strerror}", hint="/proc has to be mounted"
        ) from error
