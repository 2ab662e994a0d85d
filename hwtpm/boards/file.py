"""The form of a board's file; every field is checked when it is read.

    summary = "LetsTrust-TPM (pi3g) on a Raspberry Pi"
    source = "who says so"
    unverified = ["what nobody has tried here"]

    [bus]                        # kind: spidev, ftdi, sim-spidev or sim-ftdi
    kind = "spidev"
    path = "/dev/spidev0.1"
    clock_hz = 10_000_000

    [bus.reset]                  # RST#, and the same for [bus.irq], PIRQ#
    chip = "/dev/gpiochip0"
    line = "GPIO24"

    [chip]                       # what must answer there
    name = "SLB9670"
    did_vid = "001B15D1"
    family = "TPM 2.0"

RST# and PIRQ# are low when asserted, as their names say; an inverter in between cannot be declared.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from hwtpm.errors import AccessDenied, UsageError
from hwtpm.softtpm.base import Family
from hwtpm.tis.evidence import ChipInfo
from hwtpm.tis_spi.framing import MAX_TRANSFER
from hwtpm.tis_spi.gpio import GpioLine
from hwtpm.tis_spi.mpsse import Wires
from hwtpm.tis_spi.quirks import Quirks, quirks_of
from hwtpm.tis_spi.spidev import RESET_PULSE_S, RESET_SETTLE_S

__all__ = [
    "Board",
    "Bus",
    "Chip",
    "Ftdi",
    "Line",
    "Overrides",
    "Pin",
    "Policy",
    "ResetLine",
    "ResetPin",
    "SimulatedFtdi",
    "SimulatedSpidev",
    "Spidev",
    "read_board",
]

Text = Annotated[str, Meta(min_length=1)]
Hertz = Annotated[int, Meta(ge=1_000, le=50_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=10)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
DidVidText = Annotated[str, Meta(pattern="^[0-9A-F]{8}$")]
PinNumber = Annotated[int, Meta(ge=0, le=15)]
Active: TypeAlias = Literal["low"]

_MOST_BYTES: Final = 64 * 1024
_HINT: Final = "docs/boards.md has all fields; try again with `hwtpm boards check FILE`"


class _Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table that has no other fields."""


class Line(_Table, frozen=True, kw_only=True):
    """A line of a Linux GPIO chip, by number or name."""

    chip: Text
    line: int | Text
    active: Active = "low"

    @property
    def gpio(self) -> GpioLine:
        """What `hwtpm.tis_spi.gpio` opens."""
        return GpioLine(self.chip, self.line)


class ResetLine(Line, frozen=True, kw_only=True):
    """The same for RST#, and how long it is low and the chip then left alone."""

    pulse_s: Seconds = RESET_PULSE_S
    settle_s: Seconds = RESET_SETTLE_S


class Pin(_Table, frozen=True, kw_only=True):
    """A pin of an FTDI port: 0 to 7 are xDBUS, 8 to 15 xCBUS."""

    pin: PinNumber
    active: Active = "low"


class ResetPin(Pin, frozen=True, kw_only=True):
    """The same for RST#, and how long it is low and the chip then left alone."""

    pulse_s: Seconds = Wires().reset_pulse_s
    settle_s: Seconds = Wires().reset_settle_s


class Spidev(_Table, tag_field="kind", tag="spidev", frozen=True, kw_only=True):
    """A chip select of a Linux machine."""

    path: Text
    clock_hz: Hertz
    reset: ResetLine | None = None
    irq: Line | None = None


class Ftdi(_Table, tag_field="kind", tag="ftdi", frozen=True, kw_only=True):
    """An FTDI adapter by its pyftdi URL; SCK, MOSI and MISO are always its pins 0 to 2."""

    url: Text
    clock_hz: Hertz
    cs: PinNumber = Wires().cs
    reset: ResetPin | None = None
    irq: Pin | None = None

    def __post_init__(self) -> None:
        try:
            _ = self.wires
        except UsageError as error:
            raise ValueError(error.message) from error

    @property
    def wires(self) -> Wires:
        """What `hwtpm.tis_spi.ftdi` drives."""
        irq = None if self.irq is None else self.irq.pin
        if self.reset is None:
            return Wires(cs=self.cs, irq=irq)
        return Wires(
            cs=self.cs,
            reset=self.reset.pin,
            irq=irq,
            reset_pulse_s=self.reset.pulse_s,
            reset_settle_s=self.reset.settle_s,
        )


