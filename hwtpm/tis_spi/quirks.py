"""What chips on SPI need that the registers do not say, as data.

Rows are found by DID_VID, and by RID where that decides. Transfer size and static burst are taken
from INTF_CAPABILITY, and bounded by the row. Whether a chip is a TPM 1.2 or 2.0 is not decided
here: DID_VID does not tell (`hwtpm.tis.ChipInfo.tpm20`). Timeouts that a chip reports in
milliseconds are recognised by their value, whatever the chip (`hwtpm.tis.Timeouts.from_chip`).

No row has been verified on hardware by this project; `source` says who observed it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from hwtpm.tis.evidence import ChipInfo
from hwtpm.tis.registers import DidVid, Sts
from hwtpm.tis_spi.framing import MAX_TRANSFER, transfer_limit

__all__ = ["CHIPS", "IDENTITIES", "STRICT", "ChipRow", "Quirks", "quirks_of"]

_LOW_STS: Final = 0xFF
_MHZ: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Quirks:
    """How to treat a chip; the defaults are those for one that nobody knows.

    Attributes:
        name: the chip, for people.
        source: where the row comes from.
        verified_on_hardware: whether this project has seen it on a chip.
        max_sck_hz: fastest clock.
        waits: the chip may insert wait states; False only if it is known not to.
        max_waits: bytes to clock before a chip that is not ready counts as stuck.
        header_bit_valid: the ready bit in the last header byte can be believed.
        transfer_limit: largest FIFO transfer in bytes.
        burst_static: the burst count never changes and need not be read again.
        status_before_chunk: read STS once more before each further chunk of a response.
        status_resends: after a command, stsValid may never come; abort and send it again, so often.
        gap_s: pause between two transactions where no ready signal is wired.
        sleeps_after_s: idle time after which the chip sleeps; 0 for never. Then pulse chip select
            for `wake_pulse_s` and wait `wake_wait_s`.
        poll_s: pause between two polls of STS that the chip needs.
        canceled: low bytes of STS that say a command was cancelled.
    """

    name: str = "unknown chip"
    source: str = "PTP: what every TPM has to stand"
    verified_on_hardware: bool = False
    max_sck_hz: int = 10 * _MHZ
    waits: bool = True
    max_waits: int = 100
    header_bit_valid: bool = True
    transfer_limit: int = MAX_TRANSFER
    burst_static: bool = False
    status_before_chunk: bool = True
    status_resends: int = 0
    gap_s: float = 0.0
    sleeps_after_s: float = 0.0
    wake_pulse_s: float = 0.0
    wake_wait_s: float = 0.0
    poll_s: float = 0.0
    canceled: frozenset[int] = field(default=frozenset({int(Sts.COMMAND_READY)}))

    def shows_cancel(self, sts: int) -> bool:
        """Whether that content of STS says that the command was cancelled."""
        return sts & _LOW_STS in self.canceled


STRICT: Final = Quirks()
"""For a chip that nobody knows: slow, waiting, careful."""


@dataclass(frozen=True, slots=True)
class ChipRow:
    """Quirks and whose they are; `device` None is any of the vendor's, `rids` None any revision."""

    quirks: Quirks
    vendor: int
    device: int | None = None
    rids: frozenset[int] | None = None

    @property
    def identity(self) -> bytes:
        """What DID_VID starts with on the wire: all of it, or the vendor alone."""
        parts = (self.vendor,) if self.device is None else (self.vendor, self.device)
        return b"".join(part.to_bytes(2, "little") for part in parts)

    def fits(self, did_vid: int, rid: int) -> bool:
        return (
            DidVid.VENDOR.of(did_vid) == self.vendor
            and self.device in (None, DidVid.DEVICE.of(did_vid))
            and (self.rids is None or rid in self.rids)
        )


