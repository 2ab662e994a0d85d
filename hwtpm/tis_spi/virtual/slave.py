"""The chip's end of the SPI bit protocol: bytes under a chip select become register accesses.

Where the specification is silent: a transaction takes effect when its last byte has been clocked
(a read when its data start), so one that ends early writes nothing; what the host sends during wait
bytes of a write is ignored, whether it is a dummy or the first data byte; the line floats (all
ones) where the chip has nothing to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

from hwtpm.errors import ProtocolError
from hwtpm.tis_lpc_sim.window import RegisterFile
from hwtpm.tis_spi.framing import HEADER_SIZE, Header, decode_header, transfer_limit
from hwtpm.tis_spi.virtual.habits import Beyond, Habits

__all__ = ["FLOATING", "BitProtocol", "SlaveCounters", "SpiSlave"]

FLOATING: Final = 0xFF
_BUSY: Final = 0x00
_READY: Final = 0x01


class SpiSlave(Protocol):
    """A device on SPI, as its bus sees it: chip select, and bytes in both directions at once."""

    def select(self, low: bool) -> None:
        """The level of CS#; low selects."""
        ...

    def shift(self, mosi: int) -> int:
        """Clock one byte; what the device drove on MISO meanwhile, all ones if it did not."""
        ...


@dataclass(slots=True)
class SlaveCounters:
    """What happened on the bus: `cs_edges` counts both directions, `bytes` those clocked while
    selected, `ignored` transactions that had no header for this chip, `early` those that ended
    before their last byte."""

    transactions: int = 0
    bytes: int = 0
    wait_bytes: int = 0
    cs_edges: int = 0
    ignored: int = 0
    early: int = 0


class _Phase(Enum):
    HEADER = auto()
    WAIT = auto()
    DATA = auto()
    OVER = auto()
    DEAF = auto()


class BitProtocol:
    """An `SpiSlave` in front of registers; each transaction is one register access."""

    def __init__(self, registers: RegisterFile, habits: Habits, counters: SlaveCounters) -> None:
        self._registers = registers
        self._habits = habits
        self._counters = counters
        self._limit = transfer_limit(habits.personality.transfer_size)
        self._number = {True: 0, False: 0}
        self._phase = _Phase.OVER
        self._received = bytearray()
        self._header = Header(True, 0, 1)
        self._waits = 0
        self._answer = b""
        self._at = 0

    def start(self, *, deaf: bool = False) -> None:
        """Chip select fell."""
        self._phase = _Phase.DEAF if deaf else _Phase.HEADER
        self._received.clear()
        self._counters.transactions += 1
        self._counters.ignored += deaf

    def end(self) -> None:
        """Chip select rose."""
        empty = self._phase is _Phase.HEADER and not self._received
        if self._phase not in (_Phase.OVER, _Phase.DEAF) and not empty:
            self._counters.early += 1
        self._phase = _Phase.OVER

    def coming(self) -> int:
        """What the next `shift` will return, as far as that does not depend on its argument."""
        match self._phase:
            case _Phase.HEADER:
                return _BUSY
            case _Phase.WAIT:
                return _READY if self._waits == 1 else _BUSY
            case _Phase.DATA if self._header.reading:
                return self._answer[self._at]
        return FLOATING

    def shift(self, mosi: int) -> int:
        """One byte within a transaction."""
        self._counters.bytes += 1
        miso = self.coming()
        match self._phase:
            case _Phase.HEADER:
                self._received.append(mosi)
                if len(self._received) == HEADER_SIZE:
                    return self._heed()
            case _Phase.WAIT:
                self._counters.wait_bytes += 1
                self._waits -= 1
                if not self._waits:
                    self._begin()
            case _Phase.DATA:
                self._received.append(mosi)
                self._at += 1
                if self._at == self._header.size:
                    self._finish()
        return miso

    def _heed(self) -> int:
        """The header is complete; the byte that goes out with its last one."""
        try:
            self._header = decode_header(bytes(self._received))
        except ProtocolError:
            return self._ignore()
        if self._habits.beyond is Beyond.IGNORE and self._header.size > self._limit:
            return self._ignore()
        turns = self._habits.read_waits if self._header.reading else self._habits.write_waits
        number = self._number[self._header.reading]
        self._number[self._header.reading] = number + 1
        self._waits = max(turns[number % len(turns)], self._habits.header_lies)
        if self._waits:
            self._phase = _Phase.WAIT
            return _READY if self._habits.header_lies else _BUSY
        self._begin()
        return _READY

    def _ignore(self) -> int:
        self._counters.ignored += 1
        self._phase = _Phase.DEAF
        return FLOATING if self._habits.checks_address else _READY

    def _begin(self) -> None:
        header = self._header
        self._phase = _Phase.DATA
        self._received.clear()
        self._at = 0
        if header.reading:
            size = min(header.size, self._limit)
            data = self._registers.read(header.locality, header.offset, size)
            self._answer = data.ljust(header.size, bytes([FLOATING]))

    def _finish(self) -> None:
        header = self._header
        self._phase = _Phase.OVER
        if not header.reading:
            data = bytes(self._received[: self._limit])
            self._registers.write(header.locality, header.offset, data)