class _Simulated(_Table, tag_field="kind", frozen=True, kw_only=True):
    """A simulated chip: its habits by their name in `hwtpm.tis_spi.virtual`, and a software TPM."""

    profile: Text
    engine: Text
    clock_hz: Hertz = 10_000_000


class SimulatedFtdi(_Simulated, tag="sim-ftdi", frozen=True, kw_only=True):
    """A simulated chip behind a virtual FTDI adapter."""


class SimulatedSpidev(_Simulated, tag="sim-spidev", frozen=True, kw_only=True):
    """A simulated chip behind a virtual spidev device."""


Bus: TypeAlias = Spidev | Ftdi | SimulatedFtdi | SimulatedSpidev


class Chip(_Table, frozen=True, kw_only=True):
    """What must answer; what is left out may be anything."""

    name: Text
    did_vid: DidVidText | None = None
    family: Family | None = None

    def describe(self) -> str:
        """One line for people."""
        return " ".join(part for part in (self.name, self.did_vid, self.family) if part)

    def differs(self, info: ChipInfo) -> str:
        """How a chip is another one than this; empty if it is not."""
        if self.did_vid is not None and int(self.did_vid, 16) != info.did_vid:
            return f"DID_VID is {info.did_vid:08X}, not {self.did_vid}"
        family = Family.TPM20 if info.tpm20 else Family.TPM12
        if self.family not in (None, family):
            return f"it is a {family.value}, not a {self.family.value}"
        return ""


class Overrides(_Table, frozen=True, kw_only=True):
    """What is known better here than in `hwtpm.tis_spi.quirks`, field by field."""

    max_waits: Count | UnsetType = UNSET
    header_bit_valid: bool | UnsetType = UNSET
    transfer_limit: Annotated[int, Meta(ge=1, le=64)] | UnsetType = UNSET
    burst_static: bool | UnsetType = UNSET
    status_before_chunk: bool | UnsetType = UNSET
    status_resends: Count | UnsetType = UNSET
    gap_s: Seconds | UnsetType = UNSET
    sleeps_after_s: Seconds | UnsetType = UNSET
    wake_wait_s: Seconds | UnsetType = UNSET
    poll_s: Seconds | UnsetType = UNSET

    def given(self) -> dict[str, Any]:
        """Those that are there."""
        fields = msgspec.structs.asdict(self).items()
        return {name: value for name, value in fields if value is not UNSET}


class Policy(_Table, frozen=True, kw_only=True):
    """What may be done to the chip."""

    allow_destructive: bool = False


class Board(_Table, frozen=True, kw_only=True):
    """One board. `verified` and `unverified` say what this project has seen on hardware."""

    summary: Text
    source: Text
    bus: Bus
    chip: Chip
    verified: tuple[Text, ...] = ()
    unverified: tuple[Text, ...] = ()
    pins: dict[Text, Text] = {}
    notes: tuple[Text, ...] = ()
    quirks: Overrides = Overrides()
    policy: Policy = Policy()

    @property
    def kind(self) -> str:
        """The bus, as the file names it."""
        return str(self.bus.__struct_config__.tag)

    @property
    def simulated(self) -> bool:
        """No hardware is behind it."""
        return isinstance(self.bus, _Simulated)

    def known_quirks(self) -> Quirks | None:
        """Quirks of the chip that is expected, with the overrides; None if there are no overrides:
        then what the chip says about itself decides."""
        overrides = self.quirks.given()
        if not overrides:
            return None
        did_vid = int(self.chip.did_vid or "0", 16)
        expected = ChipInfo(did_vid, rid=0, capability=0, interface_id=0)
        # The chip's own transfer size is heeded besides; its row's limit is not known from here.
        known = replace(quirks_of(expected), transfer_limit=MAX_TRANSFER)
        return replace(known, **overrides)


def read_board(path: Path) -> Board:
    """The board that a file declares.

    Raises:
        UsageError: it is none; the message names the file and the field.
        AccessDenied: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise AccessDenied(
            f"cannot read {path}: {error.strerror}", hint="name a file that you may read"
        ) from error
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{path} is too long for a board's file", hint=_HINT)
    try:
        return msgspec.convert(tomllib.loads(content.decode()), Board)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        field = place.removesuffix("`")
        where = f"{path}: {field}" if field else str(path)
        raise UsageError(f"{where}: {message}", hint=_HINT) from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise UsageError(f"{path}: this is no TOML: {error}", hint=_HINT) from error
