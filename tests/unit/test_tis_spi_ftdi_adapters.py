"""Which FTDI adapter an address means, and what keeps one from being used; on a virtual USB."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ftdi_bus_rig import FtdiBench, plugged, read

from hwtpm.clock import FakeClock
from hwtpm.errors import AccessDenied, BusError, Busy, DeviceNotFound, Unsupported, UsageError
from hwtpm.tis.registers import DID_VID
from hwtpm.tis_spi.ftdi import FtdiBus
from hwtpm.tis_spi.ftdi_adapters import Adapter, adapters, udev_rule
from hwtpm.tis_spi.ftdi_usb import MpssePort
from hwtpm.tis_spi.virtual.ftdi import FT232H, FT2232H, FT4232H, Model, usb_error

ROOT = Path(__file__).parents[2]
RULES = ROOT / "boards" / "70-hwtpm.rules"
FT2232D = Model("FT2232D", "Dual RS232", 0x6010, 0x0500, 2, 1, 12, 384, False)
GET_ID = read(DID_VID.offset, 4)


def benches() -> list[FtdiBench]:
    """One of each kind, another FT232H, and one that is too old."""
    return [
        FtdiBench(model=FT232H, serial="FT0A"),
        FtdiBench(model=FT2232H, serial="FT0B"),
        FtdiBench(model=FT4232H, serial=""),
        FtdiBench(model=FT232H, serial="7"),
        FtdiBench(model=FT2232D, serial="OLD"),
    ]


def opened_by(where: str, among: list[FtdiBench]) -> tuple[int, int]:
    """Number of the adapter and of its interface that `where` opens."""
    with plugged(*among):
        port = MpssePort.open(where, clock=FakeClock())
        try:
            return port.adapter.address - 2, port._interface
        finally:
            port.close()


# -- discovery


def test_attached_adapters_are_listed() -> None:
    made = benches()
    with plugged(*made):
        found = adapters()
    assert found == [
        Adapter("FT232H", 0x6014, "FT0A", 1, 2, 1),
        Adapter("FT2232H", 0x6010, "FT0B", 1, 3, 2),
        Adapter("FT4232H", 0x6011, "", 1, 4, 2),
        Adapter("FT232H", 0x6014, "7", 1, 5, 1),
    ]
    assert [adapter.url() for adapter in found] == [
        "ftdi://ftdi:232h:FT0A/1",
        "ftdi://ftdi:2232h:FT0B/1",
        "ftdi://ftdi:4232h:1:4/1",
        "ftdi://ftdi:232h:1:5/1",  # to pyftdi, a small number is no serial number
    ]
    assert found[1].describe() == (
        "ftdi://ftdi:2232h:FT0B/1 ftdi://ftdi:2232h:FT0B/2 (FT2232H at bus 1, device 3)"
    )


def test_listing_disturbs_nobody() -> None:
    bench = FtdiBench()
    bench.adapter.kernel_driver.add(0)
    with bench.bus() as bus:
        with bench.cost() as cost:
            (adapter,) = adapters()
        assert bus.run([GET_ID])[0].ready
    assert adapter.serial == "HW0001"
    assert (cost.control, cost.bulk_out, cost.bulk_in) == (0, 0, 0)


def test_no_adapter_no_list() -> None:
    with plugged():
        assert adapters() == []


def test_one_that_vanishes_while_looked_at_is_not_listed() -> None:
    first, second = FtdiBench(serial="A1"), FtdiBench(serial="B2")
    for transfer in (1, 2):
        first.adapter.unplug(after=transfer)
        with plugged(first, second):
            assert [adapter.serial for adapter in adapters()] == ["B2"]
        first.adapter.plug()


@pytest.mark.parametrize(("address", "serial"), [(2, "FROM-KERNEL"), (9, None)])
def test_the_kernel_knows_a_serial_number_that_may_not_be_read(
    tmp_path: Path, address: int, serial: str | None
) -> None:
    (tmp_path / "usb1").mkdir()
    (tmp_path / "1-1").mkdir()
    for name, text in {
        "busnum": "1",
        "devnum": str(address),
        "idVendor": "0403",
        "idProduct": "6014",
        "serial": "FROM-KERNEL",
    }.items():
        (tmp_path / "1-1" / name).write_text(f"{text}\n")
    bench = FtdiBench()
    bench.adapter.denied = True
    with plugged(bench):
        (adapter,) = adapters(tmp_path)
    assert adapter.serial == serial


# -- addresses


@pytest.mark.parametrize(
    ("where", "adapter", "interface"),
    [
        ("FT0A", 0, 1),
        ("FT0B", 1, 1),
        ("7", 3, 1),
        ("ftdi://ftdi:232h:FT0A/1", 0, 1),
        ("ftdi://0x403:ft232h:FT0A/1", 0, 1),
        ("ftdi://ftdi:2232h/1", 1, 1),
        ("ftdi://ftdi:2232/2", 1, 2),
        ("ftdi://:2232h:FT0B/2", 1, 2),
        ("ftdi://ftdi:4232h/2", 2, 2),
        ("ftdi://ftdi:4232h:1:4/1", 2, 1),
        ("ftdi://ftdi:232h:1/1", 0, 1),
        ("ftdi://ftdi:232h:2/1", 3, 1),
        ("ftdi://ftdi:232h:7/1", 3, 1),
        ("ftdi://ftdi:232h:1:5/1", 3, 1),
    ],
)
def test_an_address_opens_the_adapter_it_names(where: str, adapter: int, interface: int) -> None:
    assert opened_by(where, benches()) == (adapter, interface)


def test_every_listed_url_opens_its_adapter() -> None:
    with plugged(*benches()):
        found = adapters()
    for adapter in found:
        for interface in range(1, adapter.interfaces + 1):
            for by_place in (False, True):
                where = adapter.url(interface, by_place=by_place)
                assert opened_by(where, benches()) == (adapter.address - 2, interface)


@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        ("", "names no FTDI adapter"),
        ("ftdi://", "names no FTDI adapter"),
        ("ftdi://ftdi:232h:FT0A", "names no FTDI adapter"),
        ("ftdi:///?", "names no FTDI adapter"),
        ("spi://ftdi:232h/1", "names no FTDI adapter"),
        ("ftdi://acme:232h/1", "names no FTDI adapter"),
        ("ftdi://ftdi:232r/1", "'232r' is no adapter with a fast MPSSE"),
        ("ftdi://ftdi:2232d/1", "no adapter with a fast MPSSE"),
        ("ftdi://ftdi:232h:FT0A/2", "interface 2 of FT232H has no MPSSE"),
        ("ftdi://ftdi:4232h/3", "interface 3 of FT4232H has no MPSSE"),
        ("ftdi://ftdi:2232h/0", "interface 0 of FT2232H has no MPSSE"),
    ],
)
def test_what_is_no_address(where: str, complaint: str) -> None:
    with plugged(*benches()), pytest.raises(UsageError, match=complaint) as caught:
        FtdiBus.open(where)
    assert "FT232H" in caught.value.hint or "ftdi://" in caught.value.hint


@pytest.mark.parametrize(
    "where", ["FT0C", "OLD", "ftdi://ftdi:232h:FT0B/1", "ftdi://ftdi:232h:9:9/1", "99"]
)
def test_an_adapter_that_is_not_there(where: str) -> None:
    with plugged(*benches()), pytest.raises(DeviceNotFound, match="no such FTDI") as caught:
        FtdiBus.open(where)
    assert "ftdi://ftdi:232h:FT0A/1 (FT232H at bus 1, device 2)" in caught.value.hint
    with plugged(), pytest.raises(DeviceNotFound) as caught:
        FtdiBus.open("FT0A")
    assert caught.value.hint == "none is attached: plug it in"


@pytest.mark.parametrize("where", ["ftdi://ftdi:232h/1", "ftdi:///1", "ftdi://ftdi/1"])
def test_more_than_one_that_is_meant(where: str) -> None:
    with plugged(*benches()), pytest.raises(DeviceNotFound, match="adapters are meant") as caught:
        FtdiBus.open(where)
    assert "ftdi://ftdi:232h:FT0A/1" in caught.value.hint


def test_clones_with_one_serial_number_are_told_apart_by_place() -> None:
    first, second = FtdiBench(), FtdiBench()
    with plugged(first, second):
        with pytest.raises(DeviceNotFound, match="2 adapters are meant") as caught:
            first.open()
        assert "ftdi://ftdi:232h:1:2/1" in caught.value.hint
        assert "ftdi://ftdi:232h:1:3/1" in caught.value.hint
    assert opened_by("ftdi://ftdi:232h:1:3/1", [first, second]) == (1, 1)


# -- who may use it


@pytest.mark.parametrize("where", ["HW0001", "ftdi://ftdi:232h/1", "ftdi://ftdi:232h:1:2/1"])
def test_no_permission_names_the_rule_that_mends_it(where: str) -> None:
    bench = FtdiBench()
    bench.adapter.denied = True
    with plugged(bench), pytest.raises(AccessDenied) as caught:
        FtdiBus.open(where)
    rule = caught.value.hint.splitlines()[-1]
    assert rule == udev_rule(FT232H.product_id)
    assert bench.port.counters.control == 0


def test_rules_are_shipped_for_every_adapter() -> None:
    lines = RULES.read_text().splitlines()
    for model in (FT232H, FT2232H, FT4232H):
        assert udev_rule(model.product_id) in lines


def test_the_kernel_s_driver_gives_way_and_comes_back() -> None:
    bench = FtdiBench(model=FT2232H)
    bench.adapter.kernel_driver |= {0, 1}
    with bench.bus() as bus:
        assert bench.adapter.kernel_driver == {1}
        assert bus.run([GET_ID])[0].ready
    assert bench.adapter.kernel_driver == {0, 1}


def test_the_kernel_s_driver_is_left_alone_on_request() -> None:
    bench = FtdiBench()
    bench.adapter.kernel_driver.add(0)
    with plugged(bench), pytest.raises(Busy, match="ftdi_sio") as caught:
        bench.open(detach_kernel_driver=False)
    assert "/sys/bus/usb/drivers/ftdi_sio/unbind" in caught.value.hint
    assert bench.adapter.kernel_driver == {0}
    assert bench.port.counters.control == 0


@pytest.mark.parametrize(
    ("number", "error", "complaint"),
    [
        (errno.EBUSY, Busy, "ftdi_sio.* does not let it go"),
        (errno.ENOENT, Busy, "ftdi_sio.* does not let it go"),
        (errno.EACCES, AccessDenied, "this user may not use it"),
        (errno.ENODEV, DeviceNotFound, "the adapter is gone"),
    ],
)
def test_a_kernel_driver_that_does_not_let_go(
    number: int, error: type[Exception], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = FtdiBench()
    bench.adapter.kernel_driver.add(0)

    def refuse(*_: object) -> None:
        raise usb_error(number)

    with plugged(bench) as usb:
        monkeypatch.setattr(usb, "detach_kernel_driver", refuse)
        with pytest.raises(error, match=complaint):
            bench.open()
    assert bench.adapter.kernel_driver == {0}
    assert bench.port.counters.control == 0


def test_an_interface_that_another_program_uses_is_not_touched() -> None:
    bench = FtdiBench()
    bench.adapter.in_use.add(0)
    with plugged(bench):
        with pytest.raises(Busy, match="another program uses it") as caught:
            bench.open()
        assert "fuser -v /dev/bus/usb/001/002" in caught.value.hint
        assert bench.port.counters.control == bench.port.counters.bulk_out == 0
        bench.adapter.in_use.clear()
        first = bench.open()
        with pytest.raises(Busy):
            bench.open()
        assert first.run([GET_ID])[0].ready
        first.close()
        bench.open().close()


def test_another_failure_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = FtdiBench()

    def fail(*_: object) -> None:
        raise usb_error(errno.EPIPE)

    with bench.bus() as bus:
        usb = bus._port._device.backend
        monkeypatch.setattr(usb, "bulk_write", fail)
        with pytest.raises(BusError, match="Pipe error") as caught:
            bus.run([GET_ID])
        assert "cable" in caught.value.hint
        monkeypatch.undo()
        assert bus.run([GET_ID])[0].ready


# -- without the libraries


@pytest.mark.parametrize("missing", ["pyftdi.ftdi", "usb.core"])
def test_without_pyftdi_the_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for call in (adapters, lambda: FtdiBus.open("HW0001")):
        with pytest.raises(Unsupported, match="pyftdi") as caught:
            call()
        assert caught.value.hint == "pip install 'hwtpm[ftdi]'"


def test_without_libusb_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyftdi.usbtools import UsbTools

    monkeypatch.setattr(UsbTools, "BACKENDS", ())
    with pytest.raises(Unsupported, match="libusb is not installed") as caught:
        adapters()
    assert "apt install libusb-1.0-0" in caught.value.hint


def test_programs_start_without_the_hardware_libraries() -> None:
    program = """
import importlib, pkgutil, sys
for name in ("pyftdi", "usb", "spidev", "gpiod", "tpm2_pytss"):
    sys.modules[name] = None
import hwtpm.cli.app, hwtpm.tis_spi, hwtpm.transport
for module in pkgutil.iter_modules(hwtpm.tis_spi.__path__, "hwtpm.tis_spi."):
    importlib.import_module(module.name)
    print(module.name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "hwtpm.tis_spi.ftdi\n" in done.stdout
