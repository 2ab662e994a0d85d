"""A PyUSB back end whose bus holds virtual adapters, for the unmodified pyftdi."""

# Names and arguments are PyUSB's, its descriptor fields those of USB 2.0 (9.6).
# ruff: noqa: ARG002, N803, N815

from __future__ import annotations

import errno
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from pyftdi.usbtools import UsbTools
from usb.backend import IBackend

from hwtpm.tis_spi.virtual.ftdi import VirtualFtdi, usb_error

__all__ = ["VirtualUsb", "get_backend", "installed"]

_FTDI_VENDOR: Final = 0x0403
_BUS: Final = 1
_FIRST_ADDRESS: Final = 2  # 1 is the root hub
_CONFIGURATION: Final = 1
_LANGUAGE_EN_US: Final = 0x0409

_IN: Final = 0x80
_TYPE_MASK: Final = 0x60
_TYPE_STANDARD: Final = 0x00
_TYPE_VENDOR: Final = 0x40
_GET_DESCRIPTOR: Final = 6
_STRING_DESCRIPTOR: Final = 3

_SPEED_FULL: Final = 2
_SPEED_HIGH: Final = 3


@dataclass(frozen=True)
class _DeviceDescriptor:
    idProduct: int
    bcdDevice: int
    address: int
    speed: int
    bLength: int = 18
    bDescriptorType: int = 1
    bcdUSB: int = 0x0200
    bDeviceClass: int = 0
    bDeviceSubClass: int = 0
    bDeviceProtocol: int = 0
    bMaxPacketSize0: int = 64
    idVendor: int = _FTDI_VENDOR
    iManufacturer: int = 1
    iProduct: int = 2
    iSerialNumber: int = 3
    bNumConfigurations: int = 1
    bus: int = _BUS
    port_number: int | None = None
    port_numbers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _ConfigurationDescriptor:
    wTotalLength: int
    bNumInterfaces: int
    bLength: int = 9
    bDescriptorType: int = 2
    bConfigurationValue: int = _CONFIGURATION
    iConfiguration: int = 0
    bmAttributes: int = 0x80
    bMaxPower: int = 250
    extra_descriptors: bytes = b""


@dataclass(frozen=True)
class _InterfaceDescriptor:
    bInterfaceNumber: int
    bLength: int = 9
    bDescriptorType: int = 4
    bAlternateSetting: int = 0
    bNumEndpoints: int = 2
    bInterfaceClass: int = 0xFF
    bInterfaceSubClass: int = 0xFF
    bInterfaceProtocol: int = 0xFF
    iInterface: int = 2
    extra_descriptors: bytes = b""


@dataclass(frozen=True)
class _EndpointDescriptor:
    bEndpointAddress: int
    wMaxPacketSize: int
    bLength: int = 7
    bDescriptorType: int = 5
    bmAttributes: int = 0x02
    bInterval: int = 0
    bRefresh: int = 0
    bSynchAddress: int = 0
    extra_descriptors: bytes = b""


@dataclass(eq=False)
class _Handle:
    """One program's open device."""

    device: VirtualFtdi
    claimed: set[int] = field(default_factory=set)


