"""Bad wiring recognised by what a read of DID_VID brings, and what to do about it.

The identity of a chip or vendor that `quirks` knows is never a fault where it belongs, and tells of
one where it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hwtpm.errors import UsageError
from hwtpm.tis_spi.framing import HEADER_SIZE
from hwtpm.tis_spi.quirks import IDENTITIES

__all__ = [
    "ALL_ONES",
    "ALL_ZEROS",
    "EARLY_DESELECT",
    "HALVES_SWAPPED",
    "ONE_BIT_EARLY",
    "ONE_BIT_LATE",
    "WORDS_SWAPPED",
    "Wiring",
    "diagnose",
]

_REGISTER: Final = 4
_HEADER_ECHOES: Final = (b"\0\0\0\x01", b"\0\0\0\xff")
"""What a chip answers to four bytes that are no header for it: ready, or not at all."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """A recognised fault: a short name, what was seen, and what to do about it."""

    name: str
    evidence: str
    hint: str


ALL_ONES: Final = Wiring(
    "all-ones",
    "every bit reads 1: nobody drives MISO",
    "check that the chip has power, that RST# is released, that the chip select is the board's, "
    "and that MISO and MOSI are not swapped",
)
ALL_ZEROS: Final = Wiring(
    "all-zeros",
    "every bit reads 0: MISO is stuck low, the chip is still in reset, or it never got ready",
    "check MISO for a short to ground and a floating input; wait after reset; clock more bytes, "
    "the chip may insert wait states",
)
EARLY_DESELECT: Final = Wiring(
    "early-deselect",
    "00 00 00 01 or 00 00 00 ff where data should be: the answer to a header, once more",
    "chip select rose after the header; hold it low over the whole transaction (spidev: cs_change "
    "or one transfer; a controller that drops it by itself needs a GPIO as chip select)",
)
ONE_BIT_LATE: Final = Wiring(
    "one-bit-late",
    "all data arrive one bit late",
    "use SPI mode 0; lower the clock or shorten the wires: MISO is sampled before the chip has "
    "driven it",
)
ONE_BIT_EARLY: Final = Wiring(
    "one-bit-early",
    "all data arrive one bit early",
    "use SPI mode 0: MISO is sampled on the wrong edge; look for a glitch on the clock line "
    "as chip select falls",
)
WORDS_SWAPPED: Final = Wiring(
    "words-swapped",
    "the four bytes of a register arrive in reverse order",
    "set 8 bits per word on the bus; register bytes arrive least significant first",
)
HALVES_SWAPPED: Final = Wiring(
    "halves-swapped",
    "the bytes of each half of a register are swapped",
    "set 8 bits per word on the bus: it moves 16-bit words now",
)


def diagnose(seen: bytes) -> Wiring | None:
    """The fault that a read of DID_VID shows; None for a sound answer or one that tells nothing.

    Args:
        seen: the register's 4 bytes in the order of the wire, or all that MISO showed under the
            chip select from the first header byte on. The whole tells more: a shift can make a
            chip seem to wait for ever.

    Raises:
        UsageError: fewer than 4 bytes.
    """
    if len(seen) < _REGISTER:
        raise UsageError(f"{len(seen)} bytes are no DID_VID")
    return next((wiring for wiring, shows in _SIGNATURES if shows(seen)), None)


def _data(seen: bytes) -> bytes:
    """The last register's worth of what was seen: an answer ends with its data."""
    return seen[-_REGISTER:]


def _is_identity(data: bytes) -> bool:
    return data.startswith(IDENTITIES)


def _shows_identity(seen: bytes, shift: int) -> bool:
    """Whether an identity stands `shift` bits off a byte boundary where a register can start.

    A bit of it that is out of sight then is not missed.
    """
    bits = _bits(seen)
    first = 0 if len(seen) < HEADER_SIZE + _REGISTER else HEADER_SIZE
    for start in range(8 * first, len(bits) - 8 * _REGISTER + 1, 8):
        moved = bits[max(start + shift, 0) :]
        for identity in map(_bits, IDENTITIES):
            expected = identity[max(-start - shift, 0) :][: len(moved)]
            if moved.startswith(expected):
                return True
    return False


def _bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


_SIGNATURES: Final[tuple[tuple[Wiring | None, Callable[[bytes], bool]], ...]] = (
    (ALL_ONES, lambda seen: not seen.strip(b"\xff")),
    (ALL_ZEROS, lambda seen: not seen.strip(b"\x00")),
    (EARLY_DESELECT, lambda seen: _data(seen) in _HEADER_ECHOES),
    (None, lambda seen: _shows_identity(seen, 0)),  # sound
    (ONE_BIT_LATE, lambda seen: _shows_identity(seen, 1)),
    (ONE_BIT_EARLY, lambda seen: _shows_identity(seen, -1)),
    (WORDS_SWAPPED, lambda seen: _is_identity(_data(seen)[::-1])),
    (HALVES_SWAPPED, lambda seen: _is_identity(bytes(_data(seen)[at] for at in (1, 0, 3, 2)))),
)
"""Asked in this order; the first that fits is the answer."""
