"""How a simulated TPM on SPI behaves, as data; and what is known of real chips in that form.

A profile is what others observed and published (the sources are those of `hwtpm.tis_spi.quirks`),
completed with the specification's behaviour. None has been compared with a chip by this project.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from hwtpm.errors import UsageError
from hwtpm.tis.personality import PC_CLIENT_TPM12, PC_CLIENT_TPM20, Personality
from hwtpm.tis.registers import STS, Sts
from hwtpm.tis_lpc_sim.faults import BitFault, Fault, Since

__all__ = [
    "PROFILES",
    "Beyond",
    "FlippedBit",
    "Habits",
    "Miso",
    "seeded_waits",
    "stuck_status",
    "stuck_valid",
]


class Beyond(Enum):
    """What the chip does with a transfer longer than it supports."""

    DISCARD = auto()  # takes what it supports; the rest is lost, and reads all ones
    IGNORE = auto()  # does not answer to the transaction at all


class Miso(Enum):
    """What is wrong with the line from chip to host."""

    SOUND = auto()
    ALL_ONES = auto()
    ALL_ZEROS = auto()
    ONE_BIT_LATE = auto()
    ONE_BIT_EARLY = auto()


@dataclass(frozen=True, slots=True)
class FlippedBit:
    """One wrong bit on MISO: in which transaction since power on, and its number there, from 0."""

    transaction: int
    bit: int


@dataclass(frozen=True, slots=True)
class Habits:
    """One chip and its wires.

    Raises:
        UsageError: a number that no chip can have.

    Attributes:
        personality: identity, family, burst counts, transfer size, where Completion leads.
        capability: content of INTF_CAPABILITY, if it is not what `personality` makes of itself.
        faults: what registers do wrong for a while: `hwtpm.tis_lpc_sim.faults.late_valid`,
            `zero_bursts`, `refused_locality` and the like, and here `stuck_status`,
            `stuck_valid`. A power cycle or reset starts them anew.
        read_waits: wait bytes of successive read transactions, taken in turn.
        write_waits: the same for writes.
        header_lies: the header's last byte says ready too early; then there is a wait byte always.
        checks_address: to a header that is for nobody the line floats. Otherwise the chip says
            ready all the same, as SLB9670 was seen to do; here it then reads all ones.
        beyond: what happens to more than the personality's transfer size.
        busy_s: how long a command executes.
        busy_polls: how often the chip says "busy" to a look at STS or PIRQ# after tpmGo.
        boot_s: how long after a reset the chip drives MISO low.
        gap_s: a transaction that follows another one sooner is not heard.
        sleeps_after_s: idle time after which the chip sleeps, 0 for never; chip select wakes it.
        wake_s: how long it then hears nothing.
        miso: what the line to the host does.
        flipped_bit: one wrong bit on it.
        unplug_after_bytes: bytes on the bus since power on after which the chip is gone.
    """

    personality: Personality = PC_CLIENT_TPM12
    capability: int | None = None
    faults: tuple[Fault, ...] = ()
    read_waits: tuple[int, ...] = (0,)
    write_waits: tuple[int, ...] = (0,)
    header_lies: bool = False
    checks_address: bool = True
    beyond: Beyond = Beyond.DISCARD
    busy_s: float = 0.0
    busy_polls: int = 0
    boot_s: float = 0.0
    gap_s: float = 0.0
    sleeps_after_s: float = 0.0
    wake_s: float = 0.0
    miso: Miso = Miso.SOUND
    flipped_bit: FlippedBit | None = None
    unplug_after_bytes: int | None = None
    name: str = field(default="simulated TPM on SPI", kw_only=True)

    def __post_init__(self) -> None:
        numbers = (*self.read_waits, *self.write_waits, self.busy_polls, self.busy_s, self.boot_s)
        if min(*numbers, self.gap_s, self.sleeps_after_s, self.wake_s) < 0:
            raise UsageError(f"{self.name}: a negative time or count")
        if not self.read_waits or not self.write_waits:
            raise UsageError(f"{self.name}: no wait bytes at all is (0,)")


def seeded_waits(seed: int, highest: int) -> tuple[int, ...]:
    """0 to `highest` wait bytes at random, always the same for one seed; repeats after 97."""
    return tuple(random.Random(seed).choices(range(highest + 1), k=97))  # noqa: S311 no secret


def stuck_status(rounds: int = 1) -> BitFault:
    """STS stays 0 after the first `rounds` writes of commandReady; a further one mends it."""
    return BitFault(STS, clear=0xFF, since=Since.COMMAND_READY, rounds=rounds)


def stuck_valid(rounds: int = 1) -> BitFault:
    """stsValid does not come for the first `rounds` commands; to abort and resend mends it."""
    return BitFault(STS, clear=Sts.VALID, since=Since.COMMAND_READY, rounds=rounds)


def _chip(base: Personality, did_vid: int, **personality: int | bool) -> Personality:
    return replace(base, did_vid=did_vid, **personality)  # type: ignore[arg-type]


_SLB9670: Final = Habits(
    _chip(PC_CLIENT_TPM20, 0x001B15D1, rid=0x16, burst_limit=255, buffer_size=1420),
    checks_address=False,
    busy_s=0.0022,
    name="SLB9670",
)

_TWO_WAITS: Final = (2,)

PROFILES: Final[Mapping[str, Habits]] = MappingProxyType(
    {
        "slb9670": _SLB9670,
        "slb9670-tpm12": replace(
            _SLB9670,
            personality=_chip(
                PC_CLIENT_TPM12, 0x001B15D1, rid=0x16, burst_limit=255, buffer_size=1420
            ),
            name="SLB9670 TPM 1.2",
        ),
        "slb9672": Habits(
            _chip(PC_CLIENT_TPM20, 0x001D15D1, rid=0x26, burst_limit=128),
            faults=(stuck_status(),),
            checks_address=False,
            busy_s=0.0014,
            name="SLB9672",
        ),
        "st33ktpm2x": Habits(
            _chip(PC_CLIENT_TPM20, 0x0003104A, rid=0, transfer_size=32, burst_limit=32),
            capability=0x30000415,
            read_waits=(0, 1, 2),
            write_waits=(0, 1, 2),
            busy_s=0.0014,
            name="ST33KTPM2X",
        ),
        "npct75x": Habits(
            _chip(PC_CLIENT_TPM20, 0x00FC1050, rid=1, burst_limit=64),
            read_waits=(1,),
            write_waits=(1,),
            busy_s=0.0022,
            name="NPCT75x",
        ),
        "attpm20p": Habits(
            _chip(PC_CLIENT_TPM20, 0x32051114, burst_limit=64),
            capability=0x30000695,
            read_waits=_TWO_WAITS,
            write_waits=_TWO_WAITS,
            busy_s=0.029,
            name="ATTPM20P",
        ),
        "ns350": Habits(
            _chip(PC_CLIENT_TPM20, 0x07019999, burst_limit=64),
            capability=0x30000615,
            read_waits=(1,),
            write_waits=(1,),
            busy_s=0.0055,
            name="NS350",
        ),
        "qvault": Habits(
            _chip(PC_CLIENT_TPM20, 0x00832406, burst_static=True, burst_limit=64),
            read_waits=(1,),
            write_waits=(1,),
            name="QVault TPM",
        ),
        "cr50": Habits(
            _chip(PC_CLIENT_TPM20, 0x00281AE0, rid=0, burst_limit=63),
            read_waits=(3,),
            write_waits=(3,),
            header_lies=True,
            gap_s=0.002,
            sleeps_after_s=1.0,
            wake_s=0.002,
            name="cr50",
        ),
    }
)
"""Chips by the name a command line can have."""
