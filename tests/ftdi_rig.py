"""A virtual FTDI adapter with a simple slave behind it, for tests of either side of its USB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyftdi.spi import SpiController, SpiPort  # type: ignore[import-untyped]

from hwtpm.clock import FakeClock
from hwtpm.tis_spi.virtual.ftdi import FT232H, Model, Port, VirtualFtdi
from hwtpm.tis_spi.virtual.usb import VirtualUsb, installed

SERIAL = "HW0001"
URL = f"ftdi://ftdi:232h:{SERIAL}/1"

CS_LOW = bytes.fromhex("80 00 0b")
CS_HIGH = bytes.fromhex("80 08 0b")
SEND_IMMEDIATE = b"\x87"

MPSSE_MODE = 0x0200
RESET_MODE = 0x0000
SET_BITMODE = 0x0B


@dataclass
class Recorded:
    """A slave that answers a fixed recording and keeps what it got, one list a chip select."""

    answers: bytes = b""
    got: list[bytearray] = field(default_factory=list)
    selected: bool = False

    def select(self, low: bool) -> None:
        assert low != self.selected, "not an edge"
        self.selected = low
        if low:
            self.got.append(bytearray())

    def shift(self, mosi: int) -> int:
        assert self.selected
        number = sum(map(len, self.got))
        self.got[-1].append(mosi)
        return self.answers[number] if number < len(self.answers) else 0xFF


@dataclass
class Echo(Recorded):
    """A slave that sends back the byte before."""

    last: int = 0xA5

    def shift(self, mosi: int) -> int:
        super().shift(mosi)
        back, self.last = self.last, mosi
        return back


@dataclass
class Bench:
    """One adapter and what is wired to port A."""

    clock: FakeClock
    adapter: VirtualFtdi
    slave: Recorded

    @property
    def port(self) -> Port:
        return self.adapter.ports[0]

    def to_mpsse(self) -> Port:
        """Port A in MPSSE mode at 30 MHz, as a driver without pyftdi would leave it."""
        self.port.control(SET_BITMODE, MPSSE_MODE)
        self.port.write(bytes.fromhex("8a 86 00 00") + CS_HIGH, 1.0)
        return self.port


def bench(
    slave: Recorded | None = None,
    model: Model = FT232H,
    serial: str = SERIAL,
    *,
    high_speed: bool = True,
) -> Bench:
    clock = FakeClock()
    adapter = VirtualFtdi(model, serial, clock, high_speed=high_speed)
    slave = Echo() if slave is None else slave
    adapter.ports[0].attach(slave)
    return Bench(clock, adapter, slave)


@contextmanager
def plugged(*benches: Bench) -> Iterator[VirtualUsb]:
    with installed(VirtualUsb(*(each.adapter for each in benches))) as bus:
        yield bus


@contextmanager
def spi_port(rig: Bench, url: str = URL, **options: object) -> Iterator[SpiPort]:
    """pyftdi's own SPI port on the bench's adapter at 10 MHz."""
    with plugged(rig):
        controller = SpiController()
        controller.configure(url, frequency=10e6, **options)
        try:
            yield controller.get_port(0, freq=10e6)
        finally:
            controller.close()


def read_answers(port: Port, count: int, timeout_s: float = 1.0) -> bytes:
    """Bulk IN until `count` bytes came, without their status bytes."""
    answers = b""
    while len(answers) < count:
        packet = port.read(port.packet_size, timeout_s)
        assert len(packet) > 2, "only status"
        answers += packet[2:]
    return answers