_INFINEON: Final = Quirks(
    name="Infineon, part unknown",
    source="Linux tpm_tis (TPM_TIS_STATUS_VALID_RETRY for 15D1, 50 tries); coreboot tis.c "
    "(TPM_RDRESP_NEED_DELAY)",
    status_resends=50,
)
_ST: Final = Quirks(
    name="STMicroelectronics, part unknown",
    source="wolfTPM (32-byte transfers, 0 to 2 wait bytes); Linux tpm_tis_req_canceled",
    max_sck_hz=33 * _MHZ,
    transfer_limit=32,
    status_before_chunk=False,
    canceled=frozenset({int(Sts.VALID | Sts.COMMAND_READY)}),
)
_NUVOTON: Final = Quirks(
    name="Nuvoton, part unknown",
    source="wolfTPM (wait states); Linux tpm_tis_req_canceled",
    status_before_chunk=False,
    canceled=frozenset({int(Sts.VALID), int(Sts.VALID | Sts.COMMAND_READY)}),
)
_ATMEL: Final = Quirks(
    name="Atmel or Microchip, part unknown",
    source="Linux (Atmel TPM 1.2 is polled every 14.7 to 15 ms)",
    max_sck_hz=33 * _MHZ,
    poll_s=0.015,
)
_GOOGLE: Final = Quirks(
    source="Linux tpm_tis_spi_cr50 and coreboot: always waits, up to 750 ms; 2 ms between "
    "transactions without the ready interrupt; asleep after 1 s",
    max_sck_hz=_MHZ,
    max_waits=75_000,  # 750 ms at 800 kHz
    header_bit_valid=False,
    gap_s=0.002,
    sleeps_after_s=1.0,
    wake_pulse_s=0.001,
    wake_wait_s=0.002,
)

CHIPS: Final[tuple[ChipRow, ...]] = (
    ChipRow(
        replace(
            _INFINEON,
            name="SLB9670",
            source=f"wolfTPM (no wait states, 43 MHz); {_INFINEON.source}",
            max_sck_hz=43 * _MHZ,
            waits=False,
        ),
        0x15D1,
        0x001B,
    ),
    ChipRow(
        replace(
            _INFINEON,
            name="SLB9672",
            source=f"wolfTPM (no wait states, 33 MHz; issue 295: status stuck after open); "
            f"{_INFINEON.source}",
            max_sck_hz=33 * _MHZ,
            waits=False,
        ),
        0x15D1,
        0x001D,
    ),
    ChipRow(replace(_ST, name="ST33KTPM2X"), 0x104A, 0x0003),
    ChipRow(replace(_ST, name="ST33TPHF2X"), 0x104A, 0x0000),
    ChipRow(
        replace(
            _NUVOTON,
            name="NPCT75x",
            source=f"wolfTPM (43 MHz); {_NUVOTON.source}",
            max_sck_hz=43 * _MHZ,
        ),
        0x1050,
        0x00FC,
    ),
    ChipRow(
        Quirks(
            name="ATTPM20P",
            source="wolfTPM (wait states, 33 MHz used, 36 MHz at most)",
            max_sck_hz=36 * _MHZ,
            status_before_chunk=False,
        ),
        0x1114,
        0x3205,
    ),
    ChipRow(
        Quirks(
            name="NS350",
            source="wolfTPM (wait states, 33 MHz)",
            max_sck_hz=33 * _MHZ,
            status_before_chunk=False,
        ),
        0x9999,
        0x0701,
    ),
    ChipRow(
        Quirks(
            name="QVault TPM",
            source="wolfTPM (wait states, 33 MHz, static burst in INTF_CAPABILITY)",
            max_sck_hz=33 * _MHZ,
            status_before_chunk=False,
        ),
        0x2406,
        0x0083,
    ),
    ChipRow(replace(_GOOGLE, name="cr50"), 0x1AE0, 0x0028),
    ChipRow(replace(_GOOGLE, name="ti50"), 0x6666, 0x504A),
    ChipRow(_INFINEON, 0x15D1),
    ChipRow(_ST, 0x104A),
    ChipRow(_NUVOTON, 0x1050),
    ChipRow(_ATMEL, 0x1114),
)
"""The first row that fits counts; rows of a whole vendor stand last."""

IDENTITIES: Final = tuple(row.identity for row in CHIPS)
"""What the DID_VID registers of these chips start with, in the order of the wire."""


def quirks_of(info: ChipInfo) -> Quirks:
    """How to treat the chip that says this about itself; `STRICT` if it is unknown.

    An unknown chip's static burst is not believed.
    """
    row = next((row.quirks for row in CHIPS if row.fits(info.did_vid, info.rid)), STRICT)
    return replace(
        row,
        transfer_limit=min(row.transfer_limit, transfer_limit(info.transfer_size)),
        burst_static=row is not STRICT and info.burst_static,
    )
