"""How long a TPM may take: TIS timeouts A-D and the duration classes of TPM 1.2 commands.

TIS 1.21 "Timeouts" (defaults), TPM 1.2 Part 2 TPM_CAP_PROP_TIS_TIMEOUT and _DURATION (chip values
in microseconds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Timeouts"]

_MILLISECONDS_BELOW: Final = 1000
"""A timeout below 1000 us is no timeout a TPM needs: such chips report milliseconds."""

_SHORT_TOO_SHORT_S: Final = 0.010
"""A short duration below 10 ms means that the chip reports milliseconds for all three."""

_TIMEOUT_CAP_S: Final = 30.0
_DURATION_CAP_S: Final = 900.0
"""What a chip says is not trusted so far that it could hang its host."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds; the defaults are those of the PC Client specification.

    A: locality and register validity. B: commandReady. C: stsValid and its bits. D: burst count.
    `transfer_s` bounds moving one command or response through the FIFO, however slowly its bursts
    come; it is ours, the specification has no such bound.
    """

    a_s: float = 0.75
    b_s: float = 2.0
    c_s: float = 0.75
    d_s: float = 0.75
    short_s: float = 2.0
    medium_s: float = 20.0
    long_s: float = 60.0
    transfer_s: float = 20.0

    @classmethod
    def from_chip(
        cls, timeouts_us: Sequence[int] = (), durations_us: Sequence[int] = ()
    ) -> Timeouts:
        """From the chip's own A-D and short, medium, long values in microseconds.

        Missing values and zeros keep the default. Nothing is lowered below its default: a chip that
        understates what it needs is common, a longer deadline only delays an error.
        """
        defaults = cls()
        a, b, c, d = (
            _between(default, value / (1e3 if value < _MILLISECONDS_BELOW else 1e6), _TIMEOUT_CAP_S)
            for default, value in zip(
                (defaults.a_s, defaults.b_s, defaults.c_s, defaults.d_s),
                _padded(timeouts_us, 4),
                strict=True,
            )
        )
        durations = [value / 1e6 for value in _padded(durations_us, 3)]
        if 0 < durations[0] < _SHORT_TOO_SHORT_S:
            durations = [duration * 1000 for duration in durations]
        short, medium, long = (
            _between(default, duration, _DURATION_CAP_S)
            for default, duration in zip(
                (defaults.short_s, defaults.medium_s, defaults.long_s), durations, strict=True
            )
        )
        return cls(a, b, c, d, short, medium, long)


def _between(lowest: float, value: float, highest: float) -> float:
    return min(max(lowest, value), highest)


def _padded(values: Sequence[int], count: int) -> list[int]:
    return [*values, *[0] * count][:count]
