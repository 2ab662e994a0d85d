"""PCR attributes of a PC Client TPM 1.2 (Part 2 section 8.8; PC Client TIS 1.2 section 11.2.4).

Masks have one bit per locality: bit 0 is locality 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hwtpm.softtpm.engine.state import ONES_DIGEST, ZERO_DIGEST
from hwtpm.tpm12.const import EVERY_LOCALITY, NUM_PCRS

__all__ = ["DYNAMIC_PCRS", "HASH_START_PCRS", "PCR_ATTRIBUTES", "PcrAttributes", "initial_pcrs"]


@dataclass(frozen=True, slots=True)
class PcrAttributes:
    """Which localities may reset and extend a PCR."""

    reset: int
    extend: int

    @property
    def resettable(self) -> bool:
        """True if any locality may reset it."""
        return self.reset != 0


PCR_ATTRIBUTES: Final = (
    *(PcrAttributes(0, EVERY_LOCALITY) for _ in range(16)),
    PcrAttributes(EVERY_LOCALITY, EVERY_LOCALITY),  # 16: debug
    PcrAttributes(0x10, 0x1C),  # 17: dynamic root of trust, reset by TPM_HASH_START only
    PcrAttributes(0x10, 0x1C),  # 18
    PcrAttributes(0x10, 0x0C),  # 19
    PcrAttributes(0x14, 0x0E),  # 20
    PcrAttributes(0x04, 0x04),  # 21
    PcrAttributes(0x04, 0x04),  # 22
    PcrAttributes(EVERY_LOCALITY, EVERY_LOCALITY),  # 23: applications
)
assert len(PCR_ATTRIBUTES) == NUM_PCRS

HASH_START_PCRS: Final = frozenset(
    index
    for index, attributes in enumerate(PCR_ATTRIBUTES)
    if attributes.reset & 0x10 and attributes.reset != EVERY_LOCALITY
)
"""The PCRs that TPM_HASH_START sets to zero (PC Client TIS 1.2 section 11.2.4)."""


DYNAMIC_PCRS: Final = range(17, 23)
"""The PCRs of a measured launch; all ones in them say that there was none."""


def initial_pcrs() -> tuple[bytes, ...]:
    """PCR values after TPM_Startup(ST_CLEAR): the dynamic PCRs start with all ones."""
    return tuple(ONES_DIGEST if i in DYNAMIC_PCRS else ZERO_DIGEST for i in range(NUM_PCRS))
