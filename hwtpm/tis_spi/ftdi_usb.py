"""FTDI adapters on USB: which are attached, and one MPSSE of one of them, opened with pyftdi.

Whatever keeps an adapter from being used has an error of its own, with what to do about it.
"""

from __future__ import annotations

import errno
import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, Self

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import (
    AccessDenied,
    BusError,
    Busy,
    DeviceNotFound,
    Unsupported,
    UsageError,
)

__all__ = ["Adapter", "MpssePort", "UsbCounters", "adapters", "udev_rule"]

# Warnings for people who configured logging, not for the stderr of those who did not.
logging.getLogger("pyftdi").addHandler(logging.NullHandler())

_VENDOR: Final = 0x0403
_SYSFS: Final = Path("/sys/bus/usb/devices")
_URL: Final = re.compile(r"ftdi://([^:/]*)(?::([^:/]*)(?::([^/]*))?)?/(\d+)")
_URL_FORM: Final = "ftdi://ftdi:232h:SERIAL/1, or the serial number alone"
_PLAIN_SERIAL: Final = re.compile(r"(?!\d{1,3}$)[\w.+-]+", re.ASCII)

_STATUS_SIZE: Final = 2
_LATENCY_MS: Final = 255
"""Answers leave by SEND_IMMEDIATE; a timer that runs out would only cut them into more packets."""

_LARGEST_OUT: Final = 1 << 16
_LARGEST_INDEX: Final = 255


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    product: str
    interfaces: int


