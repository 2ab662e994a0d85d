"""A deliberately naive SPI master for TPMs: one byte at a time, polls every wait state.

Written from the bit protocol's text, without `hwtpm.tis_spi.framing`, so that the two check one
another; it batches nothing and knows one chip habit only: pauses.
"""

from __future__ import annotations

from hwtpm.clock import Clock
from hwtpm.errors import BusError
from hwtpm.tis_spi.quirks import STRICT, Quirks
from hwtpm.tis_spi.virtual import SpiSlave


class NaiveMaster:
    """A TIS port that drives an `SpiSlave`; `drops_select` is a bus that cannot hold CS#."""

    def __init__(
        self,
        slave: SpiSlave,
        clock: Clock,
        quirks: Quirks = STRICT,
        *,
        drops_select: bool = False,
    ) -> None:
        self.slave = slave
        self.clock = clock
        self.quirks = quirks
        self.drops_select = drops_select
        self.last_use_s = clock.now()
        self.miso = b""

    def read(self, address: int, size: int) -> bytes:
        return self._transaction(0x80 | size - 1, address, bytes(size))

    def write(self, address: int, data: bytes) -> None:
        self._transaction(len(data) - 1, address, data)

    def close(self) -> None:
        self.slave.select(False)

    def _transaction(self, first: int, address: int, data: bytes) -> bytes:
        self._be_heard()
        self.miso = b""
        self.slave.select(True)
        try:
            for byte in (first, 0xD4, address >> 8, address & 0xFF):
                ready = self._clock_byte(byte) & 1
            if self.drops_select:
                self.slave.select(False)
                self.slave.select(True)
            if not self.quirks.header_bit_valid:
                ready = 0
            waits = 0
            while not ready:
                if waits == self.quirks.max_waits:
                    raise BusError(f"the chip waits for more than {waits} bytes")
                ready = self._clock_byte(data[0]) & 1
                waits += 1
            return bytes(self._clock_byte(byte) for byte in data)
        finally:
            self.slave.select(False)
            self.last_use_s = self.clock.now()

    def _be_heard(self) -> None:
        if 0 < self.quirks.sleeps_after_s < self.clock.now() - self.last_use_s:
            self.slave.select(True)
            self.clock.sleep(self.quirks.wake_pulse_s)
            self.slave.select(False)
            self.clock.sleep(self.quirks.wake_wait_s)
        self.clock.sleep(self.quirks.gap_s)

    def _clock_byte(self, mosi: int) -> int:
        self.miso += bytes([self.slave.shift(mosi)])
        return self.miso[-1]
