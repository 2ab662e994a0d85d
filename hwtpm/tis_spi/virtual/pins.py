"""The pins of a virtual adapter: who drives them, who watches them, what a probe would record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hwtpm.clock import Clock

__all__ = ["Level", "PinEvent", "PinRecorder", "Pins", "Watcher"]

Level: TypeAlias = Callable[[], bool]
"""What a part of the board drives onto a pin now; an open-drain output gives True to let it go."""

Watcher: TypeAlias = Callable[[bool], None]
"""Called with the new level after a change."""


@dataclass(frozen=True, slots=True)
class PinEvent:
    """A pin changed its level."""

    time_s: float
    pin: int
    level: bool


PinRecorder: TypeAlias = Callable[[PinEvent], None]


class Pins:
    """Pins of one port, 0 to 7 for the low byte (xDBUS) and 8 to 15 for the high one (xCBUS).

    A pin that nobody drives reads 1: FTDI's H parts pull their inputs up. The adapter wins where
    adapter and board both drive.
    """

    def __init__(self, clock: Clock, width: int) -> None:
        self.width = width
        self.open_drain = 0
        """Pins that the adapter only pulls low (MPSSE command 0x9E)."""
        self.recorder: PinRecorder | None = None
        self._clock = clock
        self._values = 0
        self._outputs = 0
        self._sources: dict[int, Level] = {}
        self._watchers: defaultdict[int, list[Watcher]] = defaultdict(list)

    def connect(self, pin: int, source: Level) -> None:
        """Let a part of the board drive `pin` from now on; asked whenever the level is needed."""
        self._sources[pin] = source

    def watch(self, pin: int, watcher: Watcher) -> None:
        """Call `watcher` at each edge that the adapter makes on `pin`."""
        self._watchers[pin].append(watcher)

    def level(self, pin: int) -> bool:
        """What a probe on `pin` sees now."""
        bit = 1 << pin
        if self._outputs & bit and not (self.open_drain & bit and self._values & bit):
            return bool(self._values & bit)
        source = self._sources.get(pin)
        return True if source is None else source()

    def is_output(self, pin: int) -> bool:
        """Whether the adapter drives `pin`."""
        return bool(self._outputs >> pin & 1)

    def byte(self, first: int) -> int:
        """Eight levels from pin `first` on; pins the part does not have read 0."""
        pins = range(first, min(first + 8, self.width))
        return sum(self.level(pin) << pin - first for pin in pins)

    def drive(self, first: int, values: int, outputs: int) -> None:
        """Set value and direction (1 is output) of eight pins from `first` on, all at once."""
        pins = range(first, min(first + 8, self.width))
        before = [self.level(pin) for pin in pins]
        kept = ~(0xFF << first)
        self._values = self._values & kept | values << first
        self._outputs = self._outputs & kept | outputs << first
        for pin, was in zip(pins, before, strict=True):
            level = self.level(pin)
            if level != was:
                self._changed(pin, level)

    def hold(self, pin: int, value: bool) -> None:
        """Leave `value` in the output latch after a shift, whose edges its recorder has seen."""
        self._values = self._values & ~(1 << pin) | value << pin

    def release(self) -> None:
        """All pins become inputs: power-on, a mode without MPSSE, or the adapter is unplugged."""
        self.open_drain = 0
        for first in range(0, self.width, 8):
            self.drive(first, 0, 0)

    def _changed(self, pin: int, level: bool) -> None:
        if self.recorder is not None:
            self.recorder(PinEvent(self._clock.now(), pin, level))
        for watcher in self._watchers[pin]:
            watcher(level)
