"""Virtual FTDI adapters: the chip between its USB endpoints and the pins of its ports.

What a host can observe is modelled: FIFO sizes, packets with their two status bytes, the latency
timer, SEND_IMMEDIATE, transfers that time out because the MPSSE stands still. UART and the other
modes are there only to be left again. Sources: FTDI AN_108 (MPSSE), the parts' data sheets, and
the requests of libftdi and pyftdi.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from usb.core import USBError, USBTimeoutError

from hwtpm.clock import Clock
from hwtpm.tis_spi.virtual.counters import Counters
from hwtpm.tis_spi.virtual.mpsse import Mpsse, Stall, ToHost
from hwtpm.tis_spi.virtual.pins import Pins
from hwtpm.tis_spi.virtual.slave import SpiSlave
from hwtpm.tis_spi.virtual.wire import SpiWire

__all__ = ["FT232H", "FT2232H", "FT4232H", "Costs", "Model", "Port", "VirtualFtdi", "usb_error"]

_FOR_EVER_S: Final = 60.0
"""What a transfer without a timeout gets: a test must not hang where hardware would."""

_MICROFRAME_S: Final = 125e-6
"""How finely time passes while the adapter waits for a line."""


@dataclass(frozen=True, slots=True)
class Model:
    """One type of adapter chip."""

    name: str
    product: str
    product_id: int
    bcd_device: int
    ports: int
    mpsse_ports: int
    """The first so many ports have an MPSSE."""
    pins: int
    """Pins of a port: 8, or 16 with a high byte."""
    fifo_bytes: int
    """Of each port and each direction."""
    has_open_drain: bool


FT232H: Final = Model("FT232H", "Single RS232-HS", 0x6014, 0x0900, 1, 1, 16, 1024, True)
FT2232H: Final = Model("FT2232H", "Dual RS232-HS", 0x6010, 0x0700, 2, 2, 16, 4096, False)
FT4232H: Final = Model("FT4232H", "Quad RS232-HS", 0x6011, 0x0800, 4, 2, 8, 2048, False)


@dataclass(frozen=True, slots=True)
class Costs:
    """Time that USB takes from the clock; nothing by default. A model, not a measurement."""

    control_s: float = 0.0
    bulk_out_s: float = 0.0
    bulk_in_s: float = 0.0
    byte_s: float = 0.0


class _Request(IntEnum):
    """Vendor requests."""

    RESET = 0x00
    SET_MODEM_CTRL = 0x01
    SET_FLOW_CTRL = 0x02
    SET_BAUD_RATE = 0x03
    SET_DATA = 0x04
    GET_MODEM_STATUS = 0x05
    SET_EVENT_CHAR = 0x06
    SET_ERROR_CHAR = 0x07
    SET_LATENCY_TIMER = 0x09
    GET_LATENCY_TIMER = 0x0A
    SET_BITMODE = 0x0B
    READ_PINS = 0x0C
    READ_EEPROM = 0x90


_UART_ONLY: Final = frozenset(
    {
        _Request.SET_MODEM_CTRL,
        _Request.SET_FLOW_CTRL,
        _Request.SET_BAUD_RATE,
        _Request.SET_DATA,
        _Request.SET_EVENT_CHAR,
        _Request.SET_ERROR_CHAR,
    }
)
"""Accepted, without effect on the MPSSE."""

_RESET_ALL, _RESET_TO_DEVICE, _RESET_TO_HOST = range(3)
_MODE_RESET: Final = 0x00
_MODE_MPSSE: Final = 0x02
_DEFAULT_LATENCY_S: Final = 0.016
_CTS_DSR: Final = 0x30
_TRANSMITTER_EMPTY: Final = 0x60


_LIBUSB_ERRORS: Final = {
    errno.EINVAL: (-2, "Invalid parameter"),
    errno.EACCES: (-3, "Access denied (insufficient permissions)"),
    errno.ENODEV: (-4, "No such device (it may have been disconnected)"),
    errno.ENOENT: (-5, "Entity not found"),
    errno.EBUSY: (-6, "Resource busy"),
    errno.ETIMEDOUT: (-7, "Operation timed out"),
    errno.EOVERFLOW: (-8, "Overflow"),
    errno.EPIPE: (-9, "Pipe error"),
}


def usb_error(number: int) -> USBError:
    """What PyUSB raises on libusb's error for this errno, text and all."""
    kind = USBTimeoutError if number == errno.ETIMEDOUT else USBError
    code, text = _LIBUSB_ERRORS[number]
    return kind(text, code, number)


