"""Batches of register accesses under construction."""

from __future__ import annotations

from functools import cache
from typing import Final

from hwtpm.tis.registers import DATA_FIFO, STS, Register, Sts, address_of
from hwtpm.tis_spi.bus import AwaitIrq, Captured, Pause, Step, Transfer
from hwtpm.tis_spi.flow import read_transfer, write_transfer

__all__ = ["Results", "Steps", "is_ready"]

_FLOATING: Final = 0xFF


@cache
def _put(address: int, value: int, size: int) -> Transfer:
    return write_transfer(address, value.to_bytes(size, "little"))


class Steps:
    """Steps at one locality. Each transfer is numbered; its answer has that number in the results.

    FIFO transfers are cut to `chunk` bytes.
    """

    def __init__(self, locality: int, chunk: int) -> None:
        self.steps: list[Step] = []
        self.transfers = 0
        self.paused_s = 0.0
        self._locality = locality
        self._chunk = chunk
        self._fifo = address_of(DATA_FIFO, locality)

    def put(self, register: Register, value: int, size: int = 1) -> int:
        """Write the low `size` bytes of a register."""
        return self._add(_put(address_of(register, self._locality), value, size))

    def get(self, register: Register = STS) -> int:
        """Read a register."""
        return self._add(read_transfer(address_of(register, self._locality), register.size))

    def send(self, data: bytes) -> int:
        """Write to the FIFO; the number of the first transfer."""
        first = self.transfers
        for at in range(0, len(data), self._chunk):
            self._add(write_transfer(self._fifo, data[at : at + self._chunk]))
        return first

    def fetch(self, size: int) -> list[int]:
        """Read from the FIFO; the numbers of the transfers."""
        return [
            self._add(read_transfer(self._fifo, min(self._chunk, size - at)))
            for at in range(0, size, self._chunk)
        ]

    def pause(self, duration_s: float) -> None:
        """Let time pass, if it is any."""
        if duration_s > 0:
            self.steps.append(Pause(duration_s))
            self.paused_s += duration_s

    def await_irq(self, timeout_s: float) -> None:
        """Go on when the chip asserts PIRQ#."""
        self.steps.append(AwaitIrq(timeout_s))

    def _add(self, transfer: Transfer) -> int:
        self.steps.append(transfer)
        self.transfers += 1
        return self.transfers - 1


class Results:
    """What a batch brought back."""

    def __init__(self, captured: list[Captured], transfers: int) -> None:
        self._captured = captured
        self.transfers = transfers
        self.void = next(
            (number for number, answer in enumerate(captured) if not _sound(answer)),
            len(captured),
        )
        """Number of the first transfer that the chip made wait, or that was not made any more."""

    @property
    def whole(self) -> bool:
        """Every transfer was made, and none had to wait."""
        return self.void == self.transfers

    @property
    def made(self) -> int:
        """Transfers that were made."""
        return len(self._captured)

    def value(self, number: int) -> int:
        """A register's content."""
        return int.from_bytes(self._captured[number].data, "little")

    def data(self, numbers: list[int]) -> bytes:
        """What came out of the FIFO."""
        return b"".join(self._captured[number].data for number in numbers)


def _sound(answer: Captured) -> bool:
    # A chip that does not hear the header leaves the line floating: that is no ready bit.
    return answer.ready and answer.status != _FLOATING


def is_ready(sts: int) -> bool:
    """Whether the chip takes a command. Some chips show stsValid then, others do not."""
    seen = Sts.COMMAND_READY | Sts.DATA_AVAIL | Sts.EXPECT
    return sts & seen == Sts.COMMAND_READY
