"""What is attached to this machine that a TPM may be behind, found without touching it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from hwtpm.errors import HwtpmError
from hwtpm.tis_spi.ftdi_adapters import adapters
from hwtpm.tis_spi.spidev_sysfs import DEV, SYSFS, devices

__all__ = ["Found", "attached"]

_KERNEL: Final = "tpm[0-9]*"


class Found(NamedTuple):
    """An address and what has it; `spi` tells whether it is an SPI bus of ours to ask."""

    address: str
    what: str
    spi: bool


def attached(dev: Path = DEV, sysfs: Path = SYSFS) -> tuple[list[Found], list[str]]:
    """The kernel's TPMs, spidev devices and FTDI adapters; and what could not be looked for."""
    found = [Found(f"dev:{node}", "the kernel's TPM", False) for node in sorted(dev.glob(_KERNEL))]
    for device in devices(dev, sysfs):
        parts = (device.compatible, device.controller)
        what = ", ".join(part for part in ("spidev", *parts) if part)
        found.append(Found(f"spidev:{device.path}", what, True))
    not_looked = []
    try:
        for adapter in adapters():
            place = f"{adapter.chip} at bus {adapter.bus}, device {adapter.address}"
            found += [
                Found(adapter.url(number), place, True)
                for number in range(1, adapter.interfaces + 1)
            ]
    except HwtpmError as error:
        not_looked.append(f"FTDI adapters: {error.message}")
    return found, not_looked
