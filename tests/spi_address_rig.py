"""A running TPM on a virtual FTDI adapter, in the machine's time, for code that opens addresses."""

from __future__ import annotations

from hwtpm.clock import RealClock
from hwtpm.softtpm.base import MemoryStorage, SoftwareTpm
from hwtpm.softtpm.engine import Engine
from hwtpm.tis_spi.virtual import PROFILES, Habits, VirtualSpiChip
from hwtpm.tis_spi.virtual.ftdi import FT232H, VirtualFtdi
from hwtpm.tis_spi.virtual.usb import VirtualUsb
from hwtpm.tpm12.frame import ordinal_of

URL = "ftdi://ftdi:232h:BENCH/1"


class Counting:
    """Our engine, with the ordinals of the commands it got."""

    def __init__(self) -> None:
        self.engine = Engine(MemoryStorage())
        self.ordinals: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.engine, name)

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        self.ordinals.append(ordinal_of(command))
        return self.engine.execute(command, locality)


def plugged(tpm: SoftwareTpm | Counting, habits: Habits = PROFILES["slb9670-tpm12"]) -> VirtualUsb:
    """A TPM that runs, on an adapter."""
    clock = RealClock()
    chip = VirtualSpiChip(tpm, habits, clock)  # type: ignore[arg-type]
    chip.power_on()
    adapter = VirtualFtdi(FT232H, "BENCH", clock)
    adapter.ports[0].attach(chip, 3)
    return VirtualUsb(adapter)
