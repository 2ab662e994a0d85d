"""The FTDI bus on a virtual adapter under the unmodified pyftdi: results, costs, pins, faults."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from ftdi_bus_rig import IRQ_PIN, PLAIN, RESET_PIN, FtdiBench, answer_to, plugged, read, write
from spi_master import NaiveMaster

from hwtpm.clock import FakeClock
from hwtpm.errors import BusError, DeviceNotFound, Timeout, Unsupported, UsageError
from hwtpm.tis import PC_CLIENT_TPM12, PC_CLIENT_TPM20, TisHost, drive
from hwtpm.tis.registers import ACCESS, DATA_FIFO, DID_VID, STS, Access, Sts
from hwtpm.tis_spi.bus import AwaitIrq, Captured, Pause, Transfer
from hwtpm.tis_spi.ftdi import FtdiBus
from hwtpm.tis_spi.mpsse import MARKERS, Wires, marked
from hwtpm.tis_spi.planner import Plan
from hwtpm.tis_spi.transport import SpiTis
from hwtpm.tis_spi.virtual import PROFILES, Habits
from hwtpm.tis_spi.virtual.ftdi import FT232H, FT2232H, FT4232H, Model
from hwtpm.tis_spi.virtual.habits import Miso

MODELS = pytest.mark.parametrize("model", [FT232H, FT2232H, FT4232H], ids=lambda model: model.name)
COMMAND = bytes.fromhex("00c1 0000000c 00000046 abcd")
GET_ID = read(DID_VID.offset, 4)
ID = Captured(1, PC_CLIENT_TPM12.did_vid.to_bytes(4, "little"))
CLAIM = write(ACCESS.offset, bytes([Access.REQUEST]))
READY = write(STS.offset, bytes([Sts.COMMAND_READY]))
WRITE_COMMAND = write(DATA_FIFO.offset, COMMAND)
GO = write(STS.offset, bytes([Sts.GO]))
GET_STS = read(STS.offset, 4)
ANSWER = answer_to(COMMAND)
GET_ANSWER = read(DATA_FIFO.offset, len(ANSWER))
WHOLE_COMMAND = [CLAIM, READY, WRITE_COMMAND, GO, GET_STS, GET_ANSWER, READY]
IRQ_ON = [
    write(0x0C, b"\x01"),
    write(0x08, bytes.fromhex("09000080")),  # global enable, level low, dataAvail
]


def waiting(*waits: int) -> Habits:
    return replace(PLAIN, read_waits=waits, write_waits=waits)


# -- batches


@MODELS
@pytest.mark.parametrize("interface", [1, 2])
def test_a_batch_is_one_transfer_each_way(model: Model, interface: int) -> None:
    interface = min(interface, model.mpsse_ports)
    bench = FtdiBench(model=model, interface=interface)
    with bench.bus() as bus, bench.cost() as cost:
        results = bus.run(WHOLE_COMMAND)
    assert [result.ready for result in results] == [True] * len(WHOLE_COMMAND)
    assert results[5].data == ANSWER
    assert (cost.bulk_out, cost.bulk_in, cost.round_trips) == (1, 1, 1)
    assert (cost.selects, cost.latency_waits, cost.off_mode) == (len(WHOLE_COMMAND), 0, 0)
    assert cost.bytes_in == sum(1 + step.size for step in WHOLE_COMMAND) + 2
    assert bench.chip.counters.early == bench.chip.counters.ignored == 0


@MODELS
@pytest.mark.parametrize("high_speed", [True, False])
def test_the_largest_batch_is_one_transfer_each_way(model: Model, high_speed: bool) -> None:
    bench = FtdiBench(model=model, high_speed=high_speed)
    with bench.bus() as bus:
        many = [GET_ID] * (bus.limits.bytes_in // 5)
        for batch in (many, many[:-1], many[: len(many) // 2], [GET_ID] * 100, [GET_ID] * 102):
            with bench.cost() as cost:
                assert bus.run(batch) == [ID] * len(batch)
            assert (cost.bulk_out, cost.bulk_in, cost.timeouts) == (1, 1, 0)
        with (
            bench.cost() as cost,
            pytest.raises(UsageError, match=f"limit is {bus.limits.bytes_in}"),
        ):
            bus.run([*many, GET_ID])
        assert cost.bulk_out == 0
    assert model.fifo_bytes - 8 < bus.limits.bytes_in < model.fifo_bytes - 2


def test_nothing_to_do_costs_nothing() -> None:
    bench = FtdiBench()
    with bench.bus() as bus, bench.cost() as cost:
        assert bus.run([]) == []
    assert cost.bulk_in == 0


def test_counters_are_those_of_the_adapter() -> None:
    bench = FtdiBench()
    with bench.bus() as bus:
        opened = replace(bus.counters)
        with bench.cost() as cost:
            bus.run(WHOLE_COMMAND)
            bus.stretch(GET_ID, 3)
        spent = bus.counters
        assert (spent.round_trips - opened.round_trips, spent.restarts) == (cost.round_trips, 0)
        assert spent.bytes_out - opened.bytes_out == cost.bytes_out
        assert spent.bytes_in - opened.bytes_in == cost.bytes_in


@pytest.mark.parametrize(
    ("asked_hz", "made_hz"),
    [
        (10e6, 10e6),
        (24e6, 15e6),
        (43e6, 30e6),
        (4e6, 3.75e6),
        (33e3, 30e6 / 910),
        (458, 30e6 / 65503),
    ],
)
def test_the_clock_is_never_faster_than_asked(asked_hz: float, made_hz: float) -> None:
    bench = FtdiBench()
    with bench.bus(sck_hz=asked_hz) as bus:
        with bench.cost() as cost:
            bus.run([GET_ID])
        assert cost.bus_time_s == pytest.approx(64 / made_hz)
        assert bus.limits.clock_hz == int(made_hz) <= asked_hz


@pytest.mark.parametrize("sck_hz", [0, -1, 457])
def test_a_clock_that_cannot_be_made(sck_hz: float) -> None:
    bench = FtdiBench()
    with plugged(bench):
        with pytest.raises(UsageError, match="458 Hz to 30 MHz"):
            bench.open(sck_hz=sck_hz)
        bench.open().close()  # nothing of it is left


@pytest.mark.parametrize("pause_s", [0.0, 1e-9, 0.0001, 0.02, 0.1])
def test_pauses_pass_in_the_adapter(pause_s: float) -> None:
    bench = FtdiBench()
    with bench.bus(sck_hz=30e6) as bus, bench.cost() as cost:
        start_s = bench.clock.now()
        assert bus.run([GET_ID, Pause(pause_s), GET_ID]) == [ID, ID]
        spent_s = bench.clock.now() - start_s
    assert pause_s <= spent_s < pause_s + 10e-6
    assert (cost.bulk_in, cost.selects) == (1, 2)
    assert bench.chip.counters.bytes == 2 * 8  # the chip is not selected meanwhile


def test_a_pause_beyond_the_limit_is_refused() -> None:
    bench = FtdiBench()
    with bench.bus() as bus:
        assert bus.limits.longest_pause_s == 0.1
        for pause_s in (0.11, -0.1):
            with pytest.raises(UsageError, match="pause"):
                bus.run([Pause(pause_s)])
        assert bus.run([GET_ID]) == [ID]
        assert bus.counters.restarts == 0


def test_a_batch_shows_which_transfers_had_to_wait() -> None:
    bench = FtdiBench(waiting(0, 2))
    with bench.bus() as bus:
        first, second = bus.run([GET_ID, GET_ID])
    assert (first, second.ready) == (ID, False)
    assert bench.chip.counters.early == 1


# -- wait states


@pytest.mark.parametrize("waits", [0, 1, 2, 3, 5, 40])
@pytest.mark.parametrize("size", [1, 2, 4, 30])
def test_stretch_reads_exactly_what_it_should(waits: int, size: int) -> None:
    bench = FtdiBench(waiting(0, waits))
    with bench.bus() as bus:
        for step in WHOLE_COMMAND[:-2]:
            bus.stretch(step, 100)
        read_before, waited = bench.chip.counters.bytes, bench.chip.counters.wait_bytes
        with bench.cost() as cost:
            assert bus.stretch(read(DATA_FIFO.offset, size), 100) == ANSWER[:size].ljust(
                size, b"\xff"
            )
        waited = bench.chip.counters.wait_bytes - waited
        assert bench.chip.counters.bytes - read_before == 4 + waited + size  # none too many
        rest = (ANSWER[size:] + b"\xff" * 4)[:4]
        assert bus.stretch(read(DATA_FIFO.offset, 4), 100) == rest  # and none was lost
    assert cost.selects == 1
    assert (bench.chip.counters.early, bench.chip.counters.ignored) == (0, 0)


@pytest.mark.parametrize(
    ("transfer", "waits", "round_trips"),
    [
        (GET_ID, 0, 1),
        (GET_ID, 1, 2),
        (GET_ID, 4, 2),
        (GET_ID, 5, 2),
        (GET_ID, 6, 3),
        (read(ACCESS.offset, 1), 0, 1),
        (read(ACCESS.offset, 1), 1, 2),
        (read(ACCESS.offset, 1), 2, 2),
        (read(ACCESS.offset, 1), 3, 3),
        (CLAIM, 0, 1),
        (CLAIM, 1, 1),
        (CLAIM, 2, 2),
        (CLAIM, 3, 2),
        (WRITE_COMMAND, 0, 1),
        (WRITE_COMMAND, 1, 1),
        (WRITE_COMMAND, 2, 2),
        (WRITE_COMMAND, 3, 2),
    ],
)
def test_what_waits_cost(transfer: Transfer, waits: int, round_trips: int) -> None:
    bench = FtdiBench(waiting(waits))
    with bench.bus() as bus, bench.cost() as cost:
        bus.stretch(transfer, 100)
    assert (cost.round_trips, cost.bulk_in, cost.latency_waits) == (round_trips, round_trips, 0)
    assert bench.chip.counters.wait_bytes == waits
    assert bench.chip.counters.early == 0


@pytest.mark.parametrize("waits", [0, 1, 2, 3, 4, 7])
def test_stretch_writes_exactly_what_it_should(waits: int) -> None:
    bench = FtdiBench(waiting(waits))
    with bench.bus() as bus:
        for step in WHOLE_COMMAND[:5]:
            bus.stretch(step, 100)
        assert bus.stretch(GET_ANSWER, 100) == ANSWER
    assert bench.chip.counters.early == 0


def test_a_header_that_lies_is_not_believed() -> None:
    bench = FtdiBench(replace(waiting(3), header_lies=True))
    with bench.bus() as bus:
        for step in WHOLE_COMMAND[:5]:
            bus.stretch(step, 100, trust_header=False)
        assert bus.stretch(GET_ANSWER, 100, trust_header=False) == ANSWER
    assert bench.chip.counters.early == 0


@pytest.mark.parametrize("transfer", [GET_ID, CLAIM, WRITE_COMMAND])
def test_a_chip_that_never_gets_ready(transfer: Transfer) -> None:
    bench = FtdiBench(replace(PLAIN, miso=Miso.ALL_ZEROS))
    with bench.bus() as bus:
        with pytest.raises(Timeout, match="not ready after 20 wait bytes") as caught:
            bus.stretch(transfer, 20)
        assert "power and reset" in caught.value.hint
        assert not bench.selected
        assert bus.counters.restarts == 0
    assert bench.chip.counters.bytes < 4 + 20 + 6


# -- the same bytes as from a plain master, and a whole driver on top


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "cr50"])
def test_the_same_as_a_plain_master(name: str) -> None:
    habits = replace(PROFILES[name], faults=(), busy_s=0.0)
    bench, plain = FtdiBench(habits), FtdiBench(habits)
    master = NaiveMaster(plain.chip, plain.clock)
    with bench.bus() as bus:
        for offset, data in (
            (DID_VID.offset, 4),
            (ACCESS.offset, bytes([Access.REQUEST])),
            (ACCESS.offset, 1),
            (STS.offset, bytes([Sts.COMMAND_READY])),
            (STS.offset, 4),
            (DATA_FIFO.offset, COMMAND),
            (STS.offset, bytes([Sts.GO])),
            (STS.offset, 4),
            (DATA_FIFO.offset, 16),
            (DATA_FIFO.offset, 16),
            (STS.offset, 4),
        ):
            if isinstance(data, int):
                assert bus.stretch(read(offset, data), 50) == master.read(offset, data)
            else:
                bus.stretch(write(offset, data), 50)
                master.write(offset, data)
    assert bench.chip.counters == plain.chip.counters


class OneByOne:
    """A port to the registers that does each access by itself."""

    def __init__(self, bus: FtdiBus) -> None:
        self.bus = bus

    def read(self, address: int, size: int) -> bytes:
        return self.bus.stretch(read(address, size), 50)

    def write(self, address: int, data: bytes) -> None:
        self.bus.stretch(write(address, data), 50)

    def close(self) -> None:
        self.bus.close()


@MODELS
@pytest.mark.parametrize("name", [name for name in PROFILES if name != "cr50"])
def test_a_tis_driver_runs_a_command(model: Model, name: str) -> None:
    bench = FtdiBench(PROFILES[name], model, reset=7)
    host = TisHost()
    host.resends = 3
    with bench.bus() as bus:
        port = OneByOne(bus)
        info = drive(host.probe(), port, bench.clock)
        assert info.did_vid == PROFILES[name].personality.did_vid
        host.max_transfer = min(info.transfer_size, host.max_transfer)
        drive(host.request_locality(0), port, bench.clock)
        assert drive(host.transmit(COMMAND, 1.0), port, bench.clock) == ANSWER
        drive(host.release_locality(), port, bench.clock)
    assert bench.port.counters.off_mode == bench.port.counters.timeouts == 0


@pytest.mark.parametrize("irq", [None, IRQ_PIN])
@pytest.mark.parametrize("burst", [64, 32])
def test_batches_of_the_planner_are_one_round_trip(irq: int | None, burst: int) -> None:
    bench = FtdiBench(Habits(replace(PC_CLIENT_TPM12, burst_limit=burst)))
    extend = bytes.fromhex("00c1 00000022 00000014 0000000a") + bytes(range(20))
    with bench.bus(Wires(irq=irq)) as bus:
        tis = SpiTis(bus, bench.clock, duration_s=lambda _: 1.0)
        with bench.cost() as cost:
            tis.probe()
        assert (cost.round_trips, cost.selects) == (1, 5)
        for _ in range(6):
            with bench.cost() as cost:
                assert tis.execute(extend) == answer_to(extend)
        assert tis.host.plan is Plan.FAST
        assert (cost.round_trips, cost.bulk_out, cost.bulk_in, cost.latency_waits) == (1, 1, 1, 0)
        assert bus.counters.restarts == 0


# -- pins


@MODELS
def test_only_named_pins_are_driven(model: Model) -> None:
    bench = FtdiBench(model=model, cs=4, reset=6)
    with bench.bus(Wires(cs=4, reset=6, irq=5, reset_pulse_s=0.01)) as bus:
        assert bench.outputs == {0, 1, 4}
        seen: set[int] = set()
        bench.port.pins.watch(4, lambda level: seen.update(bench.outputs))
        bench.port.pins.watch(6, lambda level: seen.update(bench.outputs))
        bus.run(WHOLE_COMMAND)
        bus.stretch(GET_ID, 3)
        bus.reset()
        assert seen == {0, 1, 4, 6}  # RST# while it is pulled low
        assert bench.outputs == {0, 1, 4}
        assert bus.run([GET_ID]) == [ID]
    assert bench.outputs == set()
    assert not bench.selected


def test_chip_select_on_the_high_byte() -> None:
    bench = FtdiBench(cs=12)
    with bench.bus(Wires(cs=12)) as bus:
        assert bus.run([GET_ID, GET_ID]) == [ID, ID]
        assert bench.outputs == {0, 1, 12}


@pytest.mark.parametrize(
    ("model", "wires", "complaint"),
    [
        (FT4232H, {"reset": 8}, "pins 0 to 7"),
        (FT232H, {"cs": 16}, "pins 0 to 15"),
        (FT232H, {"cs": 2}, "cs on pin 2"),
        (FT232H, {"reset": 3}, "reset on pin 3"),
        (FT232H, {"reset": 5, "irq": 5}, "irq on pin 5"),
        (FT232H, {"irq": -1}, "irq on pin -1"),
        (FT232H, {"reset_pulse_s": -1.0}, "negative time"),
    ],
)
def test_wires_that_cannot_be(model: Model, wires: dict[str, int], complaint: str) -> None:
    bench = FtdiBench(model=model)
    with plugged(bench), pytest.raises(UsageError, match=complaint):
        bench.open(Wires(**wires))
    assert bench.outputs == set()


def test_reset_restarts_the_chip_and_waits() -> None:
    bench = FtdiBench(replace(PLAIN, boot_s=0.03))
    levels: list[tuple[float, bool]] = []
    with bench.bus(Wires(reset=RESET_PIN, reset_pulse_s=0.002, reset_settle_s=0.03)) as bus:
        bench.clock.sleep(0.03)
        bus.run([CLAIM])
        bench.port.pins.watch(RESET_PIN, lambda level: levels.append((bench.clock.now(), level)))
        bus.reset()
        (low_s, low), (high_s, high) = levels
        assert (low, high) == (False, True)
        assert high_s - low_s >= 0.002
        assert bench.clock.now() - high_s >= 0.03
        (access,) = bus.run([read(ACCESS.offset, 1)])
        assert access.ready
        assert not access.data[0] & Access.ACTIVE  # the chip has forgotten it


def test_without_a_reset_line_there_is_no_reset() -> None:
    bench = FtdiBench()
    with bench.bus() as bus, pytest.raises(Unsupported, match="no reset line"):
        bus.reset()


def test_an_interrupted_reset_lets_the_line_go() -> None:
    bench = FtdiBench()
    levels: list[bool] = []
    bench.port.pins.watch(RESET_PIN, levels.append)

    class Impatient(FakeClock):
        def sleep(self, duration_s: float) -> None:
            raise KeyboardInterrupt

    with bench.bus(Wires(reset=RESET_PIN)) as bus:
        bus._clock = Impatient()
        with pytest.raises(KeyboardInterrupt):
            bus.reset()
        assert levels == [False, True]
        assert bus.run([GET_ID]) == [ID]


# -- PIRQ#


def test_pirq_parks_a_batch() -> None:
    bench = FtdiBench(replace(PLAIN, busy_s=0.018))
    wires = Wires(irq=IRQ_PIN)
    with bench.bus(wires) as bus:
        assert bus.limits.awaits_irq
        bus.run([CLAIM, *IRQ_ON, READY])
        start_s = bench.clock.now()
        with bench.cost() as cost:
            results = bus.run([WRITE_COMMAND, GO, AwaitIrq(0.02), GET_ANSWER])
        assert results[-1].data == ANSWER
        assert 0.018 <= bench.clock.now() - start_s < 0.02
    assert (cost.bulk_out, cost.bulk_in, cost.latency_waits) == (1, 1, 0)


@pytest.mark.parametrize("long", [False, True])
def test_pirq_that_does_not_come_is_left_in_time(long: bool) -> None:
    bench = FtdiBench()
    tail = [GET_ID] * (150 if long else 1)  # more than the adapter takes while it waits
    with bench.bus(Wires(irq=IRQ_PIN)) as bus:
        bus.run([CLAIM])
        start_s = bench.clock.now()
        with pytest.raises(Timeout, match=r"PIRQ# did not come within 0\.025 s"):
            bus.run([GET_ID, AwaitIrq(0.025), *tail])
        assert 0.025 <= bench.clock.now() - start_s < 0.2
        assert bus.counters.restarts == 1
        assert not bench.selected
        assert bench.outputs == {0, 1, 3}
        assert bus.run([GET_ID]) == [ID]
        (access,) = bus.run([read(ACCESS.offset, 1)])
        assert access.data[0] & Access.ACTIVE  # the chip was not reset on the way
        assert bus.counters.restarts == 1


@pytest.mark.parametrize("irq", [None, 6])
def test_pirq_is_waited_for_on_its_own_pin_only(irq: int | None) -> None:
    bench = FtdiBench()
    with bench.bus(Wires(irq=irq)) as bus:
        assert not bus.limits.awaits_irq
        with pytest.raises(UsageError, match="not wired to xDBUS5"):
            bus.run([AwaitIrq(1.0)])


# -- what goes wrong


def use(bench: FtdiBench) -> None:
    """Everything that a bus does."""
    bus = bench.open(Wires(reset=RESET_PIN, irq=IRQ_PIN, reset_pulse_s=0.01))
    try:
        bus.reset()
        bus.run([CLAIM, *IRQ_ON, READY])
        assert bus.run([WRITE_COMMAND, GO, AwaitIrq(0.02), GET_ANSWER])[-1].data == ANSWER
        assert bus.stretch(GET_ID, 5) == ID.data
    finally:
        bus.close()


def test_unplugged_at_any_transfer() -> None:
    bench = FtdiBench()
    with plugged(bench):
        for last in range(1, 500):
            bench.adapter.unplug(after=last)
            with suppress(DeviceNotFound):
                use(bench)
            assert not bench.selected
            assert bench.outputs == set()
            if bench.adapter.plugged:
                break
            bench.adapter.plug()
            bench.chip.power_on()
            use(bench)
        assert 30 < last < 499


def test_a_bus_whose_adapter_is_gone_says_so_every_time() -> None:
    bench = FtdiBench()
    with bench.bus(Wires(reset=RESET_PIN)) as bus:
        bench.adapter.unplug()
        for call in (lambda: bus.run([GET_ID]), lambda: bus.stretch(GET_ID, 1), bus.reset) * 2:
            with pytest.raises(DeviceNotFound, match="the adapter is gone"):
                call()
    with plugged(bench), pytest.raises(DeviceNotFound, match="no such FTDI adapter"):
        bench.open()


@pytest.mark.parametrize("stray", ["81", "8181", "aa", "ab", "81aa", "81" * 7, "ab" * 7])
def test_answers_to_something_else_are_not_taken(stray: str) -> None:
    bench = FtdiBench()
    with bench.bus() as bus:
        for _ in range(2):
            bus._port.send(bytes.fromhex(stray), 1.0)
            with pytest.raises(BusError, match="not ending as they must"):
                bus.run([GET_ID])
            assert not bench.selected
            assert bus.run([GET_ID]) == [ID]


def test_the_answer_to_the_batch_before_is_not_taken() -> None:
    bench = FtdiBench()
    with bench.bus() as bus:
        assert bus.run([GET_ID]) == [ID]
        last = MARKERS[bus._marks % len(MARKERS)]
        bus._port.send(marked(bus._encoder.batch([GET_ID]).code, last), 1.0)
        with pytest.raises(BusError, match="not ending as they must"):
            bus.run([GET_ID])
        assert bus.run([GET_ID]) == [ID]


def test_a_refused_command_is_named() -> None:
    bench = FtdiBench()
    with bench.bus() as bus:
        bus._encoder.deselect += b"\xc5"
        with pytest.raises(BusError, match=r"refused a command \(fa c5\)"):
            bus.run([GET_ID, CLAIM])


def test_an_answer_that_is_cut_short() -> None:
    bench = FtdiBench()
    with bench.bus() as bus:
        read_bytes = bus._port._ftdi.read_data_bytes
        bus._port._ftdi.read_data_bytes = lambda size, attempt: read_bytes(size, attempt)[:1]
        start_s = bench.clock.now()
        with pytest.raises(BusError, match="to send 7 bytes"):
            bus.run([GET_ID])
        assert bench.clock.now() - start_s < 5
        bus._port._ftdi.read_data_bytes = read_bytes
        assert bus.run([GET_ID]) == [ID]


def test_a_closed_bus_says_so_and_closes_twice() -> None:
    bench = FtdiBench()
    with bench.bus() as bus:
        bus.close()
        bus.close()
        with pytest.raises(UsageError, match="closed"):
            bus.run([GET_ID])
        bench.open().close()


def test_pyftdi_s_warnings_stay_off_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    bench = FtdiBench()
    with bench.bus() as bus:
        bench.adapter.unplug()
        bus.close()
    assert capfd.readouterr() == ("", "")


def test_two_interfaces_of_one_adapter_at_once() -> None:
    first = FtdiBench(model=FT2232H)
    habits = replace(PLAIN, personality=PC_CLIENT_TPM20)
    second = FtdiBench(habits, FT2232H, interface=2)
    second.adapter, first_port = first.adapter, first.port
    second.clock = first.clock
    second.port.attach(second.chip)
    with plugged(first):
        buses = [first.open(), second.open()]
        for bus, personality in zip(buses, (PC_CLIENT_TPM12, PC_CLIENT_TPM20), strict=True):
            (found,) = bus.run([GET_ID])
            assert found.data == personality.did_vid.to_bytes(4, "little")
        buses[0].close()
        assert first_port.pins.is_output(0) is False
        (found,) = buses[1].run([GET_ID])
        assert found.ready
        buses[1].close()
