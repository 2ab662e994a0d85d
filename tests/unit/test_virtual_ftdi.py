"""The virtual adapter under the unmodified pyftdi: its SPI calls, its lists, its errors."""

from __future__ import annotations

import errno

import pytest
import usb.core
from ftdi_rig import (
    CS_HIGH,
    CS_LOW,
    SEND_IMMEDIATE,
    SERIAL,
    URL,
    Bench,
    Echo,
    Recorded,
    bench,
    plugged,
    spi_port,
)
from pyftdi.ftdi import Ftdi, FtdiError, FtdiMpsseError
from pyftdi.spi import SpiController
from pyftdi.usbtools import UsbTools, UsbToolsError

from hwtpm.clock import FakeClock
from hwtpm.tis_spi.virtual.ftdi import FT232H, FT2232H, FT4232H, Costs, Model, VirtualFtdi
from hwtpm.tis_spi.virtual.usb import VirtualUsb, get_backend, installed

HEADER = bytes.fromhex("83 d4 0f 00")
DID_VID = bytes.fromhex("d1 15 1b 00")


# -- SPI through pyftdi's own calls, and what each costs


def test_half_duplex_exchange_is_one_transfer_each_way() -> None:
    rig = bench(Recorded(b"\x00\x00\x00\x01" + DID_VID))
    with spi_port(rig) as port:
        before = rig.port.counters.snapshot()
        assert port.exchange(HEADER, 4) == DID_VID
        cost = rig.port.counters.since(before)
    assert rig.slave.got == [HEADER + bytes(4)]
    assert (cost.bulk_out, cost.bulk_in, cost.round_trips) == (1, 1, 1)
    assert (cost.bytes_out, cost.bytes_in) == (22 + len(HEADER), 4)
    assert (cost.selects, cost.clock_cycles, cost.latency_waits) == (1, 64, 0)
    assert cost.off_mode == 1  # pyftdi reads with opcode 0x24: half a clock late in mode 0


def test_duplex_exchange_is_one_transfer_each_way() -> None:
    rig = bench()
    with spi_port(rig) as port:
        before = rig.port.counters.snapshot()
        assert port.exchange(b"\x01\x02\x03\x04", duplex=True) == b"\xa5\x01\x02\x03"
        cost = rig.port.counters.since(before)
    assert (cost.bulk_out, cost.bulk_in, cost.bytes_out, cost.off_mode) == (1, 1, 19 + 4, 0)
    assert cost.bus_time_s == pytest.approx(32 / 10e6)


@pytest.mark.parametrize(("high_speed", "packets"), [(True, 2), (False, 13)])
def test_a_packet_holds_510_or_62_bytes(high_speed: bool, packets: int) -> None:
    rig = bench(high_speed=high_speed)
    sent = bytes(range(200)) * 4
    with spi_port(rig) as port:
        before = rig.port.counters.snapshot()
        assert port.exchange(sent, duplex=True) == b"\xa5" + sent[:-1]
        cost = rig.port.counters.since(before)
    assert (cost.bulk_out, cost.bulk_in, cost.packets_in) == (1, packets, packets)
    assert cost.round_trips == 1


def test_a_write_is_one_transfer_and_no_read() -> None:
    rig = bench()
    with spi_port(rig) as port:
        before = rig.port.counters.snapshot()
        port.write(b"abc")
        cost = rig.port.counters.since(before)
    assert rig.slave.got == [b"abc"]
    assert (cost.bulk_out, cost.bulk_in, cost.bytes_out) == (1, 0, 18 + 3)


def test_chip_select_is_held_between_calls() -> None:
    rig = bench(Recorded(b"\x00\x00\x00\x01" + DID_VID))
    with spi_port(rig) as port:
        before = rig.port.counters.snapshot()
        assert port.exchange(HEADER, duplex=True, stop=False) == b"\x00\x00\x00\x01"
        assert rig.slave.selected
        assert port.read(4, start=False) == DID_VID
        cost = rig.port.counters.since(before)
    assert not rig.slave.selected
    assert rig.slave.got == [HEADER + bytes(4)]
    assert (cost.bulk_out, cost.bulk_in, cost.selects) == (2, 2, 1)


