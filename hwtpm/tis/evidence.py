"""What a driver concludes from the registers of a TIS chip, however it got their contents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hwtpm.errors import BusError, DeviceNotFound, Unsupported, UsageError
from hwtpm.tis.registers import (
    LOCALITIES,
    DidVid,
    Interface,
    InterfaceId,
    IntfCapability,
    Sts,
)

__all__ = [
    "ABSENT",
    "HEADER_SIZE",
    "SIZE_FIELD_END",
    "ChipInfo",
    "absent",
    "answered",
    "check_command",
    "check_locality",
    "identify",
    "went_ready",
]

HEADER_SIZE: Final = 10
"""Tag, size and code of a TPM command or response."""

SIZE_FIELD_END: Final = 6

ABSENT: Final = 0xFFFFFFFF
"""What a register reads that nobody drives."""

_TRANSFER_SIZES: Final = (0, 8, 32, 64)
_CRB: Final = 1
_PTP_FIFO: Final = 0
_EARLY_DESELECT: Final = 0x01000000


@dataclass(frozen=True, slots=True)
class ChipInfo:
    """What the chip's registers say about it."""

    did_vid: int
    rid: int
    capability: int
    interface_id: int

    @property
    def vendor(self) -> int:
        """PCI vendor id."""
        return DidVid.VENDOR.of(self.did_vid)

    @property
    def device(self) -> int:
        """The vendor's device id; does not tell TPM 1.2 from 2.0."""
        return DidVid.DEVICE.of(self.did_vid)

    @property
    def tpm20(self) -> bool:
        """Whether the interface is that of a TPM 2.0."""
        if InterfaceId.TYPE.of(self.interface_id) == _PTP_FIFO:
            return True
        return IntfCapability.VERSION.of(self.capability) == Interface.TIS_1_3_TPM2

    @property
    def transfer_size(self) -> int:
        """Largest FIFO access in bytes; 0 where the interface is too old to say."""
        return _TRANSFER_SIZES[IntfCapability.TRANSFER_SIZE.of(self.capability)]

    @property
    def burst_static(self) -> bool:
        """Whether the burst count never changes."""
        return bool(self.capability & IntfCapability.BURST_STATIC)


def absent(did_vid: int) -> bool:
    """Whether no chip can have that DID_VID."""
    return DidVid.VENDOR.of(did_vid) in (0, 0xFFFF)


def identify(device: str, info: ChipInfo, access: int) -> None:
    """Make sure that there is a chip and that it speaks FIFO.

    Raises:
        DeviceNotFound: nothing drives the bus; the message has the evidence.
        BusError: INTF_CAPABILITY reads all ones.
        Unsupported: the chip's interface is switched to CRB.
    """
    if absent(info.did_vid):
        raise DeviceNotFound(
            f"{device}: no TPM answers: DID_VID {info.did_vid:#010x}, ACCESS {access:#04x}",
            hint=_absence_hint(info.did_vid),
        )
    if info.capability == ABSENT:
        raise BusError(f"{device}: INTF_CAPABILITY reads all ones, DID_VID {info.did_vid:#010x}")
    if InterfaceId.TYPE.of(info.interface_id) == _CRB:
        raise Unsupported(
            f"{device}: the chip's interface is CRB (INTERFACE_ID "
            f"{info.interface_id:#010x}), this driver speaks FIFO",
            hint="select the FIFO interface in the firmware's setup",
        )


def check_command(command: bytes) -> None:
    """Make sure that `command` is a TPM frame.

    Raises:
        UsageError: it is not.
    """
    if len(command) < HEADER_SIZE or len(command) != int.from_bytes(
        command[2:SIZE_FIELD_END], "big"
    ):
        raise UsageError(f"no TPM command: {len(command)} bytes starting {command[:10].hex()}")


def check_locality(number: int) -> None:
    """Make sure that there is a locality with that number.

    Raises:
        UsageError: there is not.
    """
    if not 0 <= number < LOCALITIES:
        raise UsageError(f"locality {number}: there are 0 to {LOCALITIES - 1}")


def answered(sts: int) -> bool:
    """Whether the response waits in the FIFO."""
    both = Sts.VALID | Sts.DATA_AVAIL
    return sts & both == both


def went_ready(sts: int) -> bool:
    """Whether the chip waits for a command, instead of executing one."""
    seen = Sts.VALID | Sts.COMMAND_READY | Sts.DATA_AVAIL | Sts.EXPECT
    return sts & seen == Sts.COMMAND_READY


def _absence_hint(did_vid: int) -> str:
    if did_vid == ABSENT:
        return "the data line floats: check wiring, chip select, power and that reset is released"
    if did_vid == _EARLY_DESELECT:
        return "chip select drops after the header: the bus must hold it over the whole access"
    return "the data line is stuck low or the chip is still in reset: check wiring and reset"
