"""A simulated chip behind a whole simulated bus, driven by the same code as a real one.

`ftdi_bench` is our FTDI bus on pyftdi, unmodified, on a virtual adapter; `spidev_bench` our spidev
bus on a virtual device in this process (the package spidev and the kernel's ioctls are left out;
`hwtpm.tis_spi.virtual.spidev.serving` has them in other processes).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import Busy
from hwtpm.softtpm.base import SoftwareTpm
from hwtpm.tis_spi.bus import SpiBus
from hwtpm.tis_spi.ftdi import FtdiBus
from hwtpm.tis_spi.mpsse import Wires
from hwtpm.tis_spi.spi_ioc import IocTransfer
from hwtpm.tis_spi.spidev import SpidevBus
from hwtpm.tis_spi.virtual.chip import VirtualSpiChip
from hwtpm.tis_spi.virtual.ftdi import FT232H, VirtualFtdi
from hwtpm.tis_spi.virtual.habits import Habits
from hwtpm.tis_spi.virtual.spidev import SpiTransfer, VirtualSpidev
from hwtpm.tis_spi.virtual.usb import VirtualUsb, installed

__all__ = ["Bench", "ftdi_bench", "spidev_bench"]

_WIRES: Final = Wires(cs=3, reset=4, irq=5)
_SERIAL: Final = "SIMULATED"
_PATH: Final = "/dev/spidev0.0"
_installing: Final = threading.Lock()


class Bench(NamedTuple):
    """A bus, the chip on it (powered on), and the clock that both live by."""

    bus: SpiBus
    chip: VirtualSpiChip
    clock: Clock


class _BenchClock:
    """The machine's time, but for what the software TPM takes to compute: a chip's time is what its
    habits say, and an RSA key that a busy machine is slow to make must not look like a dead bus."""

    def __init__(self) -> None:
        self._real = RealClock()
        self._computed_s = 0.0

    def now(self) -> float:
        return self._real.now() - self._computed_s

    def sleep(self, duration_s: float) -> None:
        self._real.sleep(duration_s)

    def stop_while(self, tpm: SoftwareTpm) -> SoftwareTpm:
        """The same TPM, while whose commands this clock stands still."""
        return _Computing(tpm, self)

    def skip_since(self, start_s: float) -> None:
        self._computed_s += self.now() - start_s


class _Computing:
    def __init__(self, tpm: SoftwareTpm, clock: _BenchClock) -> None:
        self._tpm = tpm
        self._clock = clock
        # All but commands as the TPM has it.
        self.power_on = tpm.power_on
        self.reset_established = tpm.reset_established
        self.hash_start = tpm.hash_start
        self.hash_data = tpm.hash_data
        self.hash_end = tpm.hash_end
        self.close = tpm.close

    @property
    def description(self) -> str:
        return self._tpm.description

    @property
    def established(self) -> bool:
        return self._tpm.established

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        start_s = self._clock.now()
        try:
            return self._tpm.execute(command, locality)
        finally:
            self._clock.skip_since(start_s)


def ftdi_bench(tpm: SoftwareTpm, habits: Habits, sck_hz: int) -> Bench:
    """An FT232H with the chip on it: chip select on xDBUS3, RST# on 4, PIRQ# on 5.

    While it opens, nobody else in this process can open an adapter; afterwards anybody can.

    Raises:
        StateError: the TPM's stored state is unusable.
        Busy: another thread opens one right now.
        Unsupported: pyftdi is not installed.
    """
    clock, chip = _powered(tpm, habits)
    adapter = VirtualFtdi(FT232H, _SERIAL, clock)
    port = adapter.ports[0]
    port.attach(chip, _WIRES.cs)
    port.pins.watch(_WIRES.reset or 0, lambda level: chip.reset(not level))
    port.pins.connect(_WIRES.irq or 0, lambda: not chip.irq)
    if not _installing.acquire(blocking=False):
        raise Busy("another simulated adapter is being opened", hint="open one after the other")
    try:
        with installed(VirtualUsb(adapter)):
            bus = FtdiBus.open(_SERIAL, _WIRES, sck_hz=sck_hz, clock=clock)
    finally:
        _installing.release()
    return Bench(bus, chip, clock)


def spidev_bench(tpm: SoftwareTpm, habits: Habits, clock_hz: int) -> Bench:
    """A spidev device with the chip on it, without lines for RST# and PIRQ#.

    Raises:
        StateError: the TPM's stored state is unusable.
    """
    clock, chip = _powered(tpm, habits)
    spidev = VirtualSpidev({_PATH: chip}, clock=clock)
    spidev.open(_PATH)
    bus = SpidevBus(_Opened(spidev), Path(_PATH), clock_hz=clock_hz, clock=clock)
    return Bench(bus, chip, clock)


def _powered(tpm: SoftwareTpm, habits: Habits) -> tuple[Clock, VirtualSpiChip]:
    clock = _BenchClock()
    chip = VirtualSpiChip(clock.stop_while(tpm), habits, clock)
    chip.power_on()
    return clock, chip


class _Opened:
    """The `SpiFile` of a virtual device."""

    def __init__(self, spidev: VirtualSpidev) -> None:
        self._spidev = spidev

    def message(self, transfers: Sequence[IocTransfer]) -> bytes:
        moved = [
            SpiTransfer(len(tx), tx, reads=True, cs_change=cs_change, delay_us=delay_us)
            for tx, cs_change, delay_us in transfers
        ]
        return b"".join(self._spidev.message(_PATH, moved))

    def close(self) -> None:
        """Nothing is held."""