class VirtualUsb(IBackend):  # type: ignore[misc]
    """A USB bus with these adapters on it, in this order of addresses.

    Errors are those libusb would give: EACCES on opening a device that is denied, EBUSY on
    claiming an interface that somebody else holds, ENODEV on any use after unplugging.
    """

    def __init__(self, *devices: VirtualFtdi) -> None:
        self.devices = devices
        self._handles: set[_Handle] = set()
        self._detached: set[tuple[VirtualFtdi, int]] = set()

    def enumerate_devices(self) -> Iterator[VirtualFtdi]:
        return (device for device in self.devices if device.plugged)

    def get_parent(self, dev: VirtualFtdi) -> None:
        return None

    def get_device_descriptor(self, dev: VirtualFtdi) -> _DeviceDescriptor:
        return _DeviceDescriptor(
            idProduct=dev.model.product_id,
            bcdDevice=dev.model.bcd_device,
            address=_FIRST_ADDRESS + self.devices.index(dev),
            speed=_SPEED_HIGH if dev.high_speed else _SPEED_FULL,
        )

    def get_configuration_descriptor(
        self, dev: VirtualFtdi, config: int
    ) -> _ConfigurationDescriptor:
        _only_first(config)
        ports = dev.model.ports
        return _ConfigurationDescriptor(wTotalLength=9 + ports * (9 + 2 * 7), bNumInterfaces=ports)

    def get_interface_descriptor(
        self, dev: VirtualFtdi, intf: int, alt: int, config: int
    ) -> _InterfaceDescriptor:
        _only_first(alt)
        _only_first(config)
        if intf >= dev.model.ports:
            raise IndexError(intf)
        return _InterfaceDescriptor(bInterfaceNumber=intf)

    def get_endpoint_descriptor(
        self, dev: VirtualFtdi, ep: int, intf: int, alt: int, config: int
    ) -> _EndpointDescriptor:
        """Port A has IN 0x81 and OUT 0x02, port B IN 0x83 and OUT 0x04, and so on."""
        address = (_IN | 2 * intf + 1, 2 * intf + 2)[ep]
        return _EndpointDescriptor(address, dev.ports[intf].packet_size)

    def open_device(self, dev: VirtualFtdi) -> _Handle:
        if not dev.plugged:
            raise usb_error(errno.ENODEV)
        if dev.denied:
            raise usb_error(errno.EACCES)
        handle = _Handle(dev)
        self._handles.add(handle)
        return handle

    def close_device(self, dev_handle: _Handle) -> None:
        self._handles.discard(dev_handle)

    def set_configuration(self, dev_handle: _Handle, config_value: int) -> None:
        dev_handle.device.transfer()
        if config_value != _CONFIGURATION:
            raise usb_error(errno.EINVAL)
        device = dev_handle.device
        if device.kernel_driver or device.in_use or self._claims(device):
            raise usb_error(errno.EBUSY)

    def get_configuration(self, dev_handle: _Handle) -> int:
        dev_handle.device.transfer()
        return _CONFIGURATION

    def set_interface_altsetting(self, dev_handle: _Handle, intf: int, altsetting: int) -> None:
        dev_handle.device.transfer()
        if altsetting:
            raise usb_error(errno.EINVAL)

    def claim_interface(self, dev_handle: _Handle, intf: int) -> None:
        device = dev_handle.device
        if not device.plugged:
            raise usb_error(errno.ENODEV)
        if intf in device.kernel_driver | device.in_use | self._claims(device):
            raise usb_error(errno.EBUSY)
        dev_handle.claimed.add(intf)

    def release_interface(self, dev_handle: _Handle, intf: int) -> None:
        dev_handle.claimed.discard(intf)
        if not dev_handle.device.plugged:
            raise usb_error(errno.ENODEV)

    def bulk_write(
        self, dev_handle: _Handle, ep: int, intf: int, data: array[int], timeout: int
    ) -> int:
        dev_handle.device.transfer()
        return dev_handle.device.ports[intf].write(data.tobytes(), timeout / 1000)

    def bulk_read(
        self, dev_handle: _Handle, ep: int, intf: int, buff: array[int], timeout: int
    ) -> int:
        dev_handle.device.transfer()
        received = dev_handle.device.ports[intf].read(len(buff), timeout / 1000)
        buff[: len(received)] = array("B", received)
        return len(received)

    def ctrl_transfer(
        self,
        dev_handle: _Handle,
        bmRequestType: int,
        bRequest: int,
        wValue: int,
        wIndex: int,
        data: array[int],
        timeout: int,
    ) -> int:
        device = dev_handle.device
        device.transfer()
        kind = bmRequestType & _TYPE_MASK
        if kind == _TYPE_VENDOR:
            answer = device.control(bRequest, wValue, wIndex)
        elif kind == _TYPE_STANDARD and bRequest == _GET_DESCRIPTOR:
            answer = _descriptor(device, wValue)
        else:
            raise usb_error(errno.EPIPE)
        if not bmRequestType & _IN:
            return len(data)
        answer = answer[: len(data)]
        data[: len(answer)] = array("B", answer)
        return len(answer)

    def clear_halt(self, dev_handle: _Handle, ep: int) -> None:
        dev_handle.device.transfer()

    def reset_device(self, dev_handle: _Handle) -> None:
        dev_handle.device.transfer()
        dev_handle.device.reset()

    def is_kernel_driver_active(self, dev_handle: _Handle, intf: int) -> bool:
        return intf in dev_handle.device.kernel_driver

    def detach_kernel_driver(self, dev_handle: _Handle, intf: int) -> None:
        if intf not in dev_handle.device.kernel_driver:
            raise usb_error(errno.ENOENT)
        dev_handle.device.kernel_driver.remove(intf)
        self._detached.add((dev_handle.device, intf))

    def attach_kernel_driver(self, dev_handle: _Handle, intf: int) -> None:
        if (dev_handle.device, intf) not in self._detached:
            raise usb_error(errno.ENOENT)
        self._detached.remove((dev_handle.device, intf))
        dev_handle.device.kernel_driver.add(intf)

    def _claims(self, device: VirtualFtdi) -> set[int]:
        """Interfaces of `device` that this process holds."""
        return {
            intf for handle in self._handles if handle.device is device for intf in handle.claimed
        }


def _only_first(index: int) -> None:
    # PyUSB counts configurations and settings up until it gets this error.
    if index:
        raise IndexError(index)


def _descriptor(device: VirtualFtdi, value: int) -> bytes:
    """A string descriptor (USB 2.0, 9.6.7); PyUSB asks for no others over the wire."""
    kind, number = divmod(value, 0x100)
    texts = ("FTDI", device.model.product, device.serial)
    if kind != _STRING_DESCRIPTOR or number > len(texts):
        raise usb_error(errno.EPIPE)
    if number:
        content = texts[number - 1].encode("utf-16-le")
    else:
        content = _LANGUAGE_EN_US.to_bytes(2, "little")
    return bytes([2 + len(content), _STRING_DESCRIPTOR]) + content


_current: VirtualUsb | None = None


def get_backend() -> VirtualUsb | None:
    """The bus that is installed now; PyUSB's and pyftdi's way of asking a back end module."""
    return _current


@contextmanager
def installed(bus: VirtualUsb) -> Iterator[VirtualUsb]:
    """Let pyftdi's URLs and lists see the adapters of `bus`, and only those, inside this context.

    `UsbTools.BACKENDS` is pyftdi's own list of back end modules to try; nothing else of it is
    changed. Adapters still open at the end are closed.
    """
    global _current
    before = _current, UsbTools.BACKENDS
    _current, UsbTools.BACKENDS = bus, (__name__,)
    UsbTools.flush_cache()
    try:
        yield bus
    finally:
        UsbTools.release_all_devices(VirtualFtdi)
        UsbTools.flush_cache()
        _current, UsbTools.BACKENDS = before
