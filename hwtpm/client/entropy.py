"""Random numbers from the TPM and for it (TPM Main 1.2, Part 3 sections 13.6 and 13.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hwtpm.client.session import Tpm
from hwtpm.errors import ProtocolError, UsageError
from hwtpm.tpm12.commands.cryptography import GetRandom, StirRandom

__all__ = ["MAX_RANDOM", "MAX_STIR", "RandomBytes", "get_random", "stir"]

MAX_RANDOM: Final = 1 << 20
"""Bytes that one call gets at most: a chip makes some kilobytes a second."""

MAX_STIR: Final = 255
"""TPM_StirRandom takes less than 256 bytes (Part 3 section 13.7)."""

_ASK: Final = 1024


@dataclass(frozen=True, slots=True)
class RandomBytes:
    """What the TPM's generator gave, and in how many pieces."""

    data: bytes
    commands: int


def get_random(tpm: Tpm, count: int) -> RandomBytes:
    """`count` random bytes; a TPM may give fewer than asked for, then it is asked again.

    Raises:
        UsageError: `count` is not between 1 and `MAX_RANDOM`.
        ProtocolError: the TPM gives nothing, or more than was asked for.
    """
    if not 1 <= count <= MAX_RANDOM:
        raise UsageError(f"{count} random bytes", hint=f"ask for 1 to {MAX_RANDOM}")
    data = bytearray()
    commands = 0
    while len(data) < count:
        wanted = min(count - len(data), _ASK)
        piece = tpm.execute(GetRandom(wanted)).random_bytes
        if not 1 <= len(piece) <= wanted:
            raise ProtocolError(
                f"TPM_GetRandom on {tpm.attached.address}: {len(piece)} bytes for {wanted}"
            )
        data += piece
        commands += 1
    return RandomBytes(bytes(data), commands)


def stir(tpm: Tpm, entropy: bytes) -> None:
    """Mix up to `MAX_STIR` bytes into the TPM's generator."""
    if len(entropy) > MAX_STIR:
        raise UsageError(f"{len(entropy)} bytes of entropy", hint=f"give at most {MAX_STIR}")
    tpm.execute(StirRandom(entropy))
