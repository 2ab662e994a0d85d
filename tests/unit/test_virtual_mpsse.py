"""The MPSSE of a virtual adapter, command by command, and the FIFOs around it."""

from __future__ import annotations

import pytest
from ftdi_rig import (
    CS_HIGH,
    CS_LOW,
    MPSSE_MODE,
    RESET_MODE,
    SEND_IMMEDIATE,
    SET_BITMODE,
    Bench,
    Echo,
    Recorded,
    bench,
    read_answers,
)
from usb.core import USBError, USBTimeoutError

from hwtpm.tis_spi.virtual.ftdi import FT232H, FT2232H, FT4232H, Model
from hwtpm.tis_spi.virtual.pins import PinEvent

TIMEOUT_S = 0.5


def run(rig: Bench, program: bytes, answers: int) -> bytes:
    """Select, run, deselect; what came back."""
    port = rig.to_mpsse()
    port.write(CS_LOW + program + CS_HIGH + SEND_IMMEDIATE, TIMEOUT_S)
    return read_answers(port, answers)


@pytest.mark.parametrize(
    ("program", "got", "answers"),
    [
        ("11 02 00 123456", "123456", ""),
        ("10 02 00 123456", "123456", ""),
        ("19 01 00 80c0", "0103", ""),
        ("20 02 00", "000000", "a1b2c3"),
        ("24 02 00", "000000", "a1b2c3"),
        ("28 00 00", "00", "85"),
        ("31 01 00 1234", "1234", "a1b2"),
        ("34 01 00 1234", "1234", "a1b2"),
        ("39 00 00 01", "80", "85"),
        ("11 00 00 01 20 01 00", "01ffff", "b2c3"),  # MOSI keeps the last bit's level
        ("13 03 a0 13 03 50", "a5", ""),
        ("12 07 5a", "5a", ""),
        ("1b 07 01", "80", ""),
        ("13 06 ff 33 00 00", "fe", "01"),  # the eighth bit of the answer
        ("33 07 5a", "5a", "a1"),
        ("36 07 5a", "5a", "a1"),
        ("3b 07 01", "80", "85"),
        ("22 07", "00", "a1"),
        ("26 07", "00", "a1"),
        ("2a 07", "00", "85"),
        ("22 02", "", "07"),  # an unfinished byte: MISO keeps its level
        ("8e 07 20 00 00", "0000", "b2"),
        ("8f 02 00", "000000", ""),
    ],
)
def test_shift_commands(program: str, got: str, answers: str) -> None:
    rig = bench(Recorded(bytes.fromhex("a1b2c3")))
    expected = bytes.fromhex(answers)
    assert run(rig, bytes.fromhex(program), len(expected)) == expected
    assert rig.slave.got == [bytes.fromhex(got)]
    assert rig.port.counters.bad_commands == 0


def test_edges_without_margin_in_mode_0_are_counted() -> None:
    rig = bench()
    for program in ("10 00 00 00", "24 00 00", "34 00 00 00"):
        before = rig.port.counters.snapshot()
        run(rig, bytes.fromhex(program), 0)
        assert rig.port.counters.since(before).off_mode == 1, program
        rig.port.control(0, 0)
    before = rig.port.counters.snapshot()
    run(rig, bytes.fromhex("11 00 00 00 20 00 00 31 00 00 00"), 2)
    assert rig.port.counters.since(before).off_mode == 0


@pytest.mark.parametrize("opcode", [0x00, 0x0F, 0x40, 0x4B, 0x6F, 0x90, 0x9B, 0x9F, 0xAA, 0xFF])
def test_bad_commands(opcode: int) -> None:
    rig = bench()
    assert run(rig, bytes([opcode]), 2) == bytes([0xFA, opcode])
    assert rig.port.counters.bad_commands == 1


def test_only_the_ft232h_has_open_drain_outputs() -> None:
    assert run(bench(model=FT2232H), b"\x9e", 2) == b"\xfa\x9e"
    rig = bench()
    port = rig.to_mpsse()
    pulled_low = False
    port.pins.connect(6, lambda: not pulled_low)
    port.write(bytes.fromhex("9e 40 00 80 48 4b"), TIMEOUT_S)
    assert port.pins.level(6)
    pulled_low = True
    assert not port.pins.level(6)
    pulled_low = False
    port.write(bytes.fromhex("80 08 4b"), TIMEOUT_S)
    assert not port.pins.level(6)


def test_loopback_returns_what_is_sent() -> None:
    rig = bench(Recorded(b"\x00" * 9))
    assert run(rig, bytes.fromhex("84 31 01 00 12a5 33 03 90 85 31 00 00 77"), 4) == bytes.fromhex(
        "12a5 09 00"
    )


