"""What earlier commands teach about the next one of the same ordinal: how long, and how much."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Learnt", "Memory"]

_FIRST_PAUSES_S: Final = (0.0, 0.0001, 0.0002, 0.0004)
"""Before the polls of a command that nobody knows: one round trip of a USB adapter in all."""

_NO_TIME_S: Final = 0.00005
"""What takes no longer has been answered when the next transfer starts."""

_MARGIN: Final = 1.2
_FORGETTING: Final = 0.25
_DRIFT: Final = 0.995
"""A delay that nothing shows to be too long shrinks until, once in a while, it is too short."""

_MOST_POLLS: Final = 16
_HITS_PER_POLL: Final = 16
_WORTH_POLLING_S: Final = 0.020
_ORDINALS: Final = 64


@dataclass(slots=True)
class Learnt:
    """About one ordinal: time from tpmGo to the answer, polls that said "busy", response size.

    `delay_s` is None and `size` 0 as long as nothing is known. `hits` counts answers that
    came before the last of the busy polls.
    """

    delay_s: float | None = None
    busy: int = 0
    size: int = 0
    hits: int = 0

    def foreseeable(self, within_s: float, *, pausing: bool) -> bool:
        """Whether polls of one batch, with pauses or without, will find the answer."""
        if self.delay_s is None or self.delay_s * _MARGIN > within_s:
            return False
        return pausing or self.delay_s < _NO_TIME_S or self.busy > 0

    def polls(self, wanted: int) -> int:
        """How many polls are worth their place in a batch: `wanted`, or as many as it took."""
        return max(wanted, min(self.busy + 1, _MOST_POLLS))

    def pauses_s(self, count: int, shortest_s: float, longest_s: float) -> list[float]:
        """Pauses before each of `count` polls; the last poll should find the answer.

        None is longer than `longest_s`; all but one before an immediate answer are `shortest_s`.
        """
        if self.delay_s is None:
            pauses = [*_FIRST_PAUSES_S[:count], *[0.0] * (count - len(_FIRST_PAUSES_S))]
        elif self.delay_s < _NO_TIME_S:
            pauses = [0.0] * count
        else:
            pauses = [self.delay_s * _MARGIN / count] * count
        return [min(max(pause, shortest_s), longest_s) for pause in pauses]

    def hit(self, after_s: float, busy: int, *, last: bool) -> None:
        """Poll number `busy` of the first batch found the answer, `after_s` after tpmGo.

        Whether it was the `last` of several: then the delay is just right.
        """
        if self.delay_s is None:
            self.delay_s = after_s
        elif after_s < self.delay_s:
            self.delay_s += _FORGETTING * (after_s - self.delay_s)
        elif not last:
            self.delay_s *= _DRIFT
        self.hits += busy < self.busy
        if self.hits >= _HITS_PER_POLL:
            self.hits = 0
            self.busy -= 1

    def missed(self, after_s: float, busy: int) -> None:
        """The answer came after the first batch; `busy` polls did not find it.

        Where the learnt delay did not help, it is the polls that the chip needs: on a bus that
        cannot pause they are the only way to spend time.
        """
        if self.delay_s is not None and self.delay_s < _WORTH_POLLING_S:
            self.busy = min(busy, _MOST_POLLS - 1)
        self.hits = 0
        self.delay_s = max(after_s, self.delay_s or 0.0)


class Memory:
    """The ordinals used last; `declared` tells a response's size from its command, 0 if unknown."""

    def __init__(self, declared: Callable[[bytes], int] | None = None) -> None:
        self._declared = declared
        self._ordinals: OrderedDict[bytes, Learnt] = OrderedDict()

    def about(self, command: bytes) -> Learnt:
        """What is known of commands like this one; to be added to."""
        ordinal = command[6:10]
        learnt = self._ordinals.get(ordinal)
        if learnt is None:
            learnt = self._ordinals[ordinal] = Learnt()
            if len(self._ordinals) > _ORDINALS:
                self._ordinals.popitem(last=False)
        else:
            self._ordinals.move_to_end(ordinal)
        if self._declared is not None:
            learnt.size = self._declared(command) or learnt.size
        return learnt
