"""Scripted faults between bus and chip: plain data, so that every failure can be replayed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from hwtpm.tis.registers import (
    ACCESS,
    REGISTERS,
    STS,
    Access,
    Register,
    Sts,
    register_at,
)
from hwtpm.tis_lpc_sim.window import RegisterFile

__all__ = [
    "BitFault",
    "BurstFault",
    "Fault",
    "FaultyRegisters",
    "Since",
    "TruncateFault",
    "absent_chip",
    "busy",
    "dead_line",
    "dropped_expect",
    "late_valid",
    "refused_locality",
    "zero_bursts",
]


class Since(Enum):
    """The event from which a fault counts its register's reads; each one starts it anew."""

    POWER_ON = auto()
    REQUEST = auto()  # ACCESS.requestUse or Seize written
    COMMAND_READY = auto()
    GO = auto()
    RETRY = auto()


@dataclass(frozen=True, slots=True)
class BitFault:
    """Bits of a register that read wrong: from read number `first` on, `count` reads or for ever.

    `locality` None hits all localities; `rounds` limits after how many events it happens.
    """

    register: Register
    force: int = 0
    clear: int = 0
    first: int = 0
    count: int | None = None
    since: Since = Since.POWER_ON
    rounds: int | None = None
    locality: int | None = None


@dataclass(frozen=True, slots=True)
class BurstFault:
    """Burst counts as announced by successive STS reads, in turn; never more than there is.

    Bytes beyond what was announced last are lost, as on a chip that cannot insert wait states.
    """

    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TruncateFault:
    """The response ends after `size` bytes, as often as `times`; a retry starts it again."""

    size: int
    times: int = 1


Fault = BitFault | BurstFault | TruncateFault


def late_valid(reads: int, since: Since = Since.GO) -> BitFault:
    """stsValid stays away for a number of reads."""
    return BitFault(STS, clear=Sts.VALID, count=reads, since=since)


def busy(reads: int | None) -> BitFault:
    """The command executes for a number of STS reads, or for ever."""
    return BitFault(STS, clear=Sts.VALID | Sts.DATA_AVAIL, count=reads, since=Since.GO)


def zero_bursts(first: int, reads: int | None, since: Since = Since.COMMAND_READY) -> BitFault:
    """The burst count is zero for a number of reads, or for ever."""
    return BitFault(STS, clear=Sts.BURST_COUNT, first=first, count=reads, since=since)


def refused_locality(reads: int | None, locality: int | None = None) -> BitFault:
    """Access is not granted for a number of reads, or never."""
    return BitFault(
        ACCESS, clear=Access.ACTIVE, count=reads, since=Since.REQUEST, locality=locality
    )


def dropped_expect(first: int = 0) -> BitFault:
    """The chip stops to expect a command's bytes."""
    return BitFault(STS, clear=Sts.EXPECT, first=first, since=Since.COMMAND_READY)


def absent_chip(first: int = 0) -> list[BitFault]:
    """From each register's read number `first` on everything reads all ones."""
    return [
        BitFault(register, force=(1 << 8 * register.size) - 1, first=first)
        for register in REGISTERS
    ]


def dead_line(first: int = 0) -> list[BitFault]:
    """From each register's read number `first` on everything reads zero."""
    return [
        BitFault(register, clear=(1 << 8 * register.size) - 1, first=first)
        for register in REGISTERS
    ]


