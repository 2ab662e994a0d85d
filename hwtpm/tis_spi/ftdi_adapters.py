"""FTDI adapters on USB: which are attached, and which one an address means."""

from __future__ import annotations

import errno
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from hwtpm.errors import AccessDenied, DeviceNotFound, Unsupported, UsageError

__all__ = [
    "DENIED",
    "GONE",
    "SYSFS",
    "Adapter",
    "Libraries",
    "adapters",
    "denied",
    "find_adapter",
    "libraries",
    "udev_rule",
]

# Warnings for people who configured logging, not for the stderr of those who did not.
logging.getLogger("pyftdi").addHandler(logging.NullHandler())

SYSFS: Final = Path("/sys/bus/usb/devices")
GONE: Final = (errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN)
DENIED: Final = (errno.EACCES, errno.EPERM)

_VENDOR: Final = 0x0403
_VENDOR_NAMES: Final = ("", "ftdi", "0x403", "0x0403")
_URL: Final = re.compile(r"ftdi://([^:/]*)(?::([^:/]*)(?::([^/]*))?)?/(\d+)", re.ASCII)
_PLACE: Final = re.compile(r"([0-9a-fA-F]+):([0-9a-fA-F]+)")
_PLAIN_SERIAL: Final = re.compile(r"(?!\d{1,3}$)[\w.+-]+", re.ASCII)
_LARGEST_INDEX: Final = 255

_MODELS: Final = {0x0900: ("FT232H", 1), 0x0700: ("FT2232H", 2), 0x0800: ("FT4232H", 2)}
"""Name and number of MPSSEs by bcdDevice: FT2232C and FT2232D have FT2232H's product id."""


class Libraries(NamedTuple):
    """What this needs of pyftdi and PyUSB, neither of which has types."""

    find: Any
    util: Any
    tools: Any
    ftdi: Any


def libraries() -> Libraries:
    """`usb.core.find`, `usb.util`, and pyftdi's `UsbTools` and `Ftdi`.

    Raises:
        Unsupported: pyftdi is not installed.
    """
    try:
        from pyftdi.ftdi import Ftdi
        from pyftdi.usbtools import UsbTools
        from usb import util
        from usb.core import find
    except ImportError as error:
        raise Unsupported(
            "FTDI adapters need pyftdi, which is not installed", hint="pip install 'hwtpm[ftdi]'"
        ) from error
    return Libraries(find, util, UsbTools, Ftdi)