def test_without_turbo_the_chip_select_costs_another_transfer() -> None:
    rig = bench()
    with spi_port(rig, turbo=False) as port:
        before = rig.port.counters.snapshot()
        port.exchange(b"\x01", 1)
        assert rig.port.counters.since(before).bulk_out == 2


def test_dropped_tail_bits_are_not_clocked() -> None:
    rig = bench()
    with spi_port(rig) as port:
        before = rig.port.counters.snapshot()
        port.write(b"\x12\x34", droptail=3)
        assert rig.port.counters.since(before).clock_cycles == 13
    assert rig.slave.got == [b"\x12"]  # a slave never sees an unfinished byte


def test_one_chip_select_for_each_slave() -> None:
    rig, second = bench(), Echo(last=0x5A)
    rig.port.attach(second, cs_pin=4)
    with plugged(rig):
        controller = SpiController(cs_count=2)
        controller.configure(URL, frequency=1e6)
        assert controller.get_port(1).exchange(b"\x01", duplex=True) == b"\x5a"
        assert controller.get_port(0).exchange(b"\x02", duplex=True) == b"\xa5"
        controller.close()
    assert (rig.slave.got, second.got) == ([b"\x02"], [b"\x01"])


def test_gpio_drives_a_reset_line_and_reads_a_button() -> None:
    rig = bench()
    edges: list[bool] = []
    rig.port.pins.watch(7, edges.append)
    rig.port.pins.watch(8, edges.append)
    button = False
    rig.port.pins.connect(4, lambda: button)
    with plugged(rig):
        controller = SpiController()
        controller.configure(URL, direction=0x180, initial=0x180)
        gpio = controller.get_gpio()
        assert gpio.read() & 0x10 == 0
        button = True
        assert gpio.read() & 0x10 == 0x10
        assert gpio.read() & 0x20 == 0x20  # nothing wired: pulled up
        gpio.write(0x100)
        gpio.write(0x180)
        gpio.write(0x080)
        assert edges == [False, True, False]
        controller.close()
    assert edges == [False, True, False, True]  # released, and pulled up again


def test_pyftdi_lets_a_low_gpio_fall_until_it_has_been_written() -> None:
    # Its exchanges forget `initial`: a reset line on xDBUS4-7 would hold the chip in reset.
    rig = bench()
    with spi_port(rig, direction=0x180, initial=0x180) as port:
        assert (rig.port.pins.level(7), rig.port.pins.level(8)) == (True, True)
        port.write(b"a")
        assert (rig.port.pins.level(7), rig.port.pins.level(8)) == (False, True)
        port._controller.get_gpio().write(0x180)
        port.write(b"a")
        assert (rig.port.pins.level(7), rig.port.pins.level(8)) == (True, True)


# -- raw batches


def test_a_batch_of_two_transfers_is_one_round_trip() -> None:
    rig = bench(Recorded(b"\x00\x00\x00\x01" + DID_VID + b"\x00\x00\x00\x01\x81"))
    with spi_port(rig) as port:
        ftdi = port._controller.ftdi
        batch = b"".join(
            CS_LOW + b"\x11\x02\x00" + header[:3] + b"\x31\x00\x00" + header[3:] + read + CS_HIGH
            for header, read in ((HEADER, b"\x20\x03\x00"), (b"\x80\xd4\x00\x00", b"\x20\x00\x00"))
        )
        before = rig.port.counters.snapshot()
        ftdi.write_data(batch + SEND_IMMEDIATE)
        assert ftdi.read_data_bytes(7, 4) == b"\x01" + DID_VID + b"\x01\x81"
        cost = rig.port.counters.since(before)
    assert (cost.bulk_out, cost.bulk_in, cost.round_trips, cost.selects) == (1, 1, 1, 2)
    assert cost.off_mode == 0
    assert rig.slave.got == [HEADER + bytes(4), b"\x80\xd4\x00\x00" + b"\x00"]


def test_without_send_immediate_an_answer_waits_for_the_latency_timer() -> None:
    rig = bench()
    with spi_port(rig, latency=2) as port:
        ftdi = port._controller.ftdi
        ftdi.write_data(b"\x81" + SEND_IMMEDIATE)
        ftdi.read_data_bytes(1, 1)  # the timer starts here
        before, start_s = rig.port.counters.snapshot(), rig.clock.now()
        ftdi.write_data(b"\x81")
        assert len(ftdi.read_data_bytes(1, 1)) == 1
        cost = rig.port.counters.since(before)
    assert (cost.latency_waits, cost.bulk_in) == (1, 1)
    assert cost.latency_wait_s == pytest.approx(0.002)
    assert rig.clock.now() - start_s == pytest.approx(0.002)


