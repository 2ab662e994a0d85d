"""The simulated TPM on SPI at byte level, driven by the TIS driver over a naive SPI master."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from spi_master import NaiveMaster

from hwtpm.clock import FakeClock
from hwtpm.errors import (
    BusError,
    Cancelled,
    DeviceNotFound,
    HwtpmError,
    ProtocolError,
    Timeout,
    UsageError,
)
from hwtpm.softtpm.base import MemoryStorage, SoftwareTpm
from hwtpm.softtpm.engines import make_engine
from hwtpm.tis import PC_CLIENT_TPM12, PC_CLIENT_TPM20, Personality, TisHost, drive
from hwtpm.tis.flow import Flow
from hwtpm.tis.registers import (
    DATA_FIFO,
    DID_VID,
    INT_ENABLE,
    INTF_CAPABILITY,
    STS,
    Access,
    Interrupt,
    Register,
    Sts,
    address_of,
)
from hwtpm.tis_lpc_sim import ExecutorTpm
from hwtpm.tis_lpc_sim.faults import Fault, Since, late_valid, refused_locality, zero_bursts
from hwtpm.tis_spi.framing import decode_transaction
from hwtpm.tis_spi.quirks import CHIPS, STRICT, Quirks, quirks_of
from hwtpm.tis_spi.virtual import PROFILES, Habits, VirtualSpiChip
from hwtpm.tis_spi.virtual.habits import (
    Beyond,
    FlippedBit,
    Miso,
    seeded_waits,
    stuck_status,
    stuck_valid,
)
from hwtpm.tis_spi.wiring import (
    ALL_ONES,
    ALL_ZEROS,
    EARLY_DESELECT,
    ONE_BIT_EARLY,
    ONE_BIT_LATE,
    WORDS_SWAPPED,
    Wiring,
    diagnose,
)
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.frame import build_request

T = TypeVar("T")

GET_RANDOM_20 = bytes.fromhex("8001 0000000c 0000017b 0020")
RANDOM_20 = bytes.fromhex("8001 0000002c 00000000 0020") + bytes(range(32))
CANCELED_20 = bytes.fromhex("8001 0000000a 00000909")
EXTEND_12 = bytes.fromhex("00c1 00000022 00000014 0000000a") + b"\x11" * 20
GET_RANDOM_12 = bytes.fromhex("00c1 0000000e 00000046 00000020")
STARTUP_12 = build_request(Startup.command.ordinal, Startup(StartupType.CLEAR).encode())
DURATION_S = 2.0


def canned(command: bytes, locality: int) -> bytes:
    assert (command, locality) == (GET_RANDOM_20, 0)
    return RANDOM_20


class Bench:
    """A chip, a master and the driver on one clock that nobody has to wait for."""

    def __init__(
        self,
        habits: Habits | None = None,
        tpm: SoftwareTpm | None = None,
        *,
        drops_select: bool = False,
    ) -> None:
        self.clock = FakeClock()
        self.chip = VirtualSpiChip(tpm or ExecutorTpm(canned), habits, self.clock)
        self.chip.power_on()
        self.port = NaiveMaster(self.chip, self.clock, drops_select=drops_select)
        self.host = TisHost(device="bench-a")

    def run(self, flow: Flow[T]) -> T:
        return drive(flow, self.port, self.clock)

    def open(self) -> None:
        """As a careful driver does: identity first, then its quirks, then the locality."""
        if self.chip.habits.header_lies:
            # Such a chip cannot be identified without knowing that: a board's file has to say it.
            self.port.quirks = quirks_of_name("cr50")
        info = self.run(self.host.probe())
        quirks = quirks_of(info)
        self.port.quirks = quirks if self.port.quirks is STRICT else self.port.quirks
        self.host.max_transfer = min(self.host.max_transfer, quirks.transfer_limit)
        self.run(self.host.request_locality(0))

    def transmit(
        self, command: bytes = GET_RANDOM_20, cancelled: Callable[[], bool] = lambda: False
    ) -> bytes:
        return self.run(self.host.transmit(command, DURATION_S, cancelled))

    def open_and_transmit(self) -> bytes:
        self.open()
        return self.transmit()

    def register(self, register: Register, size: int = 4) -> int:
        return int.from_bytes(self.port.read(address_of(register, 0), size), "little")


def quirks_of_name(name: str) -> Quirks:
    return next(row.quirks for row in CHIPS if row.quirks.name == name)


def tpm20(**personality: int | bool) -> Personality:
    return replace(PC_CLIENT_TPM20, **personality)  # type: ignore[arg-type]


def started_engine() -> SoftwareTpm:
    engine = make_engine("engine", MemoryStorage())
    engine.power_on()
    assert engine.execute(STARTUP_12)[6:10] == bytes(4)
    return engine


HABITS = {
    "plain": Habits(tpm20()),
    **{f"burst {burst}": Habits(tpm20(burst_limit=burst)) for burst in (1, 8, 32, 64, 128, 255)},
    "static burst": Habits(tpm20(burst_limit=8, burst_static=True)),
    "polls": Habits(tpm20(), busy_polls=5),
    "busy": Habits(tpm20(), busy_s=0.5),
    "read waits": Habits(tpm20(), read_waits=(2,)),
    "write waits": Habits(tpm20(), write_waits=(3,)),
    "random waits": Habits(tpm20(), read_waits=seeded_waits(7, 5), write_waits=seeded_waits(8, 5)),
    "straight to ready": Habits(tpm20(ready_after_completion=True)),
    "zero bursts": Habits(tpm20(), faults=(zero_bursts(0, 3),)),
    "zero bursts while answering": Habits(tpm20(), faults=(zero_bursts(0, 3, Since.GO),)),
    "late valid": Habits(tpm20(), faults=(late_valid(4), late_valid(4, Since.COMMAND_READY))),
    "status stuck after open": Habits(tpm20(), faults=(stuck_status(),)),
    "header lies": Habits(tpm20(), read_waits=(0, 3), header_lies=True),
    "transfers of 8": Habits(tpm20(transfer_size=8)),
    "transfers of 32": Habits(tpm20(transfer_size=32)),
    "transfers of 32, strictly": Habits(tpm20(transfer_size=32), beyond=Beyond.IGNORE),
    "legacy transfers": Habits(tpm20(transfer_size=0), beyond=Beyond.IGNORE),
    "locality denied at first": Habits(tpm20(), faults=(refused_locality(3),)),
}


@pytest.mark.parametrize("habits", HABITS.values(), ids=HABITS)
def test_every_habit_gives_the_right_answer(habits: Habits) -> None:
    bench = Bench(habits)
    bench.open()
    assert [bench.transmit() for _ in range(3)] == [RANDOM_20] * 3
    assert bench.host.tpm20


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_gives_the_right_answer(name: str) -> None:
    habits = PROFILES[name]
    wanted, tpm = RANDOM_20, None
    if not habits.personality.tpm20:
        tpm = ExecutorTpm(lambda command, locality: wanted)
    bench = Bench(habits, tpm)
    bench.open()
    assert [bench.transmit() for _ in range(3)] == [wanted] * 3
    assert bench.host.tpm20 == habits.personality.tpm20


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_the_chip_whose_quirks_it_has(name: str) -> None:
    habits = PROFILES[name]
    bench = Bench(habits)
    bench.open()
    quirks = quirks_of(bench.run(bench.host.probe()))
    assert quirks.name == habits.name.removesuffix(" TPM 1.2")
    assert quirks.waits >= any(habits.read_waits + habits.write_waits)
    assert quirks.transfer_limit == habits.personality.transfer_size
    assert quirks.burst_static == habits.personality.burst_static
    assert quirks.header_bit_valid != habits.header_lies
    if habits.capability is not None:
        assert bench.register(INTF_CAPABILITY) == habits.capability


@pytest.mark.parametrize("name", [name for name in PROFILES if "tpm12" in name])
def test_our_engine_behind_a_chip_of_its_family(name: str) -> None:
    engine = started_engine()
    bench = Bench(PROFILES[name], make_engine("engine", MemoryStorage()))
    bench.open()
    bench.transmit(STARTUP_12)
    assert bench.transmit(EXTEND_12) == engine.execute(EXTEND_12)
    random = bench.transmit(GET_RANDOM_12)
    assert random[:14] == bytes.fromhex("00c4 0000002e 00000000 00000020")
    assert len(set(random[14:])) > 8


def test_what_crosses_the_wires_for_one_command() -> None:
    """The driver unbatched: 7 status reads, 3 status writes, 2 FIFO writes, 3 FIFO reads."""
    bench = Bench(HABITS["plain"])
    bench.open()
    bench.transmit()
    counters = bench.chip.counters
    before = replace(counters)
    bench.transmit()
    assert counters.cs_edges - before.cs_edges == 2 * (counters.transactions - before.transactions)
    assert (counters.wait_bytes, counters.ignored, counters.early) == (0, 0, 0)
    assert counters.transactions - before.transactions == 15
    assert counters.bytes - before.bytes == 147


def test_wait_bytes_are_counted() -> None:
    bench = Bench(Habits(tpm20(), read_waits=(2,), write_waits=(1,)))
    bench.port.read(address_of(DID_VID, 0), 4)
    bench.port.write(address_of(STS, 0), b"\x40")
    assert bench.chip.counters.wait_bytes == 3
    assert bench.chip.counters.bytes == 4 + 2 + 4 + 4 + 1 + 1


def test_a_trace_of_both_lines_decodes() -> None:
    bench = Bench(Habits(tpm20(did_vid=0x001B15D1), read_waits=(2,)))
    bench.port.read(address_of(DID_VID, 0), 4)
    mosi = bytes.fromhex("83 d4 0f 00") + bytes(6)
    decoded = decode_transaction(mosi, bench.port.miso)
    assert (decoded.waits, decoded.data.hex(" ")) == (2, "d1 15 1b 00")


# -- chip select, header and address


def test_an_early_deselect_writes_nothing() -> None:
    bench = Bench(HABITS["plain"])
    bench.open()
    state = bench.chip.core.state(0)
    bench.chip.select(True)
    for byte in bytes.fromhex("01 d4 00 18 40"):
        bench.chip.shift(byte)
    bench.chip.select(False)
    assert bench.chip.core.state(0) is state
    assert bench.chip.counters.early == 1
    assert bench.transmit() == RANDOM_20


@pytest.mark.parametrize("header", ["c3 d4 0f 00", "83 d5 0f 00", "83 d4 50 00", "83 01 00 00"])
def test_a_header_for_nobody_is_ignored(header: str) -> None:
    bench = Bench(HABITS["plain"])
    bench.chip.select(True)
    seen = bytes(bench.chip.shift(byte) for byte in bytes.fromhex(header) + bytes(4))
    bench.chip.select(False)
    assert seen == bytes(3) + b"\xff" * 5
    assert bench.chip.counters.ignored == 1


def test_clocks_without_chip_select_are_somebody_elses() -> None:
    bench = Bench(HABITS["plain"])
    assert bench.chip.shift(0x83) == 0xFF
    assert bench.chip.counters.bytes == 0


def test_clocks_beyond_the_announced_size_bring_nothing() -> None:
    bench = Bench(HABITS["plain"])
    bench.chip.select(True)
    seen = bytes(bench.chip.shift(byte) for byte in bytes.fromhex("80 d4 0f 00") + bytes(3))
    assert seen[4:] == bytes([tpm20().did_vid & 0xFF, 0xFF, 0xFF])


@pytest.mark.parametrize("beyond", Beyond)
def test_more_than_the_transfer_size_does_not_arrive(beyond: Beyond) -> None:
    bench = Bench(Habits(tpm20(transfer_size=8), beyond=beyond))
    bench.open()
    bench.port.write(address_of(STS, 0), b"\x40")
    bench.port.write(address_of(DATA_FIFO, 0), GET_RANDOM_20)
    expects = bool(bench.register(STS) & Sts.EXPECT)
    assert expects is (beyond is Beyond.DISCARD)
    assert bench.chip.counters.ignored == (beyond is Beyond.IGNORE)


# -- bad wiring


@pytest.mark.parametrize(
    ("habits", "wiring"),
    [
        (Habits(miso=Miso.ALL_ONES), ALL_ONES),
        (Habits(miso=Miso.ALL_ZEROS), ALL_ZEROS),
        (Habits(miso=Miso.ONE_BIT_LATE), ONE_BIT_LATE),
        (Habits(miso=Miso.ONE_BIT_EARLY), ONE_BIT_EARLY),
        (Habits(boot_s=1.0), ALL_ZEROS),
        (Habits(unplug_after_bytes=0), ALL_ONES),
        (Habits(), None),
    ],
)
@pytest.mark.parametrize("profile", ["slb9670", "ns350"])
def test_bad_wiring_is_recognised_by_the_whole_transaction(
    profile: str, habits: Habits, wiring: Wiring | None
) -> None:
    bench = Bench(replace(habits, personality=PROFILES[profile].personality))
    bench.chip.select(True)
    seen = bytes(bench.chip.shift(byte) for byte in bytes.fromhex("83 d4 0f 00") + bytes(4))
    bench.chip.select(False)
    assert diagnose(seen) is wiring


@pytest.mark.parametrize(("name", "did_vid"), [("slb9670", "0x01000000"), ("ns350", "0xff000000")])
def test_a_bus_that_drops_chip_select_reads_the_header_echo(name: str, did_vid: str) -> None:
    bench = Bench(replace(PROFILES[name], read_waits=(0,)), drops_select=True)
    data = bench.port.read(address_of(DID_VID, 0), 4)
    assert diagnose(data) is EARLY_DESELECT
    with pytest.raises(DeviceNotFound, match=did_vid):
        bench.run(bench.host.probe())


def test_a_bus_of_32_bit_words_reads_registers_backwards() -> None:
    bench = Bench(PROFILES["slb9670"])
    assert diagnose(bench.port.read(address_of(DID_VID, 0), 4)[::-1]) is WORDS_SWAPPED


@pytest.mark.parametrize(
    "miso", [Miso.ALL_ONES, Miso.ALL_ZEROS, Miso.ONE_BIT_EARLY, Miso.ONE_BIT_LATE]
)
def test_no_answer_is_believed_over_a_bad_line(miso: Miso) -> None:
    bench = Bench(replace(PROFILES["slb9670"], miso=miso))
    with pytest.raises(HwtpmError):
        bench.open_and_transmit()


def test_a_flipped_bit_is_seen_once_and_where_it_was_ordered() -> None:
    habits = replace(PROFILES["slb9670"], flipped_bit=FlippedBit(transaction=1, bit=32 + 8))
    bench = Bench(habits)
    ids = [bench.register(DID_VID) for _ in range(3)]
    assert ids == [0x001B15D1, 0x001B95D1, 0x001B15D1]


# -- time, power, lines


def test_a_command_takes_its_time_by_the_clock() -> None:
    bench = Bench(Habits(tpm20(), busy_s=0.5))
    bench.open()
    before_s = bench.clock.now()
    bench.transmit()
    assert 0.5 <= bench.clock.now() - before_s < 0.6


def test_a_command_takes_its_polls() -> None:
    quick, slow = Bench(Habits(tpm20())), Bench(Habits(tpm20(), busy_polls=5))
    for bench in (quick, slow):
        bench.open()
        bench.transmit()
    assert slow.chip.counters.transactions == quick.chip.counters.transactions + 5


@pytest.mark.parametrize(
    ("personality", "canceled"), [(PC_CLIENT_TPM20, True), (PC_CLIENT_TPM12, 0)]
)
def test_a_cancelled_command_does_not_run(personality: Personality, canceled: bool) -> None:
    ran: list[bytes] = []

    def execute(command: bytes, locality: int) -> bytes:
        ran.append(command)
        return RANDOM_20

    bench = Bench(Habits(personality, busy_s=1.0), ExecutorTpm(execute))
    bench.open()
    if canceled:
        assert bench.transmit(cancelled=lambda: True) == CANCELED_20
    else:
        with pytest.raises(Cancelled):
            bench.transmit(cancelled=lambda: True)
    assert ran == []
    assert bench.transmit() == RANDOM_20


def test_pirq_tells_that_the_answer_is_there() -> None:
    bench = Bench(Habits(tpm20(), busy_s=0.5))
    bench.open()
    enable = Interrupt.GLOBAL | Interrupt.DATA_AVAIL
    bench.port.write(address_of(INT_ENABLE, 0), enable.to_bytes(4, "little"))
    bench.port.write(address_of(STS, 0), b"\x40")
    bench.port.write(address_of(STS, 0), b"\x40")
    bench.port.write(address_of(DATA_FIFO, 0), GET_RANDOM_20)
    bench.port.write(address_of(STS, 0), bytes([Sts.GO]))
    assert not bench.chip.irq
    bench.clock.sleep(0.5)
    assert bench.chip.irq
    assert bench.register(STS) & Sts.DATA_AVAIL
    bench.chip.reset(True)
    assert not bench.chip.irq


def test_reset_starts_the_chip_anew() -> None:
    bench = Bench(Habits(tpm20(), boot_s=0.03))
    bench.clock.sleep(0.03)
    bench.open()
    bench.chip.reset(True)
    assert bench.register(DID_VID) == 0xFFFFFFFF
    bench.chip.reset(False)
    with pytest.raises(BusError, match="waits"):
        bench.register(DID_VID)  # not ready yet: MISO is low
    bench.clock.sleep(0.03)
    assert bench.chip.core.active_locality is None
    bench.open()
    assert bench.transmit() == RANDOM_20


@pytest.mark.parametrize("after", range(0, 500, 7))
def test_unplugging_gives_an_error_and_never_a_wrong_answer(after: int) -> None:
    bench = Bench(Habits(tpm20(), unplug_after_bytes=after, read_waits=(0, 1)))
    try:
        bench.open()
        answers = {bench.transmit() for _ in range(2)}
    except (BusError, ProtocolError, DeviceNotFound):
        assert bench.clock.now() < bench.host.transmit_limit_s(DURATION_S)
    else:
        assert answers == {RANDOM_20}
    bench.chip.unplug()
    assert bench.chip.core.pending is None


def test_a_chip_can_be_plugged_in_again() -> None:
    bench = Bench(HABITS["plain"])
    bench.open()
    bench.chip.unplug()
    with pytest.raises(BusError):
        bench.transmit()
    bench.chip.reset(True)
    bench.chip.reset(False)
    with pytest.raises(DeviceNotFound):
        bench.open()
    bench.chip.power_on()
    bench.open()
    assert bench.transmit() == RANDOM_20


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ((stuck_valid(),), Timeout),
        ((refused_locality(None),), Timeout),
        ((zero_bursts(0, None),), Timeout),
    ],
    ids=["stsValid stuck", "locality denied", "no burst"],
)
def test_a_chip_that_does_not_go_on_is_a_typed_error(
    faults: tuple[Fault, ...], error: type[HwtpmError]
) -> None:
    bench = Bench(Habits(tpm20(), faults=faults))
    with pytest.raises(error):
        bench.open_and_transmit()


def test_to_send_the_command_again_mends_a_stuck_status() -> None:
    bench = Bench(Habits(tpm20(), faults=(stuck_valid(),)))
    bench.open()
    with pytest.raises(Timeout):
        bench.transmit()
    assert bench.transmit() == RANDOM_20


def test_a_sleeping_chip_does_not_hear_until_it_is_woken() -> None:
    bench = Bench(PROFILES["cr50"])
    bench.open()
    bench.clock.sleep(2.0)
    assert bench.transmit() == RANDOM_20
    bench.clock.sleep(2.0)
    bench.port.quirks = replace(bench.port.quirks, sleeps_after_s=0.0)
    ignored = bench.chip.counters.ignored
    assert bench.register(DID_VID) == 0xFFFFFFFF
    assert bench.chip.counters.ignored == ignored + 1


# -- the TPM behind


@pytest.mark.parametrize(
    "answer", [b"", RANDOM_20[:-1], RANDOM_20 + b"\0", bytes.fromhex("8001 00002000 00000000")]
)
@pytest.mark.parametrize(
    ("personality", "failure"),
    [
        (PC_CLIENT_TPM20, "8001 0000000a 00000101"),
        (PC_CLIENT_TPM12, "00c4 0000000a 00000009"),
    ],
)
def test_what_is_no_answer_reaches_the_bus_as_a_failure(
    answer: bytes, personality: Personality, failure: str
) -> None:
    bench = Bench(Habits(personality), ExecutorTpm(lambda command, locality: answer))
    bench.open()
    assert bench.transmit() == bytes.fromhex(failure)


def test_what_the_tpm_raises_reaches_the_bus_and_the_chip_lives_on() -> None:
    fails = [True, False]

    def execute(command: bytes, locality: int) -> bytes:
        if fails.pop(0):
            raise BusError("engine is gone")
        return RANDOM_20

    bench = Bench(Habits(tpm20()), ExecutorTpm(execute))
    bench.open()
    with pytest.raises(BusError, match="engine is gone"):
        bench.transmit()
    assert bench.transmit() == RANDOM_20


def test_family_and_interface_are_in_the_registers() -> None:
    for personality, family in ((PC_CLIENT_TPM12, 0), (PC_CLIENT_TPM20, 1)):
        bench = Bench(Habits(personality))
        bench.open()
        assert Sts.FAMILY.of(bench.register(STS)) == family
        assert bench.host.tpm20 == bool(family)


def test_self_test_done_shows_once_the_tpm_was_tested() -> None:
    self_test = bytes.fromhex("8001 0000000b 00000143 01")
    done = bytes.fromhex("8001 0000000a 00000000")
    bench = Bench(Habits(tpm20()), ExecutorTpm(lambda command, locality: done))
    bench.open()
    assert not bench.register(STS) & Sts.SELF_TEST_DONE
    bench.transmit(self_test)
    assert bench.register(STS) & Sts.SELF_TEST_DONE


def test_a_measurement_from_locality_4_reaches_the_tpm() -> None:
    engine = started_engine()
    bench = Bench(PROFILES["slb9670-tpm12"], engine)
    bench.open()
    bench.transmit(STARTUP_12)
    bench.run(bench.host.release_locality())
    for register, data in (("28", b"\0"), ("24", b"measured"), ("20", b"\0")):
        bench.port.write(0x4000 + int(register, 16), data)
    assert engine.established
    assert not bench.port.read(0x0000, 1)[0] & Access.ESTABLISHMENT


@pytest.mark.parametrize(
    "habits", [{"read_waits": ()}, {"write_waits": (-1,)}, {"busy_s": -1.0}, {"gap_s": -0.1}]
)
def test_habits_that_no_chip_has(habits: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Habits(**habits)  # type: ignore[arg-type]