@dataclass(frozen=True, slots=True)
class Adapter:
    """One attached adapter. `serial` is empty if it has none, None if it cannot be read.

    `interfaces` counts those with an MPSSE; they are the first ones, and numbered from 1.
    """

    chip: str
    product_id: int
    serial: str | None
    bus: int
    address: int
    interfaces: int

    def url(self, interface: int = 1, *, by_place: bool = False) -> str:
        """What names it, to pyftdi as well: by its serial number if that can be."""
        locator = self.serial or ""
        if by_place or not _PLAIN_SERIAL.fullmatch(locator):
            locator = f"{self.bus:x}:{self.address:x}"
        product = self.chip.removeprefix("FT").lower()
        return f"ftdi://ftdi:{product}:{locator}/{interface}"

    def describe(self, *, by_place: bool = False) -> str:
        """One line for people: the URL of each interface, and what it is."""
        numbers = range(1, self.interfaces + 1)
        urls = " ".join(self.url(number, by_place=by_place) for number in numbers)
        return f"{urls} ({self.chip} at bus {self.bus}, device {self.address})"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An address taken apart; None is any."""

    where: str
    chip: str | None
    locator: str | None
    interface: int

    @classmethod
    def parse(cls, where: str) -> Self:
        if "/" not in where and ":" not in where and where:
            return cls(where, None, where, 1)
        match = _URL.fullmatch(where)
        if match is None or match[1] not in _VENDOR_NAMES:
            raise UsageError(
                f"{where!r} names no FTDI adapter",
                hint="write ftdi://ftdi:232h:SERIAL/1, or the serial number alone",
            )
        chip = None
        if match[2]:
            chip = "FT" + match[2].lower().removeprefix("ft").removesuffix("h").upper() + "H"
            known = [name for name, _ in _MODELS.values()]
            if chip not in known:
                raise UsageError(
                    f"{where}: {match[2]!r} is no adapter with a fast MPSSE",
                    hint=f"use one of {', '.join(known)}",
                )
        return cls(where, chip, match[3] or None, int(match[4]))

    def choose(self, attached: list[tuple[Adapter, Any]]) -> tuple[Adapter, Any]:
        """The one adapter that is meant, and what comes with it."""
        rest = [each for each in attached if self.chip in (None, each[0].chip)]
        found = rest if self.locator is None else self._located(self.locator, rest)
        if len(found) == 1:
            return found[0]
        if found:
            # Where one serial number was not enough, another look at it does not help.
            by_place = self.locator is not None
            listed = "\n".join(adapter.describe(by_place=by_place) for adapter, _ in found)
            raise DeviceNotFound(
                f"{self.where}: {len(found)} adapters are meant", hint=f"name one of\n{listed}"
            )
        hidden = [adapter for adapter, _ in rest if adapter.serial is None]
        if hidden:
            raise denied(
                f"{self.where}: cannot read the serial number of {hidden[0].describe()}", hidden[0]
            )
        listed = "\n".join(adapter.describe() for adapter, _ in attached)
        raise DeviceNotFound(
            f"{self.where}: there is no such FTDI adapter",
            hint=f"attached are\n{listed}" if listed else "none is attached: plug it in",
        )

    def _located(self, locator: str, among: list[tuple[Adapter, Any]]) -> list[tuple[Adapter, Any]]:
        """By serial number, as BUS:ADDRESS in hexadecimal, or by number from 1."""
        found = [each for each in among if each[0].serial == locator]
        place = _PLACE.fullmatch(locator)
        if place is not None:
            at = int(place[1], 16), int(place[2], 16)
            return [each for each in among if (each[0].bus, each[0].address) == at]
        if not found and locator.isdecimal() and int(locator) <= _LARGEST_INDEX:
            index = max(int(locator) - 1, 0)
            return among[index : index + 1]
        return found


def udev_rule(product_id: int) -> str:
    """The line that lets the user at the machine and group plugdev use such an adapter."""
    device = f'ATTR{{idVendor}}=="{_VENDOR:04x}", ATTR{{idProduct}}=="{product_id:04x}"'
    return f'SUBSYSTEM=="usb", {device}, MODE="0660", GROUP="plugdev", TAG+="uaccess"'


def adapters(sysfs: Path = SYSFS) -> list[Adapter]:
    """All attached adapters that can drive a TPM, in the order of bus and address.

    Nothing is claimed, detached or reset: whoever uses one of them does not notice.

    Raises:
        Unsupported: pyftdi or libusb is not installed.
    """
    return [adapter for adapter, _ in _attached(sysfs)]


def find_adapter(where: str, sysfs: Path = SYSFS) -> tuple[Adapter, int, Any]:
    """The adapter with that pyftdi URL or serial number, the interface, and PyUSB's device.

    Raises:
        UsageError: `where` names no adapter, or an interface without MPSSE.
        DeviceNotFound: no such adapter is attached, or more than one.
        AccessDenied: it may be one whose serial number this user cannot read.
        Unsupported: pyftdi or libusb is not installed.
    """
    wanted = _Wanted.parse(where)
    adapter, device = wanted.choose(_attached(sysfs))
    if not 1 <= wanted.interface <= adapter.interfaces:
        raise UsageError(
            f"{where}: interface {wanted.interface} of {adapter.chip} has no MPSSE",
            hint=f"name one of {adapter.describe()}",
        )
    return adapter, wanted.interface, device


def _attached(sysfs: Path) -> list[tuple[Adapter, Any]]:
    needed = libraries()
    try:
        backend = needed.tools.find_backend()
    except ValueError as error:
        raise Unsupported(
            "libusb is not installed", hint="sudo apt install libusb-1.0-0"
        ) from error
    found = []
    for device in needed.find(find_all=True, idVendor=_VENDOR, backend=backend):
        model = _MODELS.get(device.bcdDevice)
        if model is None:
            continue
        try:
            serial = _serial(device, sysfs)
        except OSError:
            continue  # unplugged while we looked
        chip, interfaces = model
        place = device.bus, device.address
        found.append((Adapter(chip, device.idProduct, serial, *place, interfaces), device))
    return sorted(found, key=lambda each: (each[0].bus, each[0].address))


def _serial(device: Any, sysfs: Path) -> str | None:
    """The serial number; from the kernel where this user may not ask the device."""
    util = libraries().util
    try:
        device.get_active_configuration()  # opens it; reading texts would not say what is wrong
        languages = util.get_langids(device)
        return (languages and util.get_string(device, device.iSerialNumber, languages[0])) or ""
    except ValueError:
        return ""  # no text
    except OSError as error:
        if error.errno not in DENIED:
            raise
        return _kernels_serial(device, sysfs)
    finally:
        util.dispose_resources(device)


def _kernels_serial(device: Any, sysfs: Path) -> str | None:
    wanted = device.bus, device.address, device.idVendor, device.idProduct
    for directory in sysfs.glob("*/"):
        with suppress(OSError, ValueError):
            names = (("busnum", 10), ("devnum", 10), ("idVendor", 16), ("idProduct", 16))
            if wanted == tuple(int((directory / name).read_text(), base) for name, base in names):
                serial = directory / "serial"
                return serial.read_text().strip() if serial.exists() else ""
    return None


def denied(message: str, adapter: Adapter) -> AccessDenied:
    """The error for an adapter that this user may not use, with the rule that mends it."""
    return AccessDenied(
        message,
        hint="put this line (or boards/70-hwtpm.rules) into /etc/udev/rules.d/70-hwtpm.rules, run "
        "`sudo udevadm control --reload`, and plug the adapter in anew:\n"
        f"{udev_rule(adapter.product_id)}",
    )
