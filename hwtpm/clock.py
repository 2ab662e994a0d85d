"""Time as a dependency: the real clock, and one that tests turn by hand."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Clock", "FakeClock", "RealClock"]


class Clock(Protocol):
    """A monotonic clock in seconds and a way to let time pass."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Return after at least `duration_s` seconds of this clock."""
        ...


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, duration_s: float) -> None:
        time.sleep(duration_s)


@dataclass
class FakeClock:
    """A clock that only moves when somebody sleeps on it; keeps what was slept."""

    time_s: float = 0.0
    slept_s: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time_s

    def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.time_s += max(duration_s, 0.0)
