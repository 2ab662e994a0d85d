"""What distinguishes one TIS device from another, as data for the chip core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hwtpm.errors import UsageError
from hwtpm.tis.registers import Interface, IntfCapability
from hwtpm.tis.states import PC_CLIENT, READY_AFTER_COMPLETION, Transitions

__all__ = ["PC_CLIENT_TPM12", "PC_CLIENT_TPM20", "QEMU_TPM12", "Personality"]

_ALL_INTERRUPTS: Final = 0x87
_TRANSFER_CODES: Final = {0: 0, 8: 1, 32: 2, 64: 3}


@dataclass(frozen=True, slots=True)
class Personality:
    """Identity, sizes and liberties of a TIS device; the defaults are the specification's.

    `burst_limit` caps the announced burst count; with `burst_static` it is announced always,
    otherwise the count is what really fits or remains. `transfer_size` is 0 (legacy), 8, 32 or 64.
    `irq_vector` is None if software chooses the line.

    `ready_after_completion` takes the short cut past IDLE that the specification allows.

    Where QEMU 7.2 differs from the specification: `state_survives_locality_change` (the command
    state of a locality outlives the loss of access, only an abort through commandReady drops it),
    `hash_interface` False (all writes of locality 4 are ignored), `length_checked_per_access` (a
    wide FIFO write may overshoot the command), `length_mask` (bits of the size field that count),
    `interrupts_recorded_unmasked` (an enabled cause records its disabled companions too).

    Raises:
        UsageError: a size no TIS device can have.
    """

    did_vid: int = 0x00011014
    rid: int = 1
    version: Interface = Interface.TIS_1_3
    interface_id: int = 0xFFFFFFFF
    tpm20: bool = False
    buffer_size: int = 4096
    burst_limit: int = 0xFFFF
    burst_static: bool = False
    transfer_size: int = 64
    irq_vector: int | None = None
    ready_after_completion: bool = False
    hash_interface: bool = True
    state_survives_locality_change: bool = False
    length_checked_per_access: bool = False
    length_mask: int = 0xFFFFFFFF
    interrupts_recorded_unmasked: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.burst_limit <= 0xFFFF:
            raise UsageError(f"burst count {self.burst_limit}: must be 1..65535")
        if not 10 <= self.buffer_size <= 0xFFFF:
            raise UsageError(f"TIS buffer of {self.buffer_size} bytes: must be 10..65535")
        if self.transfer_size not in _TRANSFER_CODES:
            raise UsageError(f"transfer size {self.transfer_size}: must be 0, 8, 32 or 64")

    @property
    def transitions(self) -> Transitions:
        """The command state machine."""
        return READY_AFTER_COMPLETION if self.ready_after_completion else PC_CLIENT

    @property
    def capability(self) -> int:
        """The content of INTF_CAPABILITY."""
        return (
            IntfCapability.VERSION.put(self.version)
            | IntfCapability.TRANSFER_SIZE.put(_TRANSFER_CODES[self.transfer_size])
            | (IntfCapability.BURST_STATIC if self.burst_static else 0)
            | IntfCapability.LEVEL_LOW
            | _ALL_INTERRUPTS
        )


PC_CLIENT_TPM12: Final = Personality()

PC_CLIENT_TPM20: Final = Personality(
    version=Interface.TIS_1_3_TPM2, interface_id=0x00002100, tpm20=True
)

QEMU_TPM12: Final = Personality(
    irq_vector=5,
    ready_after_completion=True,
    hash_interface=False,
    state_survives_locality_change=True,
    length_checked_per_access=True,
    length_mask=0xFFFF,
    interrupts_recorded_unmasked=True,
)
"""QEMU 7.2's tpm-tis with a TPM 1.2 backend."""
