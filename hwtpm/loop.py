"""A small event loop: descriptors with callbacks, and timers, in one thread."""

from __future__ import annotations

import heapq
import itertools
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from hwtpm.clock import Clock, RealClock

__all__ = ["Loop"]


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class Loop:
    """Runs callbacks when descriptors become readable and when timers expire."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or RealClock()
        # epoll itself: the selectors module on top costs a quarter of a light command's time.
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._running = False

    def watch(
        self,
        source: _HasFileno | int,
        callback: Callable[[], None],
        events: int = select.EPOLLIN,
    ) -> None:
        """Call `callback` whenever `source` is readable, or has others of epoll's `events`."""
        fd = _number(source)
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def unwatch(self, source: _HasFileno | int) -> None:
        """Stop watching; before `source` is closed."""
        fd = _number(source)
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def after(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `delay_s` seconds from now."""
        due = self._clock.now() + delay_s
        heapq.heappush(self._timers, (due, next(self._numbers), callback))

    def stop(self) -> None:
        """Make `run` return after the callbacks that are due now."""
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        self._running = True
        while self._running:
            self.turn(None)

    @contextmanager
    def stopped_by(self, *numbers: signal.Signals) -> Iterator[None]:
        """Have these signals do what `stop` does; only in the main thread.

        A callback that is under way comes to its end first.
        """
        waker, wakened = socket.socketpair()
        with waker, wakened:
            waker.setblocking(False)
            before = {number: signal.signal(number, lambda *_: None) for number in numbers}
            previous = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            self.watch(wakened, self.stop)
            try:
                yield
            finally:
                self.unwatch(wakened)
                signal.set_wakeup_fd(previous)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def turn(self, timeout_s: float | None) -> None:
        """Wait at most `timeout_s` for something to happen and run its callbacks."""
        if self._timers:
            until = max(0.0, self._timers[0][0] - self._clock.now())
            timeout_s = until if timeout_s is None else min(timeout_s, until)
        callbacks = self._callbacks
        ready = [(fd, callbacks[fd]) for fd, _ in self._epoll.poll(timeout_s)]
        for fd, callback in ready:
            # An earlier callback of this turn may have stopped watching this one.
            if callbacks.get(fd) is callback:
                callback()
        while self._timers and self._timers[0][0] <= self._clock.now():
            heapq.heappop(self._timers)[2]()

    def close(self) -> None:
        """Forget all descriptors; they stay open."""
        self._callbacks.clear()
        self._epoll.close()


def _number(source: _HasFileno | int) -> int:
    return source if isinstance(source, int) else source.fileno()
