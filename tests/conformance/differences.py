"""Where an engine answers otherwise than the tests say, and why that is right or at least known.

An entry must really differ: a test compares with the declared code, so an engine that turns to
the specification's answer fails until its entry goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DIFFERENCES", "FORMS", "Difference"]


@dataclass(frozen=True)
class Difference:
    """Answers by engine, mostly return codes, and what the specification has to say."""

    answers: dict[str, int]
    why: str


def _libtpms(rc: int, why: str) -> Difference:
    """swtpm's engine is libtpms."""
    return Difference({"libtpms": rc, "swtpm": rc}, why)


DIFFERENCES: Final[dict[str, Difference]] = {
    "first byte of a dynamic PCR without a TOS": Difference(
        {"engine": 0x00},
        "Part 3 16.4 leaves 00 or FF to the platform and gives FF as an example while TOSPresent is"
        " FALSE; our engine keeps no TOSPresent",
    ),
    "last PCR that TPM_HASH_START resets": _libtpms(
        22,
        "PC Client TIS 1.2 11.2.4 resets at locality 4 what locality 4 may reset, 17 to 20;"
        " libtpms resets 21 and 22 as well",
    ),
    "startup after an unknown startup type": _libtpms(
        0x26, "3.2 does not say that a refused TPM_Startup counts; in libtpms it does"
    ),
    "handles of an unknown type": _libtpms(
        0x03, "7.1 action 2 has no code for TPM_CAP_HANDLE; for the other areas it is BAD_MODE"
    ),
    "one byte more than can be sealed": _libtpms(
        0x20, "10.1 has no code of its own for it; libtpms passes its RSA library's failure on"
    ),
    "wrong secret of the identity to activate": _libtpms(
        0x1D, "15.2 proves the owner, the second session, first; libtpms counts in that order"
    ),
    "wrong owner of the identity to activate": _libtpms(0x01, "as above, the other way round"),
    "key with a changed modulus": _libtpms(
        0x03, "10.5 actions 6 and 7: libtpms divides modulus by prime before it compares digests"
    ),
    "flushing a session that is not there": Difference(
        {"engine": 0x22, "libtpms": 0x22, "swtpm": 0x22},
        "22.1 action 7 says BAD_PARAMETER; client software knows INVALID_AUTHHANDLE from all chips",
    ),
    "NV area of 1 MiB": _libtpms(
        0x17, "20.1 action 11 says NOSPACE; libtpms finds that it cannot allocate so much"
    ),
    "65th write without an owner": _libtpms(
        0x00, "20.1 action 3: only this check holds before the lock; libtpms leaves it out, too"
    ),
    "one session twice": _libtpms(
        0x00, "Part 1 13 is silent on a command with the same session twice; ours refuses it"
    ),
    "startup in failure mode": _libtpms(
        0x26, "libtpms takes the failed TPM_Startup for the one that is allowed"
    ),
    "presence by command as delivered": Difference(
        {"engine": 0x00},
        "Part 2 7.1: physicalPresenceCMDEnable defaults to FALSE; our engine, which has no pin, is"
        " delivered with TRUE",
    ),
}

FORMS: Final[dict[tuple[str, int, int], str]] = {}
"""Command, our engine's answer to a damaged form of it, libtpms' answer; and why."""