@pytest.mark.parametrize(
    ("program", "sck_hz"),
    [
        ("8b 86 00 00", 6e6),
        ("8b 86 05 00", 1e6),
        ("8a 86 00 00", 30e6),
        ("8a 86 02 00", 10e6),
        ("8a 86 2b 01", 100e3),
        ("8a 86 00 00 8c", 20e6),
        ("8c 8d 8a 86 00 00", 30e6),
    ],
)
def test_clock_settings(program: str, sck_hz: float) -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.write(bytes.fromhex(program), TIMEOUT_S)
    start_s = rig.clock.now()
    port.write(bytes.fromhex("8f 7c 00"), TIMEOUT_S)  # 1000 clocks, chip select high
    assert rig.clock.now() - start_s == pytest.approx(1000 / sck_hz)
    assert port.counters.clock_cycles == 1000
    assert rig.slave.got == []


def test_adaptive_clocking_without_a_return_clock_stands_still() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.write(b"\x96\x8e\x00", TIMEOUT_S)
    port.read(512, TIMEOUT_S)
    assert port.counters.clock_cycles == 0
    port.control(SET_BITMODE, RESET_MODE)
    port.control(SET_BITMODE, MPSSE_MODE)
    port.write(b"\x96\x97\x8e\x00", TIMEOUT_S)
    assert port.counters.clock_cycles == 1


def test_pins_are_read_from_whoever_drives_them() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.pins.connect(4, lambda: False)
    port.pins.connect(9, lambda: False)
    port.write(bytes.fromhex("82 01 05 81 83 87"), TIMEOUT_S)
    # SCK and MOSI low, MISO pulled up, chip select high; xCBUS0 driven high, xCBUS2 low.
    assert read_answers(port, 2) == bytes([0b1110_1100, 0b1111_1001])
    assert port.control(0x0C, 0) == bytes([0b1110_1100])


def test_a_narrow_port_has_no_high_byte() -> None:
    rig = bench(model=FT4232H)
    port = rig.to_mpsse()
    port.write(bytes.fromhex("82 ff ff 83 87"), TIMEOUT_S)
    assert read_answers(port, 1) == b"\x00"


def test_no_clock_reaches_the_slave_from_a_pin_that_is_an_input() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.write(bytes.fromhex("80 00 0a 31 00 00 42 87"), TIMEOUT_S)
    assert read_answers(port, 1) == b"\xff"
    assert rig.slave.got == [b""]
    port.write(bytes.fromhex("80 00 09 11 01 00 4200"), TIMEOUT_S)
    assert rig.slave.got == [b"\xff\xff"]  # MOSI floats


def test_two_slaves_that_answer_at_once_pull_miso_low_together() -> None:
    rig, second = bench(Recorded(b"\xf3")), Recorded(b"\x3f")
    rig.port.attach(second, cs_pin=4)
    port = rig.to_mpsse()
    port.write(bytes.fromhex("80 00 1b 31 00 00 42 87"), TIMEOUT_S)
    assert read_answers(port, 1) == b"\x33"
    assert rig.slave.got == second.got == [b"\x42"]


def test_an_unfinished_byte_ends_with_its_chip_select() -> None:
    rig = bench()
    assert (
        run(rig, bytes.fromhex("13 02 e0") + CS_HIGH + CS_LOW + b"\x31\x00\x00\x42", 1) == b"\xa5"
    )
    assert rig.slave.got == [b"", b"\x42"]


def test_unplugging_lets_all_pins_go() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.write(bytes.fromhex("9e 40 00") + CS_LOW, TIMEOUT_S)
    rig.adapter.unplug()
    assert not rig.slave.selected
    assert port.pins.byte(0) == 0xFF
    rig.adapter.plug()
    rig.to_mpsse().write(bytes.fromhex("80 40 4b"), TIMEOUT_S)
    port.pins.connect(6, lambda: False)
    assert port.pins.level(6)  # driven high again, no longer open-drain


def test_entering_and_leaving_mpsse_mode_releases_all_pins() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.write(CS_LOW, TIMEOUT_S)
    assert rig.slave.selected
    port.control(SET_BITMODE, RESET_MODE)
    assert not rig.slave.selected
    assert port.pins.byte(0) == 0xFF
    port.control(SET_BITMODE, MPSSE_MODE | 0xFF)
    assert port.pins.byte(0) == 0xFF


# -- waiting for GPIOL1


@pytest.mark.parametrize(("opcode", "level"), [(0x88, True), (0x89, False)])
def test_wait_for_a_level(opcode: int, level: bool) -> None:
    rig = bench()
    port = rig.to_mpsse()
    change_s = rig.clock.now() + 0.005
    port.pins.connect(5, lambda: level == (rig.clock.now() >= change_s))
    port.write(bytes([opcode, 0x81]) + SEND_IMMEDIATE, TIMEOUT_S)
    assert port.read(512, 0.1)[2:] != b""
    assert change_s <= rig.clock.now() < change_s + 0.0002
    assert port.counters.empty_packets == 0