def test_more_answers_than_the_fifo_holds_stop_the_batch() -> None:
    rig = bench()
    with spi_port(rig) as port:
        ftdi = port._controller.ftdi
        ftdi.timeouts = 100, 100
        read_all = CS_LOW + b"\x20\xff\x07" + bytes.fromhex("80 00 0b") * 500 + CS_HIGH
        with pytest.raises(FtdiError, match="timed out"):
            ftdi.write_data(read_all)  # 2048 bytes to read, room for 1024
        assert len(rig.slave.got[-1]) == FT232H.fifo_bytes
        assert rig.slave.selected
        # Reading lets the engine go on with what it had taken.
        assert len(ftdi.read_data_bytes(2048, 1)) == 2048
        assert len(rig.slave.got[-1]) == 2048


def test_bad_commands_are_answered_with_fa() -> None:
    rig = bench()
    with spi_port(rig) as port:
        ftdi = port._controller.ftdi
        ftdi.write_data(b"\xaa" + SEND_IMMEDIATE)
        assert ftdi.read_data_bytes(2, 1) == b"\xfa\xaa"
        assert rig.port.counters.bad_commands == 1


def test_pirq_on_gpiol1_parks_a_batch_until_the_chip_is_ready() -> None:
    rig = bench()
    ready_s = float("inf")
    rig.port.pins.connect(5, lambda: rig.clock.now() < ready_s)
    with spi_port(rig) as port:
        ftdi = port._controller.ftdi
        ready_s = rig.clock.now() + 0.0014
        before = rig.port.counters.snapshot()
        ftdi.write_data(b"\x89" + CS_LOW + b"\x31\x00\x00\x42" + CS_HIGH + SEND_IMMEDIATE)
        assert rig.slave.got == []
        assert ftdi.read_data_bytes(1, 4) == b"\xa5"
        cost = rig.port.counters.since(before)
        assert ready_s <= rig.clock.now() < ready_s + 0.0002
    assert (cost.bulk_out, cost.bulk_in, cost.latency_waits) == (1, 1, 0)


def test_a_wait_that_never_ends_is_left_by_the_bit_mode() -> None:
    rig = bench()
    with spi_port(rig) as port:
        ftdi = port._controller.ftdi
        ftdi.write_data(b"\x89" + b"\x81" + SEND_IMMEDIATE)  # nothing pulls GPIOL1 low
        assert ftdi.read_data_bytes(1, 4) == b""
        ftdi.set_bitmode(0, Ftdi.BitMode.RESET)
        ftdi.set_bitmode(0, Ftdi.BitMode.MPSSE)
        ftdi.write_data(b"\x81" + SEND_IMMEDIATE)
        assert len(ftdi.read_data_bytes(1, 4)) == 1


def test_usb_takes_the_time_its_model_says() -> None:
    rig = bench()
    with spi_port(rig) as port:
        rig.port.costs = Costs(control_s=0.01, bulk_out_s=0.001, bulk_in_s=0.002, byte_s=0.1)
        start_s = rig.clock.now()
        port.exchange(b"\x01", duplex=True)
        out, back = 19 + 1, 2 + 1
        assert rig.clock.now() - start_s == pytest.approx(0.003 + 0.1 * (out + back), abs=2e-6)
        start_s = rig.clock.now()
        port._controller.ftdi.get_latency_timer()
        assert rig.clock.now() - start_s == pytest.approx(0.01)


# -- adapters on the bus


def test_all_adapters_are_listed_with_port_counts() -> None:
    rigs = [bench(model=model, serial=model.name) for model in (FT232H, FT2232H, FT4232H)]
    with plugged(*rigs):
        found = {
            (each.pid, each.sn, each.description, count) for each, count in Ftdi.list_devices()
        }
    assert found == {
        (0x6014, "FT232H", "Single RS232-HS", 1),
        (0x6010, "FT2232H", "Dual RS232-HS", 2),
        (0x6011, "FT4232H", "Quad RS232-HS", 4),
    }


