"""What Linux says about its SPI devices: which can be opened, and why one cannot."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hwtpm.errors import AccessDenied, BusError, Busy, DeviceNotFound, HwtpmError, Unsupported

__all__ = ["DEV", "SYSFS", "SpidevDevice", "buffer_size", "devices", "link_error", "open_error"]

DEV: Final = Path("/dev")
SYSFS: Final = Path("/sys")

_NODE: Final = re.compile(r"spidev(\d+)\.(\d+)")
_DEFAULT_BUFFER_SIZE: Final = 4096
_OVERLAY_HINT: Final = (
    "Raspberry Pi: set dtparam=spi=on in config.txt and start again; elsewhere give the chip "
    "select a node in the device tree that the driver spidev takes"
)
_UDEV_HINT: Final = (
    "become a member of the group spi (udev rule: "
    'SUBSYSTEM=="spidev", GROUP="spi", MODE="0660"), or run as root'
)
_GONE: Final = (errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN)


@dataclass(frozen=True, slots=True)
class SpidevDevice:
    """A device file of spidev; what sysfs does not tell is empty.

    Attributes:
        path: the device file.
        bus, chip_select: its numbers.
        compatible: what the device tree says is connected; else the modalias.
        controller: name and driver of the SPI controller.
        neighbours: other devices on the same bus, with the drivers that have them. A message to
            one of them ends a chip select that is kept low for a chip's wait states.
    """

    path: Path
    bus: int
    chip_select: int
    compatible: str = ""
    controller: str = ""
    neighbours: tuple[str, ...] = ()


def devices(dev: Path = DEV, sysfs: Path = SYSFS) -> list[SpidevDevice]:
    """All device files of spidev, by number."""
    numbers = sorted(
        (int(match[1]), int(match[2]))
        for node in dev.glob("spidev*")
        if (match := _NODE.fullmatch(node.name))
    )
    return [_described(dev, sysfs, bus, chip_select) for bus, chip_select in numbers]


def buffer_size(sysfs: Path = SYSFS) -> int:
    """spidev's parameter bufsiz: bytes of one message in each direction."""
    try:
        return int((sysfs / "module/spidev/parameters/bufsiz").read_text())
    except (OSError, ValueError):
        return _DEFAULT_BUFFER_SIZE


def open_error(error: OSError, path: Path, dev: Path = DEV, sysfs: Path = SYSFS) -> HwtpmError:
    """Why a device file could not be opened, and what to do."""
    match error.errno:
        case errno.ENOENT:
            return _missing(path, dev, sysfs)
        case errno.EACCES | errno.EPERM:
            return AccessDenied(f"{path}: no permission", hint=_UDEV_HINT)
        case errno.ENOTTY | errno.EISDIR | errno.ENOTDIR:
            return DeviceNotFound(
                f"{path} is no spidev device", hint=_known(dev, sysfs) or _OVERLAY_HINT
            )
        case errno.EBUSY:
            return Busy(f"{path}: somebody else uses it", hint=f"fuser -v {path} shows who")
        case errno.EINVAL:
            return Unsupported(
                f"{path}: the controller cannot do SPI mode 0 with 8 bits at that clock",
                hint="choose another clock; read the kernel's log",
            )
    return link_error(error, path)


def link_error(error: OSError, path: Path) -> HwtpmError:
    """What it means that a system call on an open device failed."""
    if error.errno in _GONE:
        return DeviceNotFound(
            f"{path}: the device is gone",
            hint="plug the adapter in again; was the driver unbound, or an overlay removed?",
        )
    if error.errno == errno.EMSGSIZE:
        return BusError(
            f"{path}: spidev has no room for that message",
            hint="this kernel aligns transfers wider than we know: set spidev.bufsiz=65536 on the "
            "kernel's command line",
        )
    return BusError(
        f"{path}: {error.strerror or error}",
        hint="is the adapter still plugged in? Read the kernel's log for the controller's own "
        "complaint",
    )


def _missing(path: Path, dev: Path, sysfs: Path) -> HwtpmError:
    match = _NODE.fullmatch(path.name)
    device = sysfs / f"bus/spi/devices/spi{match[1]}.{match[2]}" if match else None
    driver = _linked(device / "driver") if device else ""
    if device and driver not in ("", "spidev"):
        tpms = sorted(node.name for node in device.glob("tpm/tpm*"))
        hint = f"{device.name} is the kernel's: remove the overlay that gives it to {driver}"
        if tpms or driver.startswith("tpm"):
            # The board's overlay (tpm-slb9670 and the like) took the chip select for the kernel.
            node = dev / (tpms[0] if tpms else "tpm0")
            hint = f"use dev:{node}, or remove the board's TPM overlay from config.txt"
        return Busy(f"{path}: the kernel's driver {driver} owns this chip select", hint=hint)
    if device and device.exists() and not driver:
        return DeviceNotFound(
            f"{path}: {device.name} is there, but no driver has it",
            hint=f"modprobe spidev; if that is not enough: echo spidev > {device}/driver_override; "
            f"echo {device.name} > {sysfs}/bus/spi/drivers/spidev/bind",
        )
    return DeviceNotFound(
        f"{path}: there is no such device", hint=_known(dev, sysfs) or _OVERLAY_HINT
    )


def _known(dev: Path, sysfs: Path) -> str:
    found = ", ".join(str(device.path) for device in devices(dev, sysfs))
    return f"there is: {found}" if found else ""


def _described(dev: Path, sysfs: Path, bus: int, chip_select: int) -> SpidevDevice:
    all_of_them = sysfs / "bus/spi/devices"
    name = f"spi{bus}.{chip_select}"
    device = (all_of_them / name).resolve()
    controller = device.parent.parent
    driver = _linked(controller / "driver")
    names = _text(device / "of_node/compatible") or _text(device / "modalias")
    return SpidevDevice(
        dev / f"spidev{bus}.{chip_select}",
        bus,
        chip_select,
        compatible=names,
        controller=f"{controller.name} ({driver})" if driver else "",
        neighbours=tuple(
            f"{other.name} ({_linked(other / 'driver') or 'no driver'})"
            for other in sorted(all_of_them.glob(f"spi{bus}.*"))
            if other.name != name
        ),
    )


def _linked(link: Path) -> str:
    """The name of what a link points to; empty where there is none."""
    return link.resolve().name if link.exists() else ""


def _text(file: Path) -> str:
    """A file of sysfs; of several strings the first."""
    try:
        return file.read_text(errors="replace").split("\0")[0].strip()
    except OSError:
        return ""
