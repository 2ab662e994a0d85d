"""Any traffic on the FTDI bus brings what a plain master brings from the same chip."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from ftdi_bus_rig import FtdiBench, answer_to, read, write
from hypothesis import given, settings
from hypothesis import strategies as st
from spi_master import NaiveMaster

from hwtpm.errors import BusError, DeviceNotFound, HwtpmError
from hwtpm.tis.registers import ACCESS, DATA_FIFO, DID_VID, STS, Access, Sts
from hwtpm.tis_spi.bus import Captured, Pause, Step, Transfer
from hwtpm.tis_spi.mpsse import Wires
from hwtpm.tis_spi.quirks import STRICT
from hwtpm.tis_spi.virtual import Habits
from hwtpm.tis_spi.virtual.ftdi import FT232H, FT2232H, FT4232H

COMMAND = bytes.fromhex("00c1 0000000c 00000046 abcd")

reads = st.builds(
    read,
    st.sampled_from([ACCESS.offset, STS.offset, DATA_FIFO.offset, DID_VID.offset, 0xF90, 0x1000]),
    st.integers(1, 64),
)
writes = st.one_of(
    st.sampled_from(
        [
            write(ACCESS.offset, bytes([Access.REQUEST])),
            write(STS.offset, bytes([Sts.COMMAND_READY])),
            write(STS.offset, bytes([Sts.GO])),
            write(DATA_FIFO.offset, COMMAND),
        ]
    ),
    st.builds(write, st.just(DATA_FIFO.offset), st.binary(min_size=1, max_size=64)),
)
transfers = st.lists(reads | writes, max_size=9)
whole = [
    write(ACCESS.offset, bytes([Access.REQUEST])),
    write(STS.offset, bytes([Sts.COMMAND_READY])),
    write(DATA_FIFO.offset, COMMAND),
    write(STS.offset, bytes([Sts.GO])),
    read(STS.offset, 4),
    read(DATA_FIFO.offset, len(answer_to(COMMAND))),
]
traffic = st.builds(lambda before, after: [*before, *whole, *after], transfers, transfers)
waits = st.lists(st.integers(0, 6), min_size=1, max_size=5).map(tuple)
models = st.sampled_from([FT232H, FT2232H, FT4232H])


def plainly(master: NaiveMaster, transfer: Transfer) -> bytes:
    address = int.from_bytes(transfer.header[1:], "big") & 0xFFFF
    if transfer.size:
        return master.read(address, transfer.size)
    master.write(address, transfer.data)
    return b""


@given(traffic, models, st.booleans(), st.data())
@settings(deadline=None)
def test_batches(
    made: list[Transfer], model: object, high_speed: bool, data: st.DataObject
) -> None:
    bench, plain = FtdiBench(model=model, high_speed=high_speed), FtdiBench()
    master = NaiveMaster(plain.chip, plain.clock)
    expected = [Captured(1, plainly(master, transfer)) for transfer in made]
    found: list[Captured] = []
    with bench.bus() as bus, bench.cost() as cost:
        left, batches = list(made), 0
        while left:
            count = data.draw(st.integers(1, len(left)))
            steps: list[Step] = []
            for transfer in left[:count]:
                steps += [transfer, Pause(data.draw(st.sampled_from([0.0, 1e-6, 0.001])))]
            if sum(1 + transfer.size for transfer in left[:count]) > bus.limits.bytes_in:
                count, steps = 1, list(left[:1])
            found += bus.run(steps)
            left, batches = left[count:], batches + 1
    assert found == expected
    assert (cost.bulk_out, cost.round_trips, cost.timeouts, cost.off_mode) == (
        batches,
        batches,
        0,
        0,
    )
    assert bench.chip.counters == plain.chip.counters


@given(traffic, waits, waits, st.booleans())
@settings(deadline=None)
def test_transfers_that_wait(
    made: list[Transfer], read_waits: tuple[int, ...], write_waits: tuple[int, ...], lies: bool
) -> None:
    habits = Habits(read_waits=read_waits, write_waits=write_waits, header_lies=lies)
    bench, plain = FtdiBench(habits), FtdiBench(habits)
    master = NaiveMaster(plain.chip, plain.clock, replace(STRICT, header_bit_valid=not lies))
    with bench.bus() as bus:
        for transfer in made:
            expected = plainly(master, transfer)
            assert bus.stretch(transfer, 10, trust_header=not lies) == expected
    assert bench.chip.counters == plain.chip.counters


@given(traffic, waits, st.integers(0, 120), st.integers(0, 30))
@settings(deadline=None)
def test_whatever_is_unplugged_the_next_open_works(
    made: list[Transfer], turns: tuple[int, ...], after: int, chip_after: int
) -> None:
    habits = Habits(read_waits=turns, write_waits=turns, unplug_after_bytes=20 * chip_after)
    bench = FtdiBench(habits)
    with suppress(HwtpmError), bench.bus(Wires(reset=9, reset_pulse_s=0.01)) as bus:
        bench.adapter.unplug(after=after)
        for transfer in made:
            try:
                bus.stretch(transfer, 10)
                bus.run([transfer])
            except (BusError, DeviceNotFound):
                assert not bench.selected
                raise
    assert not bench.selected
    assert bench.outputs == set()
    bench.adapter.plug()
    bench.chip.habits = Habits()
    bench.chip.power_on()
    with bench.bus() as bus:
        assert bus.run(whole)[-1].data == answer_to(COMMAND)