@pytest.mark.parametrize("model", [FT232H, FT2232H, FT4232H], ids=lambda model: model.name)
def test_pyftdi_knows_the_part(model: Model) -> None:
    rig = bench(model=model)
    with plugged(rig):
        ftdi = Ftdi.create_from_url(f"ftdi://ftdi:{model.product_id:#x}:{SERIAL}/1")
        assert ftdi.ic_name == model.name.lower()
        assert ftdi.fifo_sizes == (model.fifo_bytes, model.fifo_bytes)
        assert ftdi.port_width == model.pins
        assert ftdi.has_drivezero == model.has_open_drain
        assert ftdi.device_port_count == model.ports
        assert [ftdi.is_mpsse_interface(number + 1) for number in range(model.ports)] == [
            number < model.mpsse_ports for number in range(model.ports)
        ]
        assert ftdi.get_latency_timer() == 1
        assert ftdi.poll_modem_status() == 0x6032
        ftdi.close()


def test_two_of_a_kind_open_by_serial() -> None:
    first, second = bench(serial="A1"), bench(Echo(last=0x77), serial="B2")
    with plugged(first, second):
        controllers = []
        for serial, last in (("B2", 0x77), ("A1", 0xA5)):
            controller = SpiController()
            controller.configure(f"ftdi://ftdi:232h:{serial}/1")
            assert controller.get_port(0).exchange(b"\x00", duplex=True) == bytes([last])
            controllers.append(controller)
        with pytest.raises(UsbToolsError, match="2 USB devices match"):
            SpiController().configure("ftdi://ftdi:232h/1")
        with pytest.raises(UsbToolsError, match="No USB device with S/N C3"):
            SpiController().configure("ftdi://ftdi:232h:C3/1")
        for controller in controllers:
            controller.close()


def test_both_engines_of_one_adapter_work_at_once() -> None:
    rig, other = bench(model=FT2232H), Echo(last=0x33)
    rig.adapter.ports[1].attach(other)
    with plugged(rig):
        controllers = [SpiController(), SpiController()]
        for number, controller in enumerate(controllers, 1):
            controller.configure(f"ftdi://ftdi:2232h:{SERIAL}/{number}")
        answers = [each.get_port(0).exchange(b"\x01", duplex=True) for each in controllers]
        for controller in controllers:
            controller.close()
    assert answers == [b"\xa5", b"\x33"]


def test_ports_c_and_d_of_an_ft4232h_have_no_mpsse() -> None:
    rig = bench(model=FT4232H)
    with plugged(rig):
        with pytest.raises(FtdiMpsseError):
            SpiController().configure(f"ftdi://ftdi:4232h:{SERIAL}/3")
        ftdi = Ftdi.create_from_url(f"ftdi://ftdi:4232h:{SERIAL}/3")
        with pytest.raises(FtdiError, match="Pipe error"):
            ftdi.set_bitmode(0, Ftdi.BitMode.MPSSE)
        ftdi.close()


def test_the_eeprom_is_read_word_by_word() -> None:
    image = bytes(range(256))
    programmed = VirtualFtdi(FT232H, "programmed", FakeClock(), eeprom=image)
    with installed(VirtualUsb(bench().adapter, programmed)):
        erased = Ftdi.create_from_url(URL)
        assert erased.read_eeprom() == b"\xff" * 256
        ftdi = Ftdi.create_from_url("ftdi://ftdi:232h:programmed/1")
        assert ftdi.read_eeprom() == image
        assert ftdi.read_eeprom(0x13, 4) == image[0x13:0x17]
        ftdi.close()
        erased.close()


def test_pyusb_finds_a_device_without_installing_the_bus() -> None:
    rig = bench()
    bus = VirtualUsb(rig.adapter)
    device = usb.core.find(backend=bus, idProduct=FT232H.product_id)
    assert (device.serial_number, device.manufacturer) == (SERIAL, "FTDI")
    assert "DEVICE ID 0403:6014" in str(device)
    controller = SpiController()
    controller.configure(device)
    assert controller.get_port(0).exchange(b"\x00", duplex=True) == b"\xa5"
    controller.close()


def test_after_the_context_nothing_of_it_is_left() -> None:
    before = UsbTools.BACKENDS
    rig = bench()
    with plugged(rig) as outer, plugged(bench(serial="inner")):
        assert [each.sn for each, _ in Ftdi.list_devices()] == ["inner"]
        assert get_backend() is not outer
    with installed(outer):
        controller = SpiController()
        controller.configure(URL)
    assert get_backend() is None
    assert before == UsbTools.BACKENDS
    assert not UsbTools.Devices
    assert not UsbTools.UsbDevices
    controller.close()