_MODELS: Final = {
    0x0900: _Model("FT232H", "232h", 1),
    0x0700: _Model("FT2232H", "2232h", 2),
    0x0800: _Model("FT4232H", "4232h", 2),
}
"""By bcdDevice: FT2232C and FT2232D share their product id with FT2232H."""


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
        """What names it to this project and to pyftdi: by its serial number if that can be."""
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
        if match is None or match[1] not in ("", "ftdi", f"{_VENDOR:#x}", f"{_VENDOR:#06x}"):
            raise UsageError(f"{where!r} names no FTDI adapter", hint=f"write {_URL_FORM}")
        chip = None
        if match[2]:
            product = match[2].lower().removeprefix("ft").removesuffix("h") + "h"
            chip = next((each.name for each in _MODELS.values() if each.product == product), None)
            if chip is None:
                known = ", ".join(each.product for each in _MODELS.values())
                raise UsageError(
                    f"{where}: {match[2]!r} is no adapter with a fast MPSSE", hint=f"use {known}"
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
            raise _denied(
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
        place = re.fullmatch(r"([0-9a-fA-F]+):([0-9a-fA-F]+)", locator)
        if place is not None:
            at = int(place[1], 16), int(place[2], 16)
            return [each for each in among if (each[0].bus, each[0].address) == at]
        if not found and locator.isdecimal() and int(locator) <= _LARGEST_INDEX:
            index = max(int(locator) - 1, 0)
            return among[index : index + 1]
        return found


@dataclass(slots=True)
class UsbCounters:
    """What a port has cost since it was opened. `round_trips` are times that the host waited for
    an answer; bytes are those of MPSSE programs and their answers."""

    round_trips: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    restarts: int = 0


def udev_rule(product_id: int) -> str:
    """The line that lets the user at the machine and group plugdev use such an adapter."""
    device = f'ATTR{{idVendor}}=="{_VENDOR:04x}", ATTR{{idProduct}}=="{product_id:04x}"'
    return f'SUBSYSTEM=="usb", {device}, MODE="0660", GROUP="plugdev", TAG+="uaccess"'


def adapters(sysfs: Path = _SYSFS) -> list[Adapter]:
    """All attached adapters that can drive a TPM, in the order of bus and address.

    Nothing is claimed, detached or reset: whoever uses one of them does not notice.

    Raises:
        Unsupported: pyftdi or libusb is not installed.
    """
    return [adapter for adapter, _ in _attached(sysfs)]


def _attached(sysfs: Path) -> list[tuple[Adapter, Any]]:
    find, tools, _, _ = _libraries()
    try:
        backend = tools.find_backend()
    except ValueError as error:
        raise Unsupported(
            "libusb is not installed", hint="sudo apt install libusb-1.0-0"
        ) from error
    found = []
    for device in find(find_all=True, idVendor=_VENDOR, backend=backend):
        model = _MODELS.get(device.bcdDevice)
        if model is None:
            continue
        try:
            serial = _serial(device, sysfs)
        except OSError:
            continue  # unplugged while we looked
        place = device.bus, device.address
        found.append(
            (Adapter(model.name, device.idProduct, serial, *place, model.interfaces), device)
        )
    return sorted(found, key=lambda each: (each[0].bus, each[0].address))


def _serial(device: Any, sysfs: Path) -> str | None:
    """The serial number; from the kernel where this user may not ask the device."""
    _, _, util, _ = _libraries()
    try:
        device.get_active_configuration()  # opens it; reading a text would not say what is wrong
        return util.get_string(device, device.iSerialNumber) or ""
    except ValueError:
        return ""  # it has no texts
    except OSError as error:
        if error.errno not in _DENIED:
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


class MpssePort:
    """One MPSSE, open, all pins inputs; made by `open`.

    Raises (all methods):
        DeviceNotFound: the adapter is gone.
        BusError: it does not take what it should.
    """

    def __init__(self, device: Any, adapter: Adapter, interface: int, clock: Clock) -> None:
        _, _, self._util, self._ftdi_type = _libraries()
        self.adapter = adapter
        self.name = adapter.url(interface)
        self.counters = UsbCounters()
        self._device = device
        self._interface = interface
        self._clock = clock
        self._ftdi = self._ftdi_type()
        self._packet_size = 0
        self._detached = False

    @classmethod
    def open(
        cls,
        where: str,
        *,
        clock: Clock | None = None,
        detach_kernel_driver: bool = True,
        sysfs: Path = _SYSFS,
    ) -> Self:
        """Open the adapter with that pyftdi URL or serial number (then its first interface).

        The kernel's serial driver loses the interface, and gets it back when the port is closed;
        without `detach_kernel_driver` that is an error.

        Raises:
            UsageError: `where` names no adapter, or an interface without MPSSE.
            Unsupported: pyftdi or libusb is not installed.
            DeviceNotFound: no such adapter is attached, or more than one.
            AccessDenied: this user may not use it.
            Busy: somebody else does.
            BusError: it does not work.
        """
        wanted = _Wanted.parse(where)
        adapter, device = wanted.choose(_attached(sysfs))
        if not 1 <= wanted.interface <= adapter.interfaces:
            raise UsageError(
                f"{where}: interface {wanted.interface} of {adapter.chip} has no MPSSE",
                hint=f"name one of {adapter.describe()}",
            )
        port = cls(device, adapter, wanted.interface, clock or RealClock())
        try:
            with port._typed():
                port._claim(detach_kernel_driver)
                # All pins stay inputs until the driver says otherwise.
                port._ftdi.open_mpsse_from_device(
                    device, wanted.interface, direction=0, initial=0, latency=1
                )
                port._ftdi.set_latency_timer(_LATENCY_MS)
                port._ftdi.write_data_set_chunksize(_LARGEST_OUT)
                configuration = device.get_active_configuration()
                endpoint = configuration[(wanted.interface - 1, 0)][0]
                port._packet_size = endpoint.wMaxPacketSize
        except BaseException:
            port.close()
            raise
        return port

    @property
    def to_host_bytes(self) -> int:
        """Size of the FIFO that answers wait in: without room there everything stands still."""
        size: int = self._ftdi.fifo_sizes[1]
        return size

    @property
    def width(self) -> int:
        """Number of pins."""
        width: int = self._ftdi.port_width
        return width

    def send(self, code: bytes, timeout_s: float) -> None:
        """Let the MPSSE run a program; its end is not waited for."""
        with self._typed():
            self._write(code, timeout_s)

    def ask(self, code: bytes, answers: int, timeout_s: float) -> bytes:
        """Run a program that sends `answers` bytes; fewer if they do not come in time."""
        deadline_s = self._clock.now() + timeout_s
        reply = bytearray()
        with self._typed(), _until_late():
            self._write(code, timeout_s)
            self.counters.round_trips += 1
            while (missing := answers - len(reply)) > 0:
                left_s = deadline_s - self._clock.now()
                if left_s <= 0:
                    break
                # A transfer of just these packets: it ends with the last one, full or not.
                packets = math.ceil(missing / (self._packet_size - _STATUS_SIZE))
                self._ftdi.read_data_set_chunksize(packets * self._packet_size)
                self._ftdi.timeouts = (_milliseconds(left_s),) * 2
                reply += self._ftdi.read_data_bytes(missing, 1)
        self.counters.bytes_in += len(reply)
        return bytes(reply)

    def restart(self) -> None:
        """End what the MPSSE does, whatever it is; all pins are inputs then."""
        mode = self._ftdi_type.BitMode
        self.counters.restarts += 1
        with self._typed():
            self._ftdi.set_bitmode(0, mode.RESET)
            self._ftdi.set_bitmode(0, mode.MPSSE)
            self._ftdi.purge_buffers()

    def close(self) -> None:
        """Give the interface back; pins stay as they are. A second call does nothing.

        That is, inputs if they were: pyftdi's `close` would make the port a UART, which drives
        three of them.
        """
        number = self._interface - 1
        with suppress(OSError):
            self._util.release_interface(self._device, number)
            if self._detached:
                self._device.attach_kernel_driver(number)
        self._detached = False
        self._util.dispose_resources(self._device)

    def _write(self, code: bytes, timeout_s: float) -> None:
        self._ftdi.timeouts = (_milliseconds(timeout_s),) * 2
        self._ftdi.write_data(code)
        self.counters.bytes_out += len(code)

    def _claim(self, detach: bool) -> None:
        """Before anything is sent: another program's interface must not be reset."""
        number = self._interface - 1
        holder = f"{self.name}: the kernel's serial driver (ftdi_sio) holds the interface"
        hint = (
            "close what uses its /dev/ttyUSB*; as root, write BUS-PORT:1."
            f"{number} to /sys/bus/usb/drivers/ftdi_sio/unbind"
        )
        with suppress(NotImplementedError):
            if self._device.is_kernel_driver_active(number):
                if not detach:
                    raise Busy(holder, hint=hint)
                try:
                    self._device.detach_kernel_driver(number)
                    self._detached = True
                except OSError as error:
                    if error.errno in _DENIED or error.errno in _GONE:
                        raise
                    raise Busy(f"{holder} and does not let it go", hint=hint) from error
        self._util.claim_interface(self._device, number)

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Errors of pyftdi and PyUSB become this project's."""
        try:
            yield
        except (OSError, ValueError) as error:
            self._explain(error)

    def _explain(self, error: Exception) -> NoReturn:
        number = _number(error)
        if number in _GONE:
            raise DeviceNotFound(
                f"{self.name}: the adapter is gone", hint="plug it in and open it again"
            ) from error
        if number in _DENIED:
            raise _denied(f"{self.name}: this user may not use it", self.adapter) from error
        if number == errno.EBUSY:
            node = f"/dev/bus/usb/{self.adapter.bus:03}/{self.adapter.address:03}"
            raise Busy(
                f"{self.name}: another program uses it", hint=f"fuser -v {node} names it; end that"
            ) from error
        raise BusError(
            f"{self.name}: {error}", hint="plug the adapter in anew; try another cable or port"
        ) from error


_GONE: Final = (errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN)
_DENIED: Final = (errno.EACCES, errno.EPERM)


def _number(error: BaseException) -> int | None:
    """The errno; pyftdi hides the error that has it behind its own."""
    cause: BaseException | None = error
    while cause is not None:
        number = getattr(cause, "errno", None)
        if number is not None:
            return int(number)
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def _until_late() -> Iterator[None]:
    """Stop at a transfer that runs out of time."""
    try:
        yield
    except OSError as error:
        if _number(error) != errno.ETIMEDOUT:
            raise


def _denied(message: str, adapter: Adapter) -> AccessDenied:
    return AccessDenied(
        message,
        hint="put this line (or boards/70-hwtpm.rules) into /etc/udev/rules.d/70-hwtpm.rules, run "
        "`sudo udevadm control --reload`, and plug the adapter in anew:\n"
        f"{udev_rule(adapter.product_id)}",
    )


def _milliseconds(duration_s: float) -> int:
    """For libusb, to which 0 is for ever."""
    return max(1, math.ceil(duration_s * 1000))


def _libraries() -> tuple[Any, Any, Any, Any]:
    """`usb.core.find`, pyftdi's `UsbTools`, `usb.util`, and pyftdi's `Ftdi`."""
    try:
        from pyftdi.ftdi import Ftdi
        from pyftdi.usbtools import UsbTools
        from usb import util
        from usb.core import find
    except ImportError as error:
        raise Unsupported(
            "FTDI adapters need pyftdi, which is not installed", hint="pip install 'hwtpm[ftdi]'"
        ) from error
    return find, UsbTools, util, Ftdi
