"""Dictionary-attack defence: after a few wrong authorisations, waits that double each time.

The count is part of the permanent state, so unlike libtpms' a restart does not reset it; the wait
itself starts again at power-on, because the TPM has no clock that runs without power.
"""

from __future__ import annotations

from typing import Final

from hwtpm.clock import Clock

__all__ = ["THRESHOLD", "Lockout"]

THRESHOLD: Final = 5
_MAX_COUNT: Final = THRESHOLD + 9
"""Where the count stops: the wait is then 2**8 s. Slow enough for guesses at 160 bits, and short
enough that somebody who only wants to lock others out does not keep a guest from booting."""


class Lockout:
    """When the TPM refuses authorised commands."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s = 0.0
        self._reset_blocked = False

    def failed(self, count: int) -> int:
        """The new count after one more failure; starts the wait if it is past the threshold."""
        if not self.active(count):
            self._reset_blocked = False
        count = min(count + 1, _MAX_COUNT)
        self.resume(count)
        return count

    def resume(self, count: int) -> None:
        """Start the wait that belongs to `count` failures."""
        over = count - THRESHOLD - 1
        self._until_s = self._clock.now() + (1 << over) if over >= 0 else 0.0

    def block_reset(self) -> None:
        """Refuse TPM_ResetLockValue until the wait is over: its authorisation was wrong."""
        self._reset_blocked = True

    def reset_blocked(self, count: int) -> bool:
        """True while TPM_ResetLockValue is refused too."""
        return self._reset_blocked and self.active(count)

    @property
    def wait_us(self) -> int:
        """Microseconds until the wait is over."""
        return max(0, int((self._until_s - self._clock.now()) * 1_000_000))

    @property
    def is_reset_blocked(self) -> bool:
        """True if TPM_ResetLockValue is refused for as long as the wait lasts."""
        return self._reset_blocked

    def go_on(self, wait_us: int, *, reset_blocked: bool) -> None:
        """Go on with the wait that another one had left."""
        self._until_s = self._clock.now() + wait_us / 1_000_000
        self._reset_blocked = reset_blocked

    def active(self, count: int) -> bool:
        """True while authorised commands are refused."""
        return count > THRESHOLD and self._clock.now() < self._until_s

    def remaining_s(self, count: int) -> int:
        """Whole seconds left to wait, rounded up; 0 when not active."""
        if not self.active(count):
            return 0
        return max(1, int(self._until_s - self._clock.now() + 0.999))
