"""The spidev bus against chips and controllers at random.

It does what a bus without an adapter does, byte for byte; and whatever fails, chip select is high
after every call, and the next one works.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spi_memory_bus import MemoryBus
from spidev_rig import PATH, DirectFile, Wire

from hwtpm.clock import FakeClock
from hwtpm.errors import BusError, DeviceNotFound, ProtocolError, Timeout
from hwtpm.tis import PC_CLIENT_TPM12, PC_CLIENT_TPM20
from hwtpm.tis_lpc_sim import ExecutorTpm
from hwtpm.tis_spi.bus import Pause, SpiBus, Step, Transfer
from hwtpm.tis_spi.flow import read_transfer, write_transfer
from hwtpm.tis_spi.planner import SpiHost
from hwtpm.tis_spi.spi_ioc import Buffer, IocTransfer
from hwtpm.tis_spi.spidev import SpidevBus, _Select
from hwtpm.tis_spi.transport import SpiTis
from hwtpm.tis_spi.virtual import Habits, VirtualSpiChip
from hwtpm.tis_spi.virtual.habits import Miso
from hwtpm.tis_spi.virtual.spidev import VirtualSpidev

COMMAND = bytes.fromhex("00c1 0000000e 00000099 00000001")
DURATION_S = 1.0
MOST_WAITS = 6


def answer_to(command: bytes, locality: int = 0) -> bytes:
    body = command[::-1] * 3
    return b"\x00\xc4" + (10 + len(body)).to_bytes(4, "big") + bytes(4) + body


class FailingFile(DirectFile):
    """Some messages fail, before or after their bytes; the controller leaves chip select low."""

    fails: dict[int, tuple[int, bool]] = {}  # noqa: RUF012 replaced for each instance
    made = 0

    def message(self, transfers: Sequence[IocTransfer]) -> bytes:
        self.made += 1
        code, late = self.fails.get(self.made, (0, False))
        if code and late:
            super().message([*transfers[:-1], transfers[-1]._replace(cs_change=True)])
        if code:
            raise OSError(code, "it broke")
        return super().message(transfers)


def outcome(bus: SpiBus, transfer: Transfer) -> bytes | None:
    """What was read; None if the chip was not ready in time."""
    try:
        return bus.stretch(transfer, MOST_WAITS)
    except Timeout:
        return None


class Bench:
    def __init__(self, habits: Habits, buffer: Buffer | None = None) -> None:
        self.clock = FakeClock()
        self.chip = VirtualSpiChip(ExecutorTpm(answer_to), habits, self.clock)
        self.chip.power_on()
        self.wire = Wire(self.chip)
        buffer = buffer or Buffer()
        self.device = VirtualSpidev(
            {PATH: self.wire},
            buffer_size=buffer.size,
            alignment=buffer.alignment,
            clock=self.clock,
        )
        self.file = FailingFile(self.device)
        self.bus = SpidevBus(
            self.file, Path(PATH), clock_hz=10_000_000, buffer=buffer, clock=self.clock
        )


few = st.integers(0, 8)
waits = st.lists(few, min_size=1, max_size=5).map(tuple)
chips = st.builds(
    Habits,
    st.sampled_from([PC_CLIENT_TPM12, PC_CLIENT_TPM20]),
    read_waits=waits,
    write_waits=waits,
    checks_address=st.booleans(),
)
broken = st.builds(
    replace,
    chips,
    miso=st.sampled_from([Miso.SOUND, Miso.SOUND, *Miso]),
    unplug_after_bytes=st.none() | st.integers(0, 400),
)
registers = st.sampled_from([(0x00, 1), (0x18, 1), (0x18, 4), (0x24, 64), (0xF00, 4)])
transfers = st.one_of(
    registers.map(lambda register: read_transfer(*register)),
    st.sampled_from([write_transfer(0x00, b"\x02"), write_transfer(0x18, b"\x40")]),
    st.builds(write_transfer, st.just(0x24), st.binary(min_size=1, max_size=64)),
)
batches = st.lists(st.one_of(transfers, transfers, st.just(Pause(0.001))), max_size=40)
buffers = st.builds(Buffer, st.integers(128, 4096), st.sampled_from([8, 64, 128]))
failures = st.dictionaries(
    st.integers(1, 60),
    st.tuples(st.sampled_from([errno.EIO, errno.ETIMEDOUT, errno.ENODEV]), st.booleans()),
    max_size=3,
)


@given(chips, batches, buffers)
@settings(deadline=None)
def test_a_batch_brings_what_it_brings_on_any_bus(
    habits: Habits, batch: list[Step], buffer: Buffer
) -> None:
    bench, other = Bench(habits, buffer), Bench(habits)
    wanted = MemoryBus(
        other.chip, other.clock, replace(bench.bus.limits, transfers=99, bytes_in=9999)
    )
    assert bench.bus.run(batch) == wanted.run(batch)
    assert bench.clock.now() == pytest.approx(other.clock.now())
    assert bench.chip.counters == other.chip.counters


@given(chips, st.lists(transfers, max_size=12), st.sampled_from([_Select.KEPT, _Select.UNPROVEN]))
@settings(deadline=None)
def test_wait_states_bring_what_they_bring_on_any_bus(
    habits: Habits, wanted: list[Transfer], select: _Select
) -> None:
    bench, other = Bench(habits), Bench(habits)
    bench.bus._select = select
    reference = MemoryBus(other.chip, other.clock)
    for transfer in wanted:
        assert outcome(bench.bus, transfer) == outcome(reference, transfer)
        assert not bench.wire.low
    # Not a clock, and not a chip select, more or less; but one byte for each release.
    theirs = other.chip.counters
    assert bench.chip.counters.transactions == theirs.transactions
    assert bench.chip.counters.bytes == theirs.bytes + bench.bus.counters.releases


@given(broken, failures, st.lists(st.one_of(transfers, batches), max_size=8))
@settings(deadline=None)
def test_chip_select_is_high_after_every_call(
    habits: Habits, fails: dict[int, tuple[int, bool]], calls: list[Transfer | list[Step]]
) -> None:
    bench = Bench(habits)
    bench.file.fails = fails
    for call in calls:
        with suppress(BusError, DeviceNotFound, Timeout):
            if isinstance(call, list):
                bench.bus.run(call)
            else:
                bench.bus.stretch(call, MOST_WAITS)
        # A release may fail like any other message.
        assert not bench.wire.low or bench.file.made in fails


@given(broken, failures)
@settings(deadline=None)
def test_commands_are_answered_right_or_fail_in_time(
    habits: Habits, fails: dict[int, tuple[int, bool]]
) -> None:
    bench = Bench(habits)
    bench.file.fails = fails
    host = SpiHost(bench.bus.limits)
    tis = SpiTis(bench.bus, bench.clock, duration_s=lambda _: DURATION_S, host=host)
    limit_s = host.locality_limit_s + host.transmit_limit_s(DURATION_S)
    for _ in range(3):
        start_s = bench.clock.now()
        with suppress(BusError, DeviceNotFound, ProtocolError):
            assert tis.execute(COMMAND) == answer_to(COMMAND)
        assert bench.clock.now() - start_s <= 2 * limit_s
        assert not bench.wire.low or bench.file.made in fails


@given(chips, failures)
@settings(deadline=None)
def test_after_failures_a_sound_chip_answers_again(
    habits: Habits, fails: dict[int, tuple[int, bool]]
) -> None:
    bench = Bench(habits)
    bench.file.fails = fails
    tis = SpiTis(
        bench.bus, bench.clock, duration_s=lambda _: DURATION_S, host=SpiHost(bench.bus.limits)
    )
    while bench.file.made < max(fails, default=0):
        with suppress(BusError, DeviceNotFound, ProtocolError):
            tis.execute(COMMAND)
    again = SpiTis(
        bench.bus, bench.clock, duration_s=lambda _: DURATION_S, host=SpiHost(bench.bus.limits)
    )
    assert again.execute(COMMAND) == answer_to(COMMAND)
