"""The pins of a virtual adapter: who drives them, who watches them, what a probe would record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
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
        self._clock = clock
        self._recorder: PinRecorder | None = None
        self._recorded: dict[int, bool] = {}
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

    def record(self, recorder: PinRecorder | None) -> None:
        """Tell `recorder` all levels now and every change from now on.

        What the adapter drives is told when it happens, what the board drives when the adapter
        looks at that pin or drives another one.
        """
        self._recorder = recorder
        self._recorded.clear()
        self._sample(range(self.width))

    @property
    def recording(self) -> bool:
        """Whether somebody wants to know about edges."""
        return self._recorder is not None

    def tell(self, pin: int, level: bool, time_s: float) -> None:
        """The level of `pin` at `time_s`, for the recorder if it is a new one."""
        if self._recorder is not None and self._recorded.get(pin) != level:
            self._recorded[pin] = level
            self._recorder(PinEvent(time_s, pin, level))

    def level(self, pin: int) -> bool:
        """What a probe on `pin` sees now."""
        bit = 1 << pin
        if self._outputs & bit and not (self.open_drain & bit and self._values & bit):
            return bool(self._values & bit)
        source = self._sources.get(pin)
        level = True if source is None else source()
        self.tell(pin, level, self._clock.now())
        return level

    def is_output(self, pin: int) -> bool:
        """Whether the adapter drives `pin`."""
        return bool(self._outputs >> pin & 1)

    def byte(self, first: int) -> int:
        """Eight levels from pin `first` on; pins the part does not have read 0."""
        pins = range(first, min(first + 8, self.width))
        return sum(self.level(pin) << pin - first for pin in pins)

    def drive(self, first: int, values: int, outputs: int) -> None:
        """Set value and direction (1 is output) of eight pins from `first` on, all at once."""
        kept = ~(0xFF << first)
        new_values = self._values & kept | values << first
        new_outputs = self._outputs & kept | outputs << first
        touched = (new_values ^ self._values) | (new_outputs ^ self._outputs)
        pins = [pin for pin in range(self.width) if touched >> pin & 1]
        before = [self.level(pin) for pin in pins]
        self._values, self._outputs = new_values, new_outputs
        if self.recording:
            self._sample([*pins, *self._sources])
        for pin, was in zip(pins, before, strict=True):
            level = self.level(pin)
            if level != was:
                for watcher in self._watchers[pin]:
                    watcher(level)

    def hold(self, pin: int, value: bool) -> None:
        """Leave `value` in the output latch after a shift, whose edges its recorder has seen."""
        self._values = self._values & ~(1 << pin) | value << pin

    def release(self) -> None:
        """All pins become inputs: power-on, a mode without MPSSE, or the adapter is unplugged."""
        self.open_drain = 0
        for first in range(0, self.width, 8):
            self.drive(first, 0, 0)

    def _sample(self, pins: Iterable[int]) -> None:
        now_s = self._clock.now()
        for pin in pins:
            self.tell(pin, self.level(pin), now_s)
