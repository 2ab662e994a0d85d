"""What is told about SPI devices, and why one cannot be opened, from a made-up /sys and /dev."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hwtpm.errors import AccessDenied, BusError, Busy, DeviceNotFound, HwtpmError, Unsupported
from hwtpm.tis_spi.spidev import devices, open_spidev
from hwtpm.tis_spi.spidev_sysfs import SpidevDevice, buffer_size, open_error


class Machine:
    """A /dev and a /sys with an SPI controller or two."""

    def __init__(self, root: Path) -> None:
        self.dev, self.sysfs = root / "dev", root / "sys"
        self.dev.mkdir()
        (self.sysfs / "bus/spi/devices").mkdir(parents=True)

    def add(self, bus: int, chip_select: int, driver: str = "", compatible: str = "") -> Path:
        name = f"spi{bus}.{chip_select}"
        controller = self.sysfs / f"devices/platform/soc/fe20400{bus}.spi"
        device = controller / f"spi_master/spi{bus}/{name}"
        device.mkdir(parents=True)
        self._link(controller, "spi-bcm2835")
        # The kernel has no directory between a controller and its bus.
        (controller / f"spi{bus}").mkdir(exist_ok=True)
        device = device.rename(controller / f"spi{bus}/{name}")
        (self.sysfs / f"bus/spi/devices/{name}").symlink_to(device)
        (device / "modalias").write_text("spi:spidev\n")
        if driver:
            self._link(device, driver)
        if compatible:
            (device / "of_node").mkdir()
            (device / "of_node/compatible").write_text(compatible)
        if driver == "spidev":
            (self.dev / f"spidev{bus}.{chip_select}").touch()
        return device

    def _link(self, device: Path, driver: str) -> None:
        target = self.sysfs / f"bus/drivers/{driver}"
        target.mkdir(parents=True, exist_ok=True)
        if not (device / "driver").exists():
            (device / "driver").symlink_to(target)

    def why(self, code: int, name: str = "spidev0.1") -> HwtpmError:
        return open_error(OSError(code, "no"), self.dev / name, self.dev, self.sysfs)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_devices_and_what_sysfs_says(machine: Machine) -> None:
    machine.add(0, 1, "spidev", "tcg,tpm_tis-spi\0spidev\0")
    machine.add(0, 0, "mcp251x")
    machine.add(10, 0, "spidev")
    machine.add(2, 0)
    (machine.dev / "spidev").touch()
    (machine.dev / "spidev9.0").touch()
    first, second, third = devices(machine.dev, machine.sysfs)
    assert first == SpidevDevice(
        machine.dev / "spidev0.1",
        0,
        1,
        compatible="tcg,tpm_tis-spi",
        controller="fe204000.spi (spi-bcm2835)",
        neighbours=("spi0.0 (mcp251x)",),
    )
    assert second == SpidevDevice(machine.dev / "spidev9.0", 9, 0)
    assert (third.bus, third.compatible, third.neighbours) == (10, "spi:spidev", ())


def test_a_machine_without_spi_has_no_devices(tmp_path: Path) -> None:
    assert devices(tmp_path / "dev", tmp_path / "sys") == []


@pytest.mark.parametrize(("content", "size"), [("65536\n", 65536), ("", 4096), (None, 4096)])
def test_the_drivers_buffer(tmp_path: Path, content: str | None, size: int) -> None:
    if content is not None:
        parameter = tmp_path / "module/spidev/parameters/bufsiz"
        parameter.parent.mkdir(parents=True)
        parameter.write_text(content)
    assert buffer_size(tmp_path) == size


def test_a_missing_device_without_spi(machine: Machine) -> None:
    error = machine.why(errno.ENOENT)
    assert isinstance(error, DeviceNotFound)
    assert "dtparam=spi=on" in error.hint


def test_a_missing_device_beside_others(machine: Machine) -> None:
    machine.add(0, 0, "spidev")
    machine.add(1, 0, "spidev")
    error = machine.why(errno.ENOENT)
    assert isinstance(error, DeviceNotFound)
    assert error.hint == f"there is: {machine.dev}/spidev0.0, {machine.dev}/spidev1.0"


def test_a_path_that_no_spidev_has(machine: Machine) -> None:
    error = machine.why(errno.ENOENT, "tpm-chip")
    assert isinstance(error, DeviceNotFound)
    assert "dtparam" in error.hint


@pytest.mark.parametrize(("tpm", "node"), [("tpm1", "tpm1"), ("", "tpm0")])
def test_a_chip_select_that_the_kernels_tpm_driver_owns(
    machine: Machine, tpm: str, node: str
) -> None:
    device = machine.add(0, 1, "tpm_tis_spi", "infineon,slb9670\0")
    if tpm:
        (device / "tpm" / tpm).mkdir(parents=True)
    error = machine.why(errno.ENOENT)
    assert isinstance(error, Busy)
    assert "tpm_tis_spi owns this chip select" in error.message
    assert f"use dev:{machine.dev}/{node}" in error.hint
    assert "overlay" in error.hint


def test_a_chip_select_that_another_driver_owns(machine: Machine) -> None:
    machine.add(0, 1, "mcp251x")
    error = machine.why(errno.ENOENT)
    assert isinstance(error, Busy)
    assert "gives it to mcp251x" in error.hint


def test_a_chip_select_that_no_driver_has(machine: Machine) -> None:
    machine.add(0, 1)
    error = machine.why(errno.ENOENT)
    assert isinstance(error, DeviceNotFound)
    assert "driver_override" in error.hint


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (errno.EACCES, AccessDenied, 'SUBSYSTEM=="spidev"'),
        (errno.EPERM, AccessDenied, "group spi"),
        (errno.ENOTTY, DeviceNotFound, "is no spidev device"),
        (errno.EINVAL, Unsupported, "another clock"),
        (errno.EBUSY, Busy, "fuser"),
        (errno.ENODEV, DeviceNotFound, "gone"),
        (errno.EIO, BusError, "kernel's log"),
    ],
)
def test_a_device_that_cannot_be_opened(
    machine: Machine, code: int, kind: type[HwtpmError], text: str
) -> None:
    error = machine.why(code)
    assert type(error) is kind
    assert text in str(error)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spidev", None)
    with pytest.raises(Unsupported) as raised:
        open_spidev(Path("/dev/spidev0.0"), clock_hz=1)
    assert "hwtpm[spi]" in raised.value.hint


def test_what_is_no_device_is_refused(machine: Machine) -> None:
    plain = machine.dev / "spidev0.0"
    plain.touch()
    with pytest.raises(DeviceNotFound, match="no spidev device"):
        open_spidev(plain, clock_hz=1, dev=machine.dev, sysfs=machine.sysfs)


def package(refuses: str, code: int) -> tuple[ModuleType, list[str]]:
    """A stand-in for the package whose device refuses one setting."""
    done: list[str] = []

    class SpiDev:
        def open_path(self, path: str) -> None:
            done.append("open")

        def __setattr__(self, name: str, value: object) -> None:
            done.append(f"{name}={value}")
            if name == refuses:
                raise OSError(code, "no")

        def close(self) -> None:
            done.append("close")

    module = ModuleType("spidev")
    module.SpiDev = SpiDev  # type: ignore[attr-defined]
    return module, done


def configure(
    monkeypatch: pytest.MonkeyPatch, refuses: str
) -> tuple[list[str], Callable[[], None]]:
    module, done = package(refuses, errno.EINVAL)
    monkeypatch.setitem(sys.modules, "spidev", module)
    return done, lambda: open_spidev(Path("/dev/spidev0.0"), clock_hz=2_000_000).close()


def test_mode_word_and_clock_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    done, open_and_close = configure(monkeypatch, "nothing")
    open_and_close()
    assert done == ["open", "mode=0", "bits_per_word=8", "max_speed_hz=2000000", "close"]


@pytest.mark.parametrize("refuses", ["mode", "bits_per_word", "max_speed_hz"])
def test_a_setting_that_the_controller_refuses(
    monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    done, open_and_close = configure(monkeypatch, refuses)
    with pytest.raises(Unsupported, match="controller cannot"):
        open_and_close()
    assert done[-1] == "close"