class Port:
    """One interface of an adapter with its pins.

    All in one thread: the MPSSE runs as far as it can within each transfer, and time passes there
    only. So a line that it waits for must keep its level until the host's next transfer.
    """

    def __init__(self, model: Model, *, has_mpsse: bool, packet_size: int, clock: Clock) -> None:
        self.counters = Counters()
        self.costs = Costs()
        self.pins = Pins(clock, model.pins)
        self.packet_size = packet_size
        self._model = model
        self._has_mpsse = has_mpsse
        self._clock = clock
        self._wire = SpiWire(self.pins, clock, self.counters)
        self._mpsse: Mpsse | None = None
        self._to_host = ToHost(model.fifo_bytes)
        self._latency_s = _DEFAULT_LATENCY_S
        self._sent_s = clock.now()
        self._wrote = False

    def attach(self, slave: SpiSlave, cs_pin: int = 3) -> None:
        """Wire an SPI slave to pins 0 to 2 and its chip select to `cs_pin`."""
        self._wire.attach(slave, cs_pin)

    def write(self, data: bytes, timeout_s: float) -> int:
        """Bulk OUT: feed the MPSSE; how many bytes it took.

        Raises:
            USBTimeoutError: it took none in `timeout_s`.
        """
        self._clock.sleep(self.costs.bulk_out_s + len(data) * self.costs.byte_s)
        self.counters.bulk_out += 1
        self._wrote = True
        taken = self._feed(data, self._clock.now() + (timeout_s or _FOR_EVER_S))
        self.counters.bytes_out += taken
        if taken < len(data):
            self.counters.timeouts += 1
            if not taken:
                raise usb_error(errno.ETIMEDOUT)
        return taken

    def read(self, size: int, timeout_s: float) -> bytes:
        """Bulk IN: packets up to `size` bytes or the first short one.

        Raises:
            USBTimeoutError: not even the latency timer ran out in `timeout_s`.
            USBError: EOVERFLOW, a packet does not fit.
        """
        self._clock.sleep(self.costs.bulk_in_s)
        self.counters.bulk_in += 1
        self.counters.round_trips += self._wrote
        self._wrote = False
        deadline_s = self._clock.now() + (timeout_s or _FOR_EVER_S)
        received = bytearray()
        while len(received) < size:
            packet = self._next_packet(deadline_s)
            if packet is None:
                self.counters.timeouts += 1
                if not received:
                    raise usb_error(errno.ETIMEDOUT)
                break
            if len(packet) > size - len(received):
                raise usb_error(errno.EOVERFLOW)
            received += packet
            if len(packet) < self.packet_size:
                break
        if self._mpsse is not None:
            self._mpsse.run()  # there is room again
        self._clock.sleep(len(received) * self.costs.byte_s)
        return bytes(received)

    def control(self, request: int, value: int) -> bytes:
        """A vendor request; what it returns to the host.

        Raises:
            USBError: EPIPE, the adapter does not know the request.
        """
        self._clock.sleep(self.costs.control_s)
        self.counters.control += 1
        if request in _UART_ONLY:
            return b""
        match request:
            case _Request.RESET if value in (_RESET_ALL, _RESET_TO_DEVICE, _RESET_TO_HOST):
                self._purge(value)
            case _Request.GET_MODEM_STATUS:
                return self._status()
            case _Request.SET_LATENCY_TIMER if 1 <= value <= 255:
                self._latency_s = value / 1000
            case _Request.GET_LATENCY_TIMER:
                return bytes([round(self._latency_s * 1000)])
            case _Request.SET_BITMODE:
                self._set_mode(value >> 8)
            case _Request.READ_PINS:
                return bytes([self.pins.byte(0)])
            case _:
                raise usb_error(errno.EPIPE)
        return b""

    def power_off(self) -> None:
        """Nobody drives the pins any more."""
        self._mpsse = None
        self._purge(_RESET_ALL)
        self.pins.release()

    def _feed(self, data: bytes, deadline_s: float) -> int:
        mpsse = self._mpsse
        if mpsse is None:
            return len(data)  # a UART with nothing at its other end
        taken = 0
        while True:
            room = self._model.fifo_bytes - len(mpsse.commands)
            mpsse.commands += data[taken : taken + room]
            taken = min(len(data), taken + room)
            stall = mpsse.run()
            if taken == len(data):
                return taken
            if stall is not Stall.INPUT and len(mpsse.commands) == self._model.fifo_bytes:
                if self._clock.now() >= deadline_s:
                    return taken
                self._pass_time(stall, deadline_s)

    def _next_packet(self, deadline_s: float) -> bytes | None:
        """The next packet to the host, or None if there was none before the deadline."""
        asked_s = self._clock.now()
        waited_s = 0.0
        while True:
            stall = Stall.INPUT if self._mpsse is None else self._mpsse.run()
            now_s = self._clock.now()
            waiting = self._to_host
            # The timer starts anew with each packet and runs on; what waits leaves when it is
            # next out.
            due_s = self._timer_after(waiting.since_s if waiting.data else asked_s)
            in_time = len(waiting.data) >= self.packet_size - 2 or waiting.urgent
            if in_time or now_s >= due_s:
                if not in_time and waited_s:
                    self.counters.latency_waits += 1
                    self.counters.latency_wait_s += waited_s
                return self._packet()
            if now_s >= deadline_s:
                return None
            self._pass_time(stall, min(due_s, deadline_s))
            waited_s += self._clock.now() - now_s

    def _pass_time(self, stall: Stall, until_s: float) -> None:
        """Wait; finely if a line may change meanwhile, not at all if the MPSSE itself takes it."""
        if stall is not Stall.CLOCKING:
            left_s = max(until_s - self._clock.now(), 0.0)  # a real clock runs on meanwhile
            self._clock.sleep(min(left_s, _MICROFRAME_S) if stall is Stall.LINE else left_s)

    def _timer_after(self, time_s: float) -> float:
        """When the latency timer next runs out after `time_s`."""
        return self._sent_s + self._latency_s * (
            math.floor((time_s - self._sent_s) / self._latency_s) + 1
        )

    def _packet(self) -> bytes:
        waiting = self._to_host
        payload = bytes(waiting.data[: self.packet_size - 2])
        packet = self._status() + payload
        del waiting.data[: len(payload)]
        self._sent_s = waiting.since_s = self._clock.now()
        waiting.urgent = waiting.urgent and bool(waiting.data)
        self.counters.packets_in += 1
        self.counters.empty_packets += not payload
        self.counters.bytes_in += len(payload)
        return packet

    def _status(self) -> bytes:
        """Modem and line status, as in front of each packet."""
        speed = 0x02 if self.packet_size == 512 else 0x01
        idle = self._mpsse is None or not self._mpsse.commands
        return bytes([_CTS_DSR | speed, _TRANSMITTER_EMPTY if idle else 0])

    def _purge(self, what: int) -> None:
        if what in (_RESET_ALL, _RESET_TO_HOST):
            self._to_host.data.clear()
            self._to_host.urgent = False
        if what in (_RESET_ALL, _RESET_TO_DEVICE) and self._mpsse is not None:
            self._mpsse.commands.clear()

    def _set_mode(self, mode: int) -> None:
        """Each mode starts with all pins as inputs; MPSSE ignores the request's direction mask."""
        if mode not in (_MODE_RESET, _MODE_MPSSE) or (mode == _MODE_MPSSE and not self._has_mpsse):
            raise usb_error(errno.EPIPE)
        self._mpsse = None
        self.pins.release()
        if mode == _MODE_MPSSE:
            self._mpsse = Mpsse(
                self.pins,
                self._wire,
                self._to_host,
                self._clock,
                self.counters,
                has_open_drain=self._model.has_open_drain,
                quantum_s=_MICROFRAME_S,
            )


