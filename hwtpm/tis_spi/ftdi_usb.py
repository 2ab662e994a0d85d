"""One MPSSE of one FTDI adapter, opened with pyftdi: programs in, answers out.

Whatever keeps it from being used has an error of its own, with what to do about it.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, Self

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import BusError, Busy, DeviceNotFound
from hwtpm.tis_spi.ftdi_adapters import (
    DENIED,
    GONE,
    SYSFS,
    Adapter,
    denied,
    find_adapter,
    libraries,
)

__all__ = ["MpssePort", "UsbCounters"]

_STATUS_SIZE: Final = 2
_LATENCY_MS: Final = 255
"""Answers leave by SEND_IMMEDIATE; a timer that runs out would only cut them into more packets."""

_LARGEST_OUT: Final = 1 << 16


@dataclass(slots=True)
class UsbCounters:
    """What a port has cost since it was opened. `round_trips` are times that the host waited for
    an answer; bytes are those of MPSSE programs and their answers."""

    round_trips: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    restarts: int = 0


class MpssePort:
    """One MPSSE, open, all pins inputs; made by `open`.

    Raises (all methods):
        DeviceNotFound: the adapter is gone.
        BusError: it does not take what it should.
    """

    def __init__(self, device: Any, adapter: Adapter, interface: int, clock: Clock) -> None:
        self._needed = libraries()
        self.adapter = adapter
        self.name = adapter.url(interface)
        self.counters = UsbCounters()
        self._device = device
        self._interface = interface
        self._clock = clock
        self._ftdi = self._needed.ftdi()
        self._packet_size = 0
        self._detached = False

    @classmethod
    def open(
        cls,
        where: str,
        *,
        clock: Clock | None = None,
        detach_kernel_driver: bool = True,
        sysfs: Path = SYSFS,
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
        adapter, interface, device = find_adapter(where, sysfs)
        port = cls(device, adapter, interface, clock or RealClock())
        try:
            with port._typed():
                port._claim(detach_kernel_driver)
                # All pins stay inputs until the driver says otherwise.
                port._ftdi.open_mpsse_from_device(
                    device, interface, direction=0, initial=0, latency=1
                )
                port._ftdi.set_latency_timer(_LATENCY_MS)
                port._ftdi.write_data_set_chunksize(_LARGEST_OUT)
                configuration = device.get_active_configuration()
                endpoint = configuration[(interface - 1, 0)][0]
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
        mode = self._needed.ftdi.BitMode
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
            self._needed.util.release_interface(self._device, number)
            if self._detached:
                self._device.attach_kernel_driver(number)
        self._detached = False
        self._needed.util.dispose_resources(self._device)

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
                    if error.errno in DENIED or error.errno in GONE:
                        raise
                    raise Busy(f"{holder} and does not let it go", hint=hint) from error
        self._needed.util.claim_interface(self._device, number)

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Errors of pyftdi and PyUSB become this project's."""
        try:
            yield
        except (OSError, ValueError) as error:
            self._explain(error)

    def _explain(self, error: Exception) -> NoReturn:
        number = _number(error)
        if number in GONE:
            raise DeviceNotFound(
                f"{self.name}: the adapter is gone", hint="plug it in and open it again"
            ) from error
        if number in DENIED:
            raise denied(f"{self.name}: this user may not use it", self.adapter) from error
        if number == errno.EBUSY:
            node = f"/dev/bus/usb/{self.adapter.bus:03}/{self.adapter.address:03}"
            raise Busy(
                f"{self.name}: another program uses it", hint=f"fuser -v {node} names it; end that"
            ) from error
        raise BusError(
            f"{self.name}: {error}", hint="plug the adapter in anew; try another cable or port"
        ) from error


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


def _milliseconds(duration_s: float) -> int:
    """For libusb, to which 0 is for ever."""
    return max(1, math.ceil(duration_s * 1000))