def test_a_usb_reset_ends_mpsse_mode() -> None:
    rig = bench()
    with spi_port(rig) as port:
        ftdi = port._controller.ftdi
        ftdi.write_data(CS_LOW)
        assert rig.slave.selected
        ftdi.reset(usb_reset=True)
        assert not rig.slave.selected
        ftdi.write_data(CS_LOW)  # bytes for a UART now
        assert not rig.slave.selected
        assert ftdi.read_data_bytes(1, 2) == b""


def test_pyusb_s_other_calls_are_served() -> None:
    rig = bench(model=FT2232H)
    device = usb.core.find(backend=VirtualUsb(rig.adapter))
    device.set_configuration(1)
    device.set_interface_altsetting(1, 0)
    device.clear_halt(0x04)
    assert device.parent is None
    with pytest.raises(usb.core.USBError, match="Resource busy"):
        device.set_configuration(1)  # an interface is claimed
    with pytest.raises(usb.core.USBError, match="Entity not found"):
        device.detach_kernel_driver(0)
    with pytest.raises(usb.core.USBError, match="Entity not found"):
        device.attach_kernel_driver(0)
    with pytest.raises(usb.core.USBError, match="Pipe error"):
        device.ctrl_transfer(0x80, 6, 0x0100, 0, 18)
    with pytest.raises(usb.core.USBError, match="Pipe error"):
        device.ctrl_transfer(0x81, 10, 0, 0, 1)
    device.reset()


# -- faults


def test_permission_denied_surfaces_before_anything_is_sent() -> None:
    rig = bench()
    rig.adapter.denied = True
    with plugged(rig) as bus:
        device = usb.core.find(backend=bus)
        with pytest.raises(usb.core.USBError) as caught:
            device.get_active_configuration()
        assert caught.value.errno == errno.EACCES
        # pyftdi itself only says that it could not read the strings.
        with pytest.raises(ValueError, match="langid"):
            Ftdi.list_devices()
    assert rig.port.counters.control == 0


def test_a_kernel_driver_is_detached_and_given_back() -> None:
    rig = bench()
    rig.adapter.kernel_driver.add(0)
    with spi_port(rig) as port:
        assert rig.adapter.kernel_driver == set()
        assert port.exchange(b"\x00", duplex=True) == b"\xa5"
    assert rig.adapter.kernel_driver == {0}


def test_an_interface_in_use_is_busy() -> None:
    rig = bench()
    rig.adapter.in_use.add(0)
    with plugged(rig):
        with pytest.raises(FtdiError, match=r"Errno 16\] Resource busy"):
            SpiController().configure(URL)
        rig.adapter.in_use.clear()
        controller = SpiController()
        controller.configure(URL)
        second = usb.core.find(backend=get_backend())
        with pytest.raises(usb.core.USBError) as caught:
            second.write(0x02, b"\x87")
        assert caught.value.errno == errno.EBUSY
        controller.close()
        assert second.write(0x02, b"\x87") == 1


def _exchange(rig: Bench) -> None:
    with spi_port(rig) as port:
        port.exchange(HEADER, 4, duplex=True)


def test_unplugged_at_any_transfer_is_an_error_and_the_next_open_works() -> None:
    rig = bench()
    _exchange(rig)
    counters = rig.port.counters
    transfers = counters.control + counters.bulk_out + counters.bulk_in
    for transfer in range(1, transfers):
        rig.adapter.unplug(after=transfer)
        with pytest.raises((FtdiError, usb.core.USBError, ValueError, UsbToolsError)):
            _exchange(rig)
        assert not rig.adapter.plugged
        assert not rig.slave.selected
        rig.adapter.plug()
        _exchange(rig)


def test_an_unplugged_adapter_is_not_listed() -> None:
    first, second = bench(serial="A1"), bench(serial="B2")
    with plugged(first, second):
        assert len(Ftdi.list_devices()) == 2
        first.adapter.unplug()
        UsbTools.flush_cache()
        assert [each.sn for each, _ in Ftdi.list_devices()] == ["B2"]
