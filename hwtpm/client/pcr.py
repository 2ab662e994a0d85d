"""Platform configuration registers (TPM Main 1.2, Part 3 section 16)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hwtpm.client.info import property_value
from hwtpm.client.session import Tpm
from hwtpm.errors import UsageError
from hwtpm.tpm12.commands.integrity import Extend, PcrRead, PcrReset
from hwtpm.tpm12.const import DIGEST_SIZE, NUM_PCRS, CapProperty
from hwtpm.tpm12.types import PcrSelection

__all__ = ["PcrValue", "PcrValues", "check_indices", "extend", "read", "read_many", "reset"]

_ADDRESSABLE = 64  # what a TPM_PCR_SELECTION of eight bytes can name


@dataclass(frozen=True, slots=True)
class PcrValue:
    """One PCR and its 20 bytes."""

    index: int
    value: bytes


@dataclass(frozen=True, slots=True)
class PcrValues:
    """Several PCRs, ascending."""

    pcrs: tuple[PcrValue, ...]

    def by_index(self) -> dict[int, bytes]:
        """The values by PCR index."""
        return {pcr.index: pcr.value for pcr in self.pcrs}


def read(tpm: Tpm, index: int) -> bytes:
    """The 20 bytes of one PCR."""
    return tpm.execute(PcrRead(index)).out_digest


def read_many(tpm: Tpm, indices: Iterable[int] | None = None) -> PcrValues:
    """The PCRs with these indices, or all that the TPM has."""
    if indices is None:
        indices = range(property_value(tpm, CapProperty.PCR) or NUM_PCRS)
    return PcrValues(tuple(PcrValue(index, read(tpm, index)) for index in check_indices(indices)))


def extend(tpm: Tpm, index: int, digest: bytes) -> bytes:
    """Extend a PCR with a 20-byte digest; returns the PCR's new value."""
    if len(digest) != DIGEST_SIZE:
        raise UsageError(
            f"a PCR is extended with {DIGEST_SIZE} bytes, not {len(digest)}",
            hint="extend with the SHA-1 of the data",
        )
    return tpm.execute(Extend(index, digest)).out_digest


def reset(tpm: Tpm, indices: Iterable[int]) -> None:
    """Reset PCRs; which ones may be is a matter of the locality.

    Raises:
        TpmError: TPM_NOTRESETABLE or TPM_NOTLOCAL; then none has been reset.
    """
    tpm.execute(PcrReset(PcrSelection.of(check_indices(indices))))


def check_indices(indices: Iterable[int]) -> list[int]:
    """The indices in ascending order, each once.

    Raises:
        UsageError: a number that can be no PCR.
    """
    wanted = sorted(set(indices))
    for index in wanted:
        if not 0 <= index < _ADDRESSABLE:
            raise UsageError(f"there is no PCR {index}", hint=f"TPM 1.2 has 0 to {NUM_PCRS - 1}")
    return wanted