class FaultyRegisters:
    """Registers that fail as `faults` say; the same accesses always see the same failures."""

    def __init__(self, registers: RegisterFile, faults: Iterable[Fault]) -> None:
        self._registers = registers
        faults = tuple(faults)
        self._bits = [_BitState(fault) for fault in faults if isinstance(fault, BitFault)]
        self._bursts = [_BurstState(fault) for fault in faults if isinstance(fault, BurstFault)]
        self._truncations = [
            _TruncateState(fault) for fault in faults if isinstance(fault, TruncateFault)
        ]

    def read(self, locality: int, offset: int, size: int) -> bytes:
        """What the bus sees."""
        register = register_at(offset)
        data = self._registers.read(locality, offset, size)
        if register is None:
            return data
        if register.is_fifo:
            for burst in self._bursts:
                data = burst.cut(data).ljust(size, b"\xff")
            for truncation in self._truncations:
                data = truncation.cut(data).ljust(size, b"\xff")
        shift = 8 * (offset - register.offset)
        content = int.from_bytes(data, "little") << shift
        if register is STS and data.strip(b"\xff"):
            for burst in self._bursts:
                content = burst.announce(content)
            for truncation in self._truncations:
                content = truncation.announce(content)
        for fault in self._bits:
            content = fault.apply(register, locality, content)
        return (content >> shift & (1 << 8 * size) - 1).to_bytes(size, "little")

    def write(self, locality: int, offset: int, data: bytes) -> None:
        """What reaches the chip."""
        register = register_at(offset)
        if register is not None:
            if register.is_fifo:
                for burst in self._bursts:
                    data = burst.cut(data)
            for event in _events(register, data):
                for fault in self._bits:
                    fault.happened(event)
                for truncation in self._truncations:
                    truncation.happened(event)
        self._registers.write(locality, offset, data)


def _events(register: Register, data: bytes) -> list[Since]:
    value = int.from_bytes(data, "little")
    causes: tuple[tuple[Register, int, Since], ...] = (
        (ACCESS, Access.REQUEST | Access.SEIZE, Since.REQUEST),
        (STS, Sts.COMMAND_READY, Since.COMMAND_READY),
        (STS, Sts.GO, Since.GO),
        (STS, Sts.RETRY, Since.RETRY),
    )
    return [event for where, bits, event in causes if where is register and value & bits]


class _BitState:
    def __init__(self, fault: BitFault) -> None:
        self._fault = fault
        self._reads = 0
        self._rounds = int(fault.since is Since.POWER_ON)

    def happened(self, event: Since) -> None:
        if event is self._fault.since:
            self._reads = 0
            self._rounds += 1

    def apply(self, register: Register, locality: int, content: int) -> int:
        fault = self._fault
        if register is not fault.register or fault.locality not in (None, locality):
            return content
        number, self._reads = self._reads, self._reads + 1
        late = fault.count is not None and number >= fault.first + fault.count
        spent = fault.rounds is not None and self._rounds > fault.rounds
        if number < fault.first or late or spent or not self._rounds:
            return content
        return content & ~fault.clear | fault.force


class _BurstState:
    def __init__(self, fault: BurstFault) -> None:
        self._counts = fault.counts
        self._next = 0
        self._announced = 0

    def announce(self, sts: int) -> int:
        count = self._counts[self._next % len(self._counts)]
        self._next += 1
        self._announced = min(count, Sts.BURST_COUNT.of(sts))
        return sts & ~Sts.BURST_COUNT | Sts.BURST_COUNT.put(self._announced)

    def cut(self, data: bytes) -> bytes:
        data = data[: self._announced]
        self._announced -= len(data)
        return data


class _TruncateState:
    def __init__(self, fault: TruncateFault) -> None:
        self._fault = fault
        self._round = 0
        self._read = 0
        self._responding = False

    @property
    def _active(self) -> bool:
        return self._responding and self._round <= self._fault.times

    def happened(self, event: Since) -> None:
        if event in (Since.GO, Since.RETRY):
            self._round += 1
            self._read = 0
            self._responding = True
        elif event is Since.COMMAND_READY:
            self._responding = False

    def cut(self, data: bytes) -> bytes:
        if not self._active:
            return data
        rest = max(self._fault.size - self._read, 0)
        self._read += len(data)
        return data[:rest]

    def announce(self, sts: int) -> int:
        if self._active and self._read >= self._fault.size:
            return sts & ~Sts.DATA_AVAIL
        return sts
