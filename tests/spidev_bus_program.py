"""Started under the preload shim: `spidev_bus_program.py WHAT` opens /dev/spidev0.0 with our bus
and prints what came out as JSON. It knows nothing of the simulation."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from hwtpm.clock import RealClock
from hwtpm.errors import HwtpmError
from hwtpm.tis import TisHost, drive
from hwtpm.tis_spi.bus import Captured, Pause
from hwtpm.tis_spi.flow import read_transfer, write_transfer
from hwtpm.tis_spi.planner import Plan, SpiHost
from hwtpm.tis_spi.spidev import SpidevBus, open_spidev
from hwtpm.tis_spi.transport import SpiTis

GET_RANDOM = bytes.fromhex("8001 0000000c 0000017b 0020")
DID_VID = read_transfer(0xF00, 4)
REQUEST_USE = write_transfer(0x00, b"\x02")
ACCESS = read_transfer(0x00, 1)


class Port:
    """A TIS port that does every access as one stretched transfer."""

    def __init__(self, bus: SpidevBus) -> None:
        self.bus = bus

    def read(self, address: int, size: int) -> bytes:
        return self.bus.stretch(read_transfer(address, size), 50)

    def write(self, address: int, data: bytes) -> None:
        self.bus.stretch(write_transfer(address, data), 50)

    def close(self) -> None:
        self.bus.close()


def opened(alignment: int | None = None) -> SpidevBus:
    return open_spidev(Path("/dev/spidev0.0"), clock_hz=10_000_000, alignment=alignment)


def shown(results: list[Captured]) -> list[str]:
    return [f"{result.status:02x} {result.data.hex()}".strip() for result in results]


def batch() -> object:
    bus = opened()
    seen = shown(bus.run([DID_VID, REQUEST_USE, Pause(0.0001), ACCESS]))
    bus.close()
    return [seen, asdict(bus.counters)]


def widest() -> object:
    """As many and as long transfers as the limits allow, and one more."""
    bus = opened(int(sys.argv[2]) if sys.argv[2:] else None)
    steps = [read_transfer(0x24, 64)] * bus.limits.transfers
    results = bus.run([*steps])
    before = bus.counters.ioctls
    bus.run([*steps, DID_VID])
    return [len(results), before, bus.counters.ioctls - before]


def stretch() -> object:
    bus = opened()
    seen = [bus.stretch(transfer, 20).hex() for transfer in (DID_VID, REQUEST_USE, ACCESS)]
    return [seen, asdict(bus.counters)]


def host() -> object:
    """A whole command: the slow driver, one register access at a time."""
    bus = opened()
    tis, port, clock = TisHost(), Port(bus), RealClock()
    info = drive(tis.probe(), port, clock)
    drive(tis.request_locality(0), port, clock)
    response = drive(tis.transmit(GET_RANDOM, 2.0), port, clock)
    port.close()
    return [f"{info.did_vid:08x}", response.hex()]


def planned() -> object:
    """Commands by the planner; the ioctls of the last one under each plan."""
    bus = opened()
    costs = {}
    for most in (Plan.STRICT, Plan.FAST):
        chip = SpiTis(
            bus, RealClock(), duration_s=lambda _: 2.0, host=SpiHost(bus.limits, most=most)
        )
        chip.probe()
        for _ in range(12):
            before = bus.counters.ioctls
            response = chip.execute(GET_RANDOM)
        costs[most.name] = bus.counters.ioctls - before
        chip.set_locality(0)
    return [response.hex(), costs]


def faulty() -> object:
    """Whatever goes wrong is named, and does not keep the next call from working."""
    bus = opened()
    seen: list[object] = []
    for attempt in (lambda: bus.stretch(DID_VID, 5), lambda: bus.run([DID_VID])):
        try:
            seen.append(str(attempt()))
        except HwtpmError as error:
            seen.append(error.describe())
    return seen


def opening() -> object:
    try:
        opened()
    except HwtpmError as error:
        return error.describe()
    return None


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
