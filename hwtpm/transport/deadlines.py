"""How long a command may take before its peer counts as stuck, by its duration class.

The ordinals of the two families do not overlap: whichever TPM it is for, a command tells its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwtpm.tpm12.frame import ordinal_of
from hwtpm.tpm20.timing import MEDIUM_S, SHORT_S, duration_s

if TYPE_CHECKING:
    from hwtpm.tis import Timeouts

__all__ = ["Deadlines"]


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that each duration class gets (Part 2 section 17, column Duration; for a TPM 2.0
    `hwtpm.tpm20.timing`).

    The defaults are generous on purpose: a chip that generates a key takes minutes, and a deadline
    is there to end a wait for nothing, not to hurry anybody.
    """

    short_s: float = 20.0
    medium_s: float = 60.0
    long_s: float = 300.0

    def at_least(self, chip: Timeouts) -> Deadlines:
        """These deadlines, longer where the chip asks for more."""
        return Deadlines(
            max(self.short_s, chip.short_s),
            max(self.medium_s, chip.medium_s),
            max(self.long_s, chip.long_s),
        )

    def of(self, command: bytes) -> float:
        """Seconds for this command frame."""
        return self.of_ordinal(ordinal_of(command))

    def of_ordinal(self, ordinal: int) -> float:
        """Seconds for this ordinal; one that is not in the table gets the longest."""
        if (bound_s := duration_s(ordinal)) is not None:
            return self._of_tpm2(bound_s)
        # What a TPM 2.0 is driven with starts quickly, without this table.
        from hwtpm.tpm12.commands import TABLE
        from hwtpm.tpm12.table import Duration

        row = TABLE.get(ordinal)
        if row is None:
            return self.long_s
        return {
            Duration.SHORT: self.short_s,
            Duration.MEDIUM: self.medium_s,
            Duration.LONG: self.long_s,
        }[row.duration]

    def _of_tpm2(self, bound_s: float) -> float:
        if bound_s <= SHORT_S:
            return max(self.short_s, bound_s)
        if bound_s <= MEDIUM_S:
            return max(self.medium_s, bound_s)
        return self.long_s
