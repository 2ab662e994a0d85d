"""A simulated TPM behind a virtual FTDI adapter, and our bus to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hwtpm.clock import FakeClock
from hwtpm.tis_lpc_sim import ExecutorTpm
from hwtpm.tis_spi.bus import Transfer
from hwtpm.tis_spi.framing import Header
from hwtpm.tis_spi.ftdi import FtdiBus
from hwtpm.tis_spi.mpsse import Wires
from hwtpm.tis_spi.virtual import Habits, VirtualSpiChip
from hwtpm.tis_spi.virtual.counters import Counters
from hwtpm.tis_spi.virtual.ftdi import FT232H, Model, Port, VirtualFtdi
from hwtpm.tis_spi.virtual.usb import VirtualUsb, installed

SERIAL = "HW0001"
RESET_PIN, IRQ_PIN = 9, 5
PLAIN = Habits()


def answer_to(command: bytes, locality: int = 0) -> bytes:
    """A response that depends on every byte of the command."""
    body = bytes([locality]) + command[::-1]
    return b"\x00\xc4" + (10 + len(body)).to_bytes(4, "big") + bytes(4) + body


def read(address: int, size: int) -> Transfer:
    return Transfer(Header(True, address, size).encode(), size=size)


def write(address: int, data: bytes) -> Transfer:
    return Transfer(Header(False, address, len(data)).encode(), data)


class FtdiBench:
    """One adapter; a TPM on port `interface`, chip select on `cs`, RST# and PIRQ# wired."""

    def __init__(
        self,
        habits: Habits = PLAIN,
        model: Model = FT232H,
        *,
        serial: str = SERIAL,
        interface: int = 1,
        cs: int = 3,
        reset: int = RESET_PIN,
        high_speed: bool = True,
    ) -> None:
        self.clock = FakeClock()
        self.chip = VirtualSpiChip(ExecutorTpm(answer_to), habits, self.clock)
        self.chip.power_on()
        self.adapter = VirtualFtdi(model, serial, self.clock, high_speed=high_speed)
        self.interface = interface
        self.port.attach(self.chip, cs)
        self.port.pins.watch(reset, lambda level: self.chip.reset(not level))
        self.port.pins.connect(IRQ_PIN, lambda: not self.chip.irq)
        self.url = f"ftdi://ftdi:{model.name[2:].lower()}:{serial}/{interface}"

    @property
    def port(self) -> Port:
        return self.adapter.ports[self.interface - 1]

    @property
    def outputs(self) -> set[int]:
        """Pins that the adapter drives."""
        return {pin for pin in range(self.port.pins.width) if self.port.pins.is_output(pin)}

    @property
    def selected(self) -> bool:
        return bool(self.chip.counters.cs_edges % 2)

    def open(self, wires: Wires | None = None, **options: object) -> FtdiBus:
        return FtdiBus.open(self.url, wires, clock=self.clock, **options)

    @contextmanager
    def bus(self, wires: Wires | None = None, **options: object) -> Iterator[FtdiBus]:
        """The bus, on a USB with this adapter only; closed at the end."""
        with plugged(self):
            bus = self.open(wires, **options)
            try:
                yield bus
            finally:
                bus.close()

    @contextmanager
    def cost(self) -> Iterator[Counters]:
        """What happens inside is counted in the result."""
        before, counted = self.port.counters.snapshot(), Counters()
        yield counted
        spent = self.port.counters.since(before)
        for name in Counters.__dataclass_fields__:
            setattr(counted, name, getattr(spent, name))


@contextmanager
def plugged(*benches: FtdiBench) -> Iterator[VirtualUsb]:
    with installed(VirtualUsb(*(each.adapter for each in benches))) as usb:
        yield usb