class VirtualFtdi:
    """One adapter, to be plugged into a `VirtualUsb`.

    `high_speed` False is the same part behind a full-speed hub: packets of 64 bytes. `eeprom` is
    what the configuration EEPROM reads as; an erased one by default.
    """

    def __init__(
        self,
        model: Model,
        serial: str,
        clock: Clock,
        *,
        high_speed: bool = True,
        eeprom: bytes = b"\xff" * 256,
    ) -> None:
        self.model = model
        self.serial = serial
        self.high_speed = high_speed
        self.denied = False
        """Fault: this user may not open the device (EACCES)."""
        self.in_use: set[int] = set()
        """Fault: interfaces, from 0, that another program holds (EBUSY)."""
        self.kernel_driver: set[int] = set()
        """Interfaces that ftdi_sio holds; a program can detach it."""
        self.ports = [
            Port(
                model,
                has_mpsse=number < model.mpsse_ports,
                packet_size=512 if high_speed else 64,
                clock=clock,
            )
            for number in range(model.ports)
        ]
        self._eeprom = eeprom
        self._plugged = True
        self._transfers_left: int | None = None

    @property
    def plugged(self) -> bool:
        """Whether the adapter is in its socket."""
        return self._plugged

    def unplug(self, after: int = 0) -> None:
        """Fault: pull the plug, now or after so many more transfers (ENODEV)."""
        if after:
            self._transfers_left = after
        else:
            self._plugged = False
            for port in self.ports:
                port.power_off()

    def plug(self) -> None:
        """Put it back, as after power-on."""
        self._plugged = True
        self._transfers_left = None

    def transfer(self) -> None:
        """Account for one more transfer of any kind.

        Raises:
            USBError: ENODEV, the adapter is not plugged in.
        """
        if self._transfers_left == 0:
            self.unplug()
        if not self._plugged:
            raise usb_error(errno.ENODEV)
        if self._transfers_left is not None:
            self._transfers_left -= 1

    def control(self, request: int, value: int, index: int) -> bytes:
        """A vendor request to the device or one of its ports, 1 for the first one.

        Raises:
            USBError: EPIPE, the adapter does not know the request.
        """
        if request == _Request.READ_EEPROM:
            return self._eeprom[2 * index : 2 * index + 2] or b"\xff\xff"
        number = index & 0xFF
        if not 1 <= number <= self.model.ports:
            raise usb_error(errno.EPIPE)
        return self.ports[number - 1].control(request, value)

    def reset(self) -> None:
        """A USB reset: all ports are as after power-on."""
        for port in self.ports:
            port.power_off()