def test_status_packets_tell_that_nothing_came_while_parked() -> None:
    rig = bench()
    port = rig.to_mpsse()
    start_s = rig.clock.now()
    port.write(b"\x89\x81" + SEND_IMMEDIATE, TIMEOUT_S)
    assert port.read(512, TIMEOUT_S) == b"\x32\x00"  # transmitter not empty
    assert rig.clock.now() - start_s == pytest.approx(0.016)
    with pytest.raises(USBTimeoutError):
        port.read(512, 0.010)
    assert rig.clock.now() - start_s == pytest.approx(0.026)
    assert (port.counters.empty_packets, port.counters.timeouts) == (1, 1)


@pytest.mark.parametrize(("opcode", "level"), [(0x94, True), (0x95, False)])
def test_clock_until_a_level(opcode: int, level: bool) -> None:
    rig = bench()
    port = rig.to_mpsse()
    change_s = rig.clock.now() + 0.005
    port.pins.connect(5, lambda: level == (rig.clock.now() >= change_s))
    port.write(bytes([opcode, 0x81]) + SEND_IMMEDIATE, TIMEOUT_S)
    read_answers(port, 1)
    assert port.counters.clock_cycles == pytest.approx(0.005 * 30e6, rel=0.03)
    assert rig.slave.got == []


@pytest.mark.parametrize("opcode", [0x9C, 0x9D])
def test_clock_bytes_or_until_a_level(opcode: int) -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.pins.connect(5, lambda: opcode == 0x9D)
    port.write(bytes([opcode, 0xFF, 0x3F, 0x81]) + SEND_IMMEDIATE, TIMEOUT_S)
    read_answers(port, 1)
    assert port.counters.clock_cycles == 8 * 0x4000
    port.pins.connect(5, lambda: opcode == 0x9C)
    port.write(bytes([opcode, 0xFF, 0x3F]), TIMEOUT_S)
    assert port.counters.clock_cycles == 8 * 0x4000


def test_wait_states_in_hardware_with_miso_on_gpiol1() -> None:
    rig = bench(Recorded(bytes.fromhex("00000000 00 00 01 d1151b00")))
    rig.port.pins.connect(5, lambda: rig.port.pins.level(2))
    program = bytes.fromhex("11 03 00 83d40f00 94 20 03 00")
    assert run(rig, program, 4) == bytes.fromhex("d1151b00")
    assert len(rig.slave.got[0]) == 4 + 3 + 4


# -- FIFOs, packets, the latency timer


@pytest.mark.parametrize("model", [FT232H, FT2232H, FT4232H], ids=lambda model: model.name)
def test_the_to_host_fifo_stops_the_clock(model: Model) -> None:
    rig = bench(model=model)
    port = rig.to_mpsse()
    size = model.fifo_bytes
    program = CS_LOW + b"\x20" + (2 * size - 1).to_bytes(2, "little") + CS_HIGH
    assert port.write(program, TIMEOUT_S) == len(program)  # taken, not done
    assert len(rig.slave.got[0]) == size
    assert len(read_answers(port, 2 * size)) == 2 * size
    assert not rig.slave.selected
    assert port.counters.latency_waits == 1  # the last packet is a short one


def test_the_to_device_fifo_takes_what_fits_and_then_times_out() -> None:
    rig = bench()
    port = rig.to_mpsse()
    start_s = rig.clock.now()
    assert port.write(b"\x89" + b"\x85" * 2000, 0.25) == 1 + FT232H.fifo_bytes
    assert rig.clock.now() - start_s == pytest.approx(0.25)
    with pytest.raises(USBTimeoutError):
        port.write(b"\x85", 0.25)
    assert port.counters.timeouts == 2
    port.pins.connect(5, lambda: False)
    assert port.write(b"\x85" * 2000, 0.25) == 2000


def test_a_transfer_without_a_timeout_gets_a_minute() -> None:
    rig = bench()
    port = rig.to_mpsse()
    start_s = rig.clock.now()
    port.write(b"\x89" + b"\x85" * FT232H.fifo_bytes, 0)
    with pytest.raises(USBTimeoutError):
        port.write(b"\x85", 0)
    assert rig.clock.now() - start_s == pytest.approx(60)


def test_the_latency_timer_runs_on_from_the_last_packet() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.control(0x09, 10)
    assert port.control(0x0A, 0) == b"\x0a"
    port.write(b"\x81" + SEND_IMMEDIATE, TIMEOUT_S)
    read_answers(port, 1)
    rig.clock.sleep(0.007)
    port.write(b"\x81", TIMEOUT_S)
    read_answers(port, 1)
    assert port.counters.latency_wait_s == pytest.approx(0.003)
    # What came before the timer ran out is there at once when the host asks later.
    port.write(b"\x81", TIMEOUT_S)
    rig.clock.sleep(0.011)
    start_s = rig.clock.now()
    read_answers(port, 1)
    assert rig.clock.now() == start_s
    assert port.counters.latency_waits == 1


