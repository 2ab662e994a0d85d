"""The bench without hardware: a TPM on SPI at byte level, and a spidev in front of it.

Everything here says that it is simulated; no address falls back to it.
"""

from __future__ import annotations

from hwtpm.tis_spi.virtual.chip import VirtualSpiChip
from hwtpm.tis_spi.virtual.habits import PROFILES, Habits
from hwtpm.tis_spi.virtual.slave import SlaveCounters, SpiSlave

__all__ = ["PROFILES", "Habits", "SlaveCounters", "SpiSlave", "VirtualSpiChip"]
