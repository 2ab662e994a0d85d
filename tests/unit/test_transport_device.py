"""The kernel device transport on a terminal pair, the one character device everybody may make."""

from __future__ import annotations

import os
import threading
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hwtpm.errors import BusError, Busy, DeviceNotFound, ProtocolError, Timeout, UsageError
from hwtpm.transport import Deadlines, open_transport
from hwtpm.transport.device import open_device

READ_PCR = bytes.fromhex("00c1 0000000e 00000015 00000000")
ANSWER = bytes.fromhex("00c4 0000001e 00000000") + bytes(20)
SOON = Deadlines(short_s=0.2, medium_s=0.2, long_s=0.2)


@dataclass
class Device:
    path: Path
    master: int
    thread: threading.Thread | None = None

    def will_answer(self, data: bytes) -> None:
        def body() -> None:
            received = b""
            while len(received) < len(READ_PCR):
                received += os.read(self.master, 4096)
            os.write(self.master, data)

        self.thread = threading.Thread(target=body)
        self.thread.start()


@pytest.fixture
def device() -> Iterator[Device]:
    master, slave = os.openpty()
    tty.setraw(slave)
    made = Device(Path(os.ttyname(slave)), master)
    try:
        yield made
        if made.thread is not None:
            made.thread.join(10)
            assert not made.thread.is_alive()
    finally:
        os.close(slave)
        os.close(master)


def test_command_and_answer_pass(device: Device) -> None:
    device.will_answer(ANSWER)
    transport = open_transport(f"dev:{device.path}")
    assert transport.execute(READ_PCR) == ANSWER
    transport.close()
    transport.close()
    with pytest.raises(UsageError, match="closed"):
        transport.execute(READ_PCR)


def test_second_user_is_told_that_it_is_busy(device: Device) -> None:
    first = open_transport(f"dev:{device.path}")
    with pytest.raises(Busy, match="somebody else"):
        open_transport(f"dev:{device.path}")
    first.close()
    open_transport(f"dev:{device.path}").close()


def test_silent_device_is_a_timeout_and_gives_the_lock_back(device: Device) -> None:
    device.will_answer(b"")
    transport = open_device("dev:x", device.path, deadlines=SOON)
    with pytest.raises(Timeout, match="dev:x: no answer"):
        transport.execute(READ_PCR)
    open_transport(f"dev:{device.path}").close()


def test_garbage_is_a_protocol_error(device: Device) -> None:
    device.will_answer(b"\xff" * 30)
    transport = open_device("dev:x", device.path, deadlines=SOON)
    with pytest.raises(ProtocolError, match="4294967295 bytes"):
        transport.execute(READ_PCR)


def test_driver_that_goes_away_is_a_bus_error() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    transport = open_device("dev:x", Path(os.ttyname(slave)), deadlines=SOON)
    os.close(slave)
    os.close(master)
    with pytest.raises(BusError, match="dev:x"):
        transport.execute(READ_PCR)


def test_what_is_no_device_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceNotFound, match="is no device"):
        open_transport(f"dev:{tmp_path / 'file'}")
    with pytest.raises(DeviceNotFound, match="cannot open"):
        open_transport(f"dev:{tmp_path}")


def sysfs_entry(root: Path, name: str, bus: str) -> None:
    parent = root / "devices" / name
    parent.mkdir(parents=True)
    for link, target in (("subsystem", f"bus/{bus}"), ("driver", f"drivers/tpm_{bus}")):
        (root / target).mkdir(parents=True)
        (parent / link).symlink_to(root / target)
    (root / name).mkdir()
    (root / name / "device").symlink_to(parent)


@pytest.mark.parametrize(("bus", "real"), [("pnp", True), ("spi", True), ("xen", False)])
def test_sysfs_tells_hardware_from_a_xen_front_end(
    device: Device, tmp_path: Path, bus: str, real: bool
) -> None:
    sysfs_entry(tmp_path, device.path.name, bus)
    transport = open_device("dev:x", device.path, sysfs=tmp_path)
    assert transport.attached.real_hardware is real
    assert transport.attached.detail == f"kernel driver tpm_{bus} on bus {bus}"
    transport.close()


def test_device_that_sysfs_does_not_know_is_never_called_real(
    device: Device, tmp_path: Path
) -> None:
    transport = open_device("dev:x", device.path, sysfs=tmp_path)
    assert not transport.attached.real_hardware
    transport.close()