def test_send_immediate_with_nothing_to_send_does_nothing() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.write(SEND_IMMEDIATE + b"\x81", TIMEOUT_S)
    read_answers(port, 1)
    assert port.counters.latency_waits == 1


def test_status_bytes_tell_the_speed() -> None:
    for high_speed, status in ((True, b"\x32\x60"), (False, b"\x31\x60")):
        port = bench(high_speed=high_speed).to_mpsse()
        assert port.read(512, TIMEOUT_S) == port.control(0x05, 0) == status


def test_packets_are_full_but_the_last() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.write(CS_LOW + b"\x20\x57\x02" + CS_HIGH + SEND_IMMEDIATE, TIMEOUT_S)  # 600 bytes
    received = port.read(2048, TIMEOUT_S)
    assert len(received) == 512 + 2 + 90
    assert received[:2] == received[512:514] == b"\x32\x60"
    assert (port.counters.packets_in, port.counters.bytes_in) == (2, 600)


def test_a_long_read_ends_with_what_came_in_time() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.write(b"\x20\xfd\x01" + SEND_IMMEDIATE, TIMEOUT_S)  # 510 bytes, one full packet
    assert len(port.read(2048, 0.010)) == 512
    assert port.counters.timeouts == 1


def test_a_packet_must_fit_into_the_buffer() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.write(b"\x20\x57\x02" + SEND_IMMEDIATE, TIMEOUT_S)
    with pytest.raises(USBError, match="Overflow"):
        port.read(64, TIMEOUT_S)


def test_purging_drops_commands_or_answers() -> None:
    rig = bench()
    port = rig.to_mpsse()
    port.write(b"\x81" + SEND_IMMEDIATE + b"\x89" + b"\x81" * 5 + SEND_IMMEDIATE, TIMEOUT_S)
    port.control(0, 2)
    port.control(0, 1)
    port.pins.connect(5, lambda: False)
    assert len(port.read(512, TIMEOUT_S)) == 2


def test_unknown_requests_stall() -> None:
    rig = bench()
    for request, value in ((0x91, 0), (0x0B, 0x0400), (0x09, 0), (0x00, 3), (0x77, 0)):
        with pytest.raises(USBError, match="Pipe error"):
            rig.port.control(request, value)
    for index in (0, 2):
        with pytest.raises(USBError, match="Pipe error"):
            rig.adapter.control(0, 0, index)


# -- what a slave raises, and what a probe sees


class _Broken(Echo):
    def shift(self, mosi: int) -> int:
        if mosi == 0xEE:
            raise RuntimeError("broken")
        return super().shift(mosi)


def test_what_a_slave_raises_ends_its_batch_only() -> None:
    rig = bench(_Broken())
    port = rig.to_mpsse()
    with pytest.raises(RuntimeError, match="broken"):
        port.write(CS_LOW + b"\x11\x00\x00\xee" + b"\xaa" * 9, TIMEOUT_S)
    port.control(SET_BITMODE, MPSSE_MODE)
    assert run(rig, b"\x31\x00\x00\x01", 1) == b"\xa5"


def test_a_recorder_sees_every_edge_with_its_time() -> None:
    rig = bench(Recorded(b"\x0f"))
    port = rig.to_mpsse()
    events: list[PinEvent] = []
    asserted = False
    port.pins.connect(5, lambda: not asserted)
    port.pins.record(events.append)
    assert [(each.pin, each.level) for each in events] == [
        (pin, pin not in (0, 1)) for pin in range(16)
    ]
    events.clear()
    start_s = rig.clock.now()
    port.write(CS_LOW + b"\x31\x00\x00\xc0" + CS_HIGH, TIMEOUT_S)
    asserted = True
    port.write(CS_LOW, TIMEOUT_S)
    end_s = rig.clock.now()
    assert events[0] == PinEvent(start_s, 3, False)
    assert [each.level for each in events if each.pin == 0] == [True, False] * 8
    bit_s = 1 / 30e6
    mosi, miso = (
        [(round((each.time_s - start_s) / bit_s), each.level) for each in events if each.pin == pin]
        for pin in (1, 2)
    )
    assert mosi == [(0, True), (2, False)]
    assert miso == [(0, False), (4, True)]
    assert events[-3:] == [
        PinEvent(end_s, 3, True),
        PinEvent(end_s, 3, False),
        PinEvent(end_s, 5, False),
    ]
    assert sorted(events, key=lambda each: each.time_s) == events
    port.pins.record(None)
    events.clear()
    port.write(CS_HIGH, TIMEOUT_S)
    assert events == []
