"""A virtual spidev: Linux' driver and an SPI controller in front of simulated slaves.

`VirtualSpidev` is what `drivers/spi/spidev.c` and `spi_transfer_one_message` do, as far as a TPM
can tell; `serving` lets other processes open it as /dev/spidevB.C, by `spidev_preload.c`. What it
does not show: glitches of chip select on real controllers, and stat or udev on the device file.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Final

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import Unsupported, UsageError
from hwtpm.loop import Loop
from hwtpm.tis_spi.virtual.slave import FLOATING, SpiSlave

__all__ = [
    "Mode",
    "SpiTransfer",
    "SpidevCounters",
    "VirtualSpidev",
    "build_preload",
    "serving",
]

_SOURCE: Final = Path(__file__).with_name("spidev_preload.c")
_VARIABLE: Final = "HWTPM_VIRTUAL_SPIDEV"
_PATH: Final = re.compile(r"/dev/spidev(\d+)\.\d+")

_TRANSFER: Final = struct.Struct("=QQIIHBBBBBB")  # struct spi_ioc_transfer of linux/spi/spidev.h
_REQUEST: Final = struct.Struct("=III")
_REPLY: Final = struct.Struct("=iI")
_CLIENT_TIMEOUT_S: Final = 10.0

_WRITE: Final = 1
_MAGIC: Final = ord("k")
_DEFAULT_SPEED_HZ: Final = 500_000
_WORD_BITS: Final = 8


class Mode(IntFlag):
    """SPI mode bits that the controller can do (linux/spi/spi.h); it refuses all others."""

    CPHA = 0x01
    CPOL = 0x02
    CS_HIGH = 0x04
    NO_CS = 0x40


_MODE_0: Final = Mode(0)
_MODE_BITS: Final = Mode.CPHA | Mode.CPOL | Mode.CS_HIGH | Mode.NO_CS
_SAMPLES_LIKE_A_TPM: Final = (_MODE_0, Mode.CPHA | Mode.CPOL)


class _Number(IntEnum):
    """Numbers of the ioctls; reading and writing differ in their direction bits."""

    MESSAGE = 0
    MODE = 1
    LSB_FIRST = 2
    BITS_PER_WORD = 3
    MAX_SPEED_HZ = 4
    MODE32 = 5


@dataclass(frozen=True, slots=True)
class SpiTransfer:
    """One transfer of a message; without `tx` zeros are sent, and `reads` says who wants MISO."""

    size: int
    tx: bytes | None = None
    reads: bool = False
    cs_change: bool = False
    delay_us: int = 0
    bits_per_word: int = 0


@dataclass(slots=True)
class SpidevCounters:
    """Calls since the device was made: messages are SPI_IOC_MESSAGE, settings all other ioctls,
    `calls` every system call that reached the bus (messages, reads and writes)."""

    opens: int = 0
    settings: int = 0
    messages: int = 0
    transfers: int = 0
    reads: int = 0
    writes: int = 0
    bytes: int = 0

    @property
    def calls(self) -> int:
        """System calls that moved bytes."""
        return self.messages + self.reads + self.writes


@dataclass(slots=True)
class _Device:
    slave: SpiSlave
    bus: int
    mode: Mode = _MODE_0
    speed_hz: int = _DEFAULT_SPEED_HZ


class VirtualSpidev:
    """Devices by their path. Calls are those of the driver and raise its OSError.

    `buffer_size` is spidev's parameter bufsiz; each transfer takes a multiple of `alignment` bytes
    of it (8 on a PC, 128 on some ARM machines).

    Raises:
        UsageError: a path is not /dev/spidevB.C.
    """

    def __init__(
        self,
        slaves: Mapping[str, SpiSlave],
        *,
        buffer_size: int = 4096,
        alignment: int = 8,
        clock: Clock | None = None,
    ) -> None:
        self.counters = SpidevCounters()
        self._buffer_size = buffer_size
        self._alignment = alignment
        self._clock = clock or RealClock()
        self._devices: dict[str, _Device] = {}
        for path, slave in slaves.items():
            if (match := _PATH.fullmatch(path)) is None:
                raise UsageError(f"{path}: not /dev/spidevB.C")
            self._devices[path] = _Device(slave, int(match[1]))

    def open(self, path: str) -> None:
        """open(2)."""
        self._device(path)
        self.counters.opens += 1

    def read(self, path: str, size: int) -> bytes:
        """read(2): a message of one transfer that only receives."""
        self.counters.reads += 1
        return self._transfer(path, [SpiTransfer(size, reads=True)])[0]

    def write(self, path: str, data: bytes) -> None:
        """write(2): a message of one transfer that only sends."""
        self.counters.writes += 1
        self._transfer(path, [SpiTransfer(len(data), data)])

    def message(self, path: str, transfers: Sequence[SpiTransfer]) -> list[bytes]:
        """SPI_IOC_MESSAGE; what the transfers that read received."""
        self.counters.messages += 1
        return self._transfer(path, transfers)

    def get(self, path: str, number: int) -> int:
        """The ioctls that read a setting."""
        self.counters.settings += 1
        device = self._device(path)
        match number:
            case _Number.MODE | _Number.MODE32:
                return int(device.mode)
            case _Number.LSB_FIRST:
                return 0
            case _Number.BITS_PER_WORD:
                return _WORD_BITS
            case _Number.MAX_SPEED_HZ:
                return device.speed_hz
        raise OSError(errno.ENOTTY, "no such ioctl")

    def set(self, path: str, number: int, value: int) -> None:
        """The ioctls that write a setting; as spi_setup they deselect the device."""
        self.counters.settings += 1
        device = self._device(path)
        match number:
            case _Number.MODE | _Number.MODE32 if not value & ~_MODE_BITS:
                self._chip_select(device, False)
                device.mode = Mode(value)
            case _Number.LSB_FIRST if not value:
                pass
            case _Number.BITS_PER_WORD if value in (0, _WORD_BITS):
                pass
            case _Number.MAX_SPEED_HZ if value:
                device.speed_hz = value
            case _ if number in tuple(_Number):
                raise OSError(errno.EINVAL, f"setting {number} cannot be {value:#x}")
            case _:
                raise OSError(errno.ENOTTY, "no such ioctl")
        self._chip_select(device, False)

    # -- the controller

    def _device(self, path: str) -> _Device:
        try:
            return self._devices[path]
        except KeyError:
            raise OSError(errno.ENOENT, "no such device", path) from None

    def _transfer(self, path: str, transfers: Sequence[SpiTransfer]) -> list[bytes]:
        device = self._device(path)
        for moves in (
            [t for t in transfers if t.reads],
            [t for t in transfers if t.tx is not None],
        ):
            taken = sum(-(-t.size // self._alignment) * self._alignment for t in moves)
            if taken > self._buffer_size:
                raise OSError(errno.EMSGSIZE, f"{taken} bytes in a buffer of {self._buffer_size}")
        if any(t.bits_per_word not in (0, _WORD_BITS) for t in transfers):
            raise OSError(errno.EINVAL, "words of other than 8 bits")
        for other in self._devices.values():
            if other is not device and other.bus == device.bus:
                self._chip_select(other, False)  # its chip select was kept, but the bus is ours now
        received = []
        keep = False
        try:
            for left, transfer in zip(range(len(transfers) - 1, -1, -1), transfers, strict=True):
                self._chip_select(device, True)
                seen = self._shift(device, transfer)
                if transfer.reads:
                    received.append(seen)
                if transfer.delay_us:
                    self._clock.sleep(transfer.delay_us / 1e6)
                if transfer.cs_change and left:
                    self._chip_select(device, False)
            # cs_change pulses chip select between transfers; on the last one it keeps it.
            keep = bool(transfers) and transfers[-1].cs_change
        finally:
            if not keep:
                self._chip_select(device, False)
        return received

    def _shift(self, device: _Device, transfer: SpiTransfer) -> bytes:
        self.counters.transfers += 1
        self.counters.bytes += transfer.size
        tx = bytes(transfer.size) if transfer.tx is None else transfer.tx
        if device.mode & (Mode.CPHA | Mode.CPOL) not in _SAMPLES_LIKE_A_TPM:
            return bytes([FLOATING]) * transfer.size  # on the wrong edge nothing makes sense
        return bytes(device.slave.shift(byte) for byte in tx)

    def _chip_select(self, device: _Device, active: bool) -> None:
        if not device.mode & Mode.NO_CS:
            device.slave.select(active != bool(device.mode & Mode.CS_HIGH))


class _Server:
    """Answers `spidev_preload.c`; one loop, so requests of all processes come one by one."""

    def __init__(self, spidev: VirtualSpidev, listener: socket.socket) -> None:
        self._spidev = spidev
        self._listener = listener
        self._loop = Loop()
        self._paths: dict[socket.socket, str] = {}
        self.failure: Exception | None = None

    def run(self, stopper: socket.socket) -> None:
        """Until `stopper` becomes readable."""
        self._loop.watch(stopper, self._loop.stop)
        self._loop.watch(self._listener, self._accept)
        try:
            self._loop.run()
        finally:
            for client in self._paths:
                client.close()
            self._loop.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.settimeout(_CLIENT_TIMEOUT_S)
        self._paths[client] = ""
        self._loop.watch(client, lambda: self._serve(client))

    def _serve(self, client: socket.socket) -> None:
        try:
            kind, argument, size = _REQUEST.unpack(_receive(client, _REQUEST.size))
            payload = _receive(client, size)
            client.sendall(self._answer(client, kind, argument, payload))
        except OSError:  # it hung up
            self._loop.unwatch(client)
            del self._paths[client]
            client.close()

    def _answer(self, client: socket.socket, kind: int, argument: int, payload: bytes) -> bytes:
        try:
            result, data = self._call(client, kind, argument, payload)
        except OSError as error:
            return _REPLY.pack(-(error.errno or errno.EIO), 0)
        except Exception as error:
            self.failure = self.failure or error
            return _REPLY.pack(-errno.EIO, 0)
        return _REPLY.pack(result, len(data)) + data

    def _call(
        self, client: socket.socket, kind: int, argument: int, payload: bytes
    ) -> tuple[int, bytes]:
        match kind:
            case 1:
                path = payload.decode()
                self._spidev.open(path)
                self._paths[client] = path
                return 0, b""
            case 2:
                return self._ioctl(self._paths[client], argument, payload)
            case 3:
                return argument, self._spidev.read(self._paths[client], argument)
            case 4:
                self._spidev.write(self._paths[client], payload)
                return len(payload), b""
        raise OSError(errno.ENOSYS, f"request {kind}")

    def _ioctl(self, path: str, request: int, payload: bytes) -> tuple[int, bytes]:
        direction, size = request >> 30, request >> 16 & 0x3FFF
        kind, number = request >> 8 & 0xFF, request & 0xFF
        if kind != _MAGIC:
            raise OSError(errno.ENOTTY, "not an ioctl of spidev")
        if direction != _WRITE:
            return 0, self._spidev.get(path, number).to_bytes(4, "little")[:size]
        if number != _Number.MESSAGE:
            self._spidev.set(path, number, int.from_bytes(payload, "little"))
            return 0, b""
        transfers = _transfers(payload, size)
        received = self._spidev.message(path, transfers)
        return sum(transfer.size for transfer in transfers), b"".join(received)


def _receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "the client hung up")
        data += piece
    return data


def _transfers(payload: bytes, fixed: int) -> list[SpiTransfer]:
    """The structures, and behind them the bytes of those that send."""
    at, transfers = fixed, []
    for raw in _TRANSFER.iter_unpack(payload[:fixed]):
        tx_buffer, rx_buffer, size, _, delay_us, bits, cs_change, *_ = raw
        tx = payload[at : at + size] if tx_buffer else None
        at += len(tx or b"")
        transfers.append(SpiTransfer(size, tx, bool(rx_buffer), bool(cs_change), delay_us, bits))
    return transfers


def build_preload(directory: Path) -> Path:
    """Compile the shim into `directory`; the library.

    Raises:
        Unsupported: there is no C compiler, or it fails.
    """
    library = directory / "spidev_preload.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    command = ["cc", *flags, "-o", str(library), str(_SOURCE), "-ldl", "-lpthread"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Unsupported(
            "the virtual spidev needs a C compiler", hint="install cc (Debian: gcc, libc6-dev)"
        ) from error
    if done.returncode:
        raise Unsupported(f"the virtual spidev does not compile:\n{done.stderr}")
    return library


@contextmanager
def serving(spidev: VirtualSpidev, library: Path) -> Iterator[dict[str, str]]:
    """Serve the devices from a thread; yields the environment that gives a process these devices.

    Nobody but that thread may use the devices and their slaves meanwhile, except to read counters.
    What a slave raises is an I/O error to the process that moved the byte, and raised here in the
    end.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hwtpm-spidev-") as directory,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        path = str(Path(directory) / "socket")
        listener.bind(path)
        listener.listen()
        server = _Server(spidev, listener)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            thread = threading.Thread(target=server.run, args=(theirs,), name="virtual spidev")
            thread.start()
            try:
                yield {"LD_PRELOAD": str(library), _VARIABLE: path}
            finally:
                ours.send(b"\0")
                thread.join()
    if server.failure is not None:
        raise server.failure
