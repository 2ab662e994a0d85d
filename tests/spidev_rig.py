"""The virtual spidev for tests: served to programs by the preload shim, or asked in-process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hwtpm.tis_spi.spi_ioc import IocTransfer
from hwtpm.tis_spi.virtual import SpiSlave
from hwtpm.tis_spi.virtual.spidev import SpiTransfer, VirtualSpidev, serving

PATH = "/dev/spidev0.0"
DEADLINE_S = 60


def run_program(name: str, arguments: Sequence[str], environment: dict[str, str]) -> object:
    """Run a program that lies beside this file; what it printed as JSON."""
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(name)), *arguments],
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@contextmanager
def served(
    library: Path, slave: SpiSlave, **options: int
) -> Iterator[tuple[VirtualSpidev, dict[str, str]]]:
    """The device with that slave, and the environment in which programs find it."""
    device = VirtualSpidev({PATH: slave}, **options)
    with serving(device, library) as environment:
        yield device, environment


class Wire:
    """A slave behind a probe on chip select."""

    def __init__(self, slave: SpiSlave) -> None:
        self.slave = slave
        self.low = False
        self.shifted = 0

    def select(self, low: bool) -> None:
        self.low = low
        self.slave.select(low)

    def shift(self, mosi: int) -> int:
        self.shifted += 1
        return self.slave.shift(mosi)


class DirectFile:
    """A `SpiFile` on a virtual device in the same process."""

    def __init__(self, device: VirtualSpidev) -> None:
        self.device = device
        self.closed = 0

    def message(self, transfers: Sequence[IocTransfer]) -> bytes:
        moves = [SpiTransfer(len(t.tx), t.tx, True, t.cs_change, t.delay_us) for t in transfers]
        return b"".join(self.device.message(PATH, moves))

    def close(self) -> None:
        self.closed += 1


class DroppingFile(DirectFile):
    """The same on a controller that lets chip select rise after every message."""

    def message(self, transfers: Sequence[IocTransfer]) -> bytes:
        *others, last = transfers
        return super().message([*others, IocTransfer(last.tx, delay_us=last.delay_us)])
