"""The memory window of a TPM on LPC: five locality pages at 0xFED40000.

TIS 1.21 "Locality addresses": 4 KiB a locality, accesses of 1, 2 and 4 bytes, little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hwtpm.errors import UsageError
from hwtpm.tis.registers import LOCALITIES, LOCALITY_SIZE, LPC_BASE, register_at, split_address

__all__ = ["LpcPort", "LpcWindow", "RegisterFile"]

_WIDTHS = (4, 2, 1)


class RegisterFile(Protocol):
    """Registers of a TPM by locality and page offset: a chip core, or something in front of it."""

    def read(self, locality: int, offset: int, size: int) -> bytes:
        """`size` bytes: a FIFO burst, or part of one register."""
        ...

    def write(self, locality: int, offset: int, data: bytes) -> None:
        """A FIFO burst, or part of one register."""
        ...


class LpcWindow:
    """Memory accesses as a CPU makes them, on the registers behind.

    Addresses outside of the window read all ones and ignore writes, as on a bus where nobody
    answers. An unaligned access is split into aligned ones, lowest address first.
    """

    def __init__(self, registers: RegisterFile) -> None:
        self._registers = registers

    def read(self, address: int, size: int) -> int:
        """Load 1, 2 or 4 bytes."""
        data = b"".join(
            self._registers.read(*split_address(piece - LPC_BASE), width)
            if _decoded(piece)
            else b"\xff" * width
            for piece, width in _pieces(address, size)
        )
        return int.from_bytes(data, "little")

    def write(self, address: int, value: int, size: int) -> None:
        """Store 1, 2 or 4 bytes."""
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        for piece, width in _pieces(address, size):
            if _decoded(piece):
                at = piece - address
                self._registers.write(*split_address(piece - LPC_BASE), data[at : at + width])


class LpcPort:
    """A TIS port on the window: register accesses of their width, FIFO bursts as loops.

    `let_go` is called when it is closed.
    """

    def __init__(self, window: LpcWindow, let_go: Callable[[], None] = lambda: None) -> None:
        self._window = window
        self._let_go = let_go

    def read(self, address: int, size: int) -> bytes:
        """One register, or a FIFO burst."""
        return b"".join(
            self._window.read(LPC_BASE + at, width).to_bytes(width, "little")
            for at, width in _loop(address, size)
        )

    def write(self, address: int, data: bytes) -> None:
        """One register, or a FIFO burst."""
        done = 0
        for at, width in _loop(address, len(data)):
            value = int.from_bytes(data[done : done + width], "little")
            self._window.write(LPC_BASE + at, value, width)
            done += width

    def close(self) -> None:
        """See `hwtpm.tis.Port.close`."""
        self._let_go()


def _decoded(address: int) -> bool:
    return LPC_BASE <= address < LPC_BASE + LOCALITIES * LOCALITY_SIZE


def _pieces(address: int, size: int) -> list[tuple[int, int]]:
    """The naturally aligned accesses that make up one access."""
    if size not in _WIDTHS:
        raise UsageError(f"access of {size} bytes at {address:#x}: LPC has 1, 2 and 4")
    pieces = []
    end = address + size
    while address < end:
        width = next(w for w in _WIDTHS if address % w == 0 and address + w <= end)
        pieces.append((address, width))
        address += width
    return pieces


def _loop(address: int, size: int) -> list[tuple[int, int]]:
    """The accesses of a port transfer: a FIFO keeps its address, other registers count up."""
    register = register_at(split_address(address)[1])
    step = 0 if register is not None and register.is_fifo else 1
    accesses = []
    done = 0
    while done < size:
        width = next(w for w in _WIDTHS if w <= size - done)
        accesses.append((address + step * done, width))
        done += width
    return accesses
