"""Started under the preload shim: `spidev_program.py WHAT` does one thing with /dev/spidev0.0 and
prints what came out as JSON. It knows nothing of the simulation."""

from __future__ import annotations

import array
import fcntl
import json
import os
import struct
import sys
from collections.abc import Callable

import spidev

PATH = "/dev/spidev0.0"
DID_VID = bytes.fromhex("83 d4 0f 00")
READ_SPEED = 0x80046B04
TRANSFER = struct.Struct("=QQIIHBBBBBB")


def message(fd: int, *transfers: tuple[bytes, int]) -> bytes:
    """SPI_IOC_MESSAGE of full-duplex transfers (bytes, cs_change); all that was received."""
    buffers = [(array.array("B", tx), array.array("B", bytes(len(tx)))) for tx, _ in transfers]
    raw = b"".join(
        TRANSFER.pack(
            tx.buffer_info()[0], rx.buffer_info()[0], len(tx), 0, 0, 8, cs_change, 0, 0, 0, 0
        )
        for (tx, rx), (_, cs_change) in zip(buffers, transfers, strict=True)
    )
    moved = fcntl.ioctl(fd, 0x40006B00 | len(raw) << 16, raw)
    assert moved == raw
    return b"".join(rx.tobytes() for _, rx in buffers)


def settings() -> object:
    spi = spidev.SpiDev()
    spi.open(0, 0)
    spi.mode = 3
    spi.mode = 0
    spi.max_speed_hz = 10_000_000
    spi.bits_per_word = 8
    try:
        spi.lsbfirst = True
    except OSError as error:
        refused = error.errno
    found = [spi.mode, spi.max_speed_hz, spi.bits_per_word, spi.lsbfirst, refused]
    spi.close()
    return found


def package() -> object:
    """The C extension's transfers, and the two system calls it uses besides ioctl."""
    spi = spidev.SpiDev(0, 0)
    whole = spi.xfer2([*DID_VID, 0, 0, 0, 0])
    spi.writebytes([0x00, 0xD4, 0x00, 0x00, 0x02])
    access = spi.xfer([0x80, 0xD4, 0x00, 0x00, 0])
    header_only = spi.readbytes(4)
    return [bytes(got).hex(" ") for got in (whole, access, header_only)]


def batch() -> object:
    """Three transactions in one system call."""
    fd = os.open(PATH, os.O_RDWR)
    return message(fd, *[(DID_VID + bytes(4), 1)] * 2, (DID_VID + bytes(4), 0)).hex(" ")


def polling() -> object:
    """Wait states polled under one chip select, which cs_change on the last transfer keeps."""
    fd = os.open(PATH, os.O_RDWR)
    ready = message(fd, (DID_VID, 1))[-1]
    polls = 0
    while not ready & 1:
        ready = message(fd, (b"\0", 1))[0]
        polls += 1
    return [polls, message(fd, (bytes(4), 0)).hex(" ")]


def copies() -> object:
    """A copy of the descriptor is the device, too, and outlives the original."""
    fd = os.open(PATH, os.O_RDWR)
    copy = os.dup(fd)
    os.close(fd)
    speed = bytearray(4)
    fcntl.ioctl(copy, READ_SPEED, speed)
    return [int.from_bytes(speed, "little"), message(copy, (DID_VID + bytes(4), 0)).hex(" ")]


def refusals() -> object:
    fd = os.open(PATH, os.O_RDWR)
    attempts: list[Callable[[], object]] = [
        lambda: message(fd, (bytes(4097), 0)),
        lambda: message(fd, (bytes(4096), 0), (b"\0", 0)),
        lambda: fcntl.ioctl(fd, 0x40006B00 | 31 << 16, bytes(31)),
        lambda: fcntl.ioctl(fd, 0x40046B04, struct.pack("=I", 0)),
        lambda: fcntl.ioctl(fd, 0x80046B63, bytearray(4)),
        lambda: os.write(fd, bytes(4097)),
        lambda: os.read(fd, 4097),
        lambda: os.open("/dev/spidev0.9", os.O_RDWR),
    ]
    return [_errno(attempt) for attempt in attempts]


def empty_message() -> object:
    return fcntl.ioctl(os.open(PATH, os.O_RDWR), 0x40006B00, b"").hex()


def failing() -> object:
    fd = os.open(PATH, os.O_RDWR)
    return _errno(lambda: message(fd, (DID_VID + bytes(4), 0)))


def opening() -> object:
    return _errno(lambda: os.open(PATH, os.O_RDWR))


def command() -> object:
    """A whole command: the TIS driver over single xfer2 calls."""
    from hwtpm.clock import RealClock
    from hwtpm.tis import TisHost, drive

    class Port:
        def __init__(self) -> None:
            self.spi = spidev.SpiDev(0, 0)

        def read(self, address: int, size: int) -> bytes:
            header = [0x80 | size - 1, 0xD4, address >> 8, address & 0xFF]
            return bytes(self.spi.xfer2(header + [0] * size)[4:])

        def write(self, address: int, data: bytes) -> None:
            header = [len(data) - 1, 0xD4, address >> 8, address & 0xFF]
            self.spi.xfer2(header + list(data))

        def close(self) -> None:
            self.spi.close()

    host, port, clock = TisHost(), Port(), RealClock()
    drive(host.request_locality(0), port, clock)
    get_random = bytes.fromhex("8001 0000000c 0000017b 0020")
    return drive(host.transmit(get_random, 2.0), port, clock).hex()


def _errno(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as error:
        return error.errno or 0
    return 0


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
