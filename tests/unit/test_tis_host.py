"""The TIS driver core against a simulated chip with scripted faults and a clock turned by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from hwtpm.clock import FakeClock
from hwtpm.errors import (
    BusError,
    Cancelled,
    DeviceNotFound,
    ProtocolError,
    Timeout,
    Unsupported,
    UsageError,
)
from hwtpm.tis import (
    PC_CLIENT_TPM12,
    PC_CLIENT_TPM20,
    Personality,
    Timeouts,
    TisHost,
    TisTransport,
    drive,
)
from hwtpm.tis.chip import TisChip
from hwtpm.tis.flow import Flow
from hwtpm.tis.registers import (
    ACCESS,
    DATA_FIFO,
    DID_VID,
    INTERFACE_ID,
    INTF_CAPABILITY,
    STS,
    Access,
    Sts,
    register_at,
    split_address,
)
from hwtpm.tis.states import State
from hwtpm.tis_lpc_sim import ExecutorTpm, SimulatedChip
from hwtpm.tis_lpc_sim.faults import (
    BitFault,
    BurstFault,
    Fault,
    Since,
    TruncateFault,
    absent_chip,
    busy,
    dead_line,
    dropped_expect,
    late_valid,
    refused_locality,
    zero_bursts,
)
from hwtpm.tis_lpc_sim.window import RegisterFile

T = TypeVar("T")

COMMAND = bytes.fromhex("00c1 0000000e 00000046 01020304")
RESPONSE = bytes.fromhex("00c4 00000064 00000000") + bytes(range(90))


class Bench:
    """A driver, a chip, a clock, and what crossed the bus between them."""

    def __init__(
        self,
        *faults: Fault,
        personality: Personality = PC_CLIENT_TPM12,
        registers: RegisterFile | None = None,
        **host: int,
    ) -> None:
        self.commands: list[tuple[bytes, int]] = []
        self.chip = SimulatedChip(ExecutorTpm(self._answer), personality, faults)
        self.registers = registers or self.chip
        self.host = TisHost(device="bench-a", **host)
        self.clock = FakeClock()
        self.bus: list[tuple[str, str, int, bytes]] = []

    def _answer(self, command: bytes, locality: int) -> bytes:
        self.commands.append((command, locality))
        return RESPONSE

    def read(self, address: int, size: int) -> bytes:
        locality, offset = split_address(address)
        data = self.registers.read(locality, offset, size)
        self._note("read", locality, offset, data)
        return data

    def write(self, address: int, data: bytes) -> None:
        locality, offset = split_address(address)
        self._note("write", locality, offset, data)
        self.registers.write(locality, offset, data)

    def close(self) -> None:
        self.bus.append(("close", "", 0, b""))

    def _note(self, what: str, locality: int, offset: int, data: bytes) -> None:
        register = register_at(offset)
        assert register is not None
        self.bus.append((what, register.name, locality, data))

    def run(self, flow: Flow[T]) -> T:
        return drive(flow, self, self.clock)

    def transmit(self, cancelled: Callable[[], bool] = lambda: False) -> bytes:
        self.run(self.host.request_locality(0))
        self.bus.clear()
        self.clock.slept_s.clear()
        return self.run(self.host.transmit(COMMAND, 2.0, cancelled))

    def fifo_sizes(self, what: str) -> list[int]:
        return [len(entry[3]) for entry in self.bus if entry[:2] == (what, "DATA_FIFO")]


def test_command_and_response_pass_unchanged_without_waiting() -> None:
    bench = Bench()
    assert bench.transmit() == RESPONSE
    assert bench.commands == [(COMMAND, 0)]
    assert bench.clock.slept_s == []
    assert bench.chip.core.state(0) is State.IDLE


def test_status_and_burst_count_are_read_as_one_word() -> None:
    bench = Bench()
    bench.transmit()
    assert {len(data) for what, name, _, data in bench.bus if (what, name) == ("read", "STS")} == {
        4
    }


def test_fifo_accesses_keep_to_burst_count_and_transfer_size() -> None:
    bench = Bench(BurstFault((7, 40)), max_transfer=32)
    assert bench.transmit() == RESPONSE
    assert sum(bench.fifo_sizes("write")) == len(COMMAND)
    assert sum(bench.fifo_sizes("read")) == len(RESPONSE)
    assert max(bench.fifo_sizes("read") + bench.fifo_sizes("write")) <= 32


def test_one_announced_burst_covers_several_transfers() -> None:
    bench = Bench(max_transfer=16)
    bench.transmit()
    reads = [name for what, name, _, _ in bench.bus if what == "read"]
    assert reads.count("STS") == 7
    assert bench.fifo_sizes("read") == [6, 16, 16, 16, 16, 16, 13, 1]


def test_last_command_byte_is_sent_alone_after_expect_was_seen() -> None:
    bench = Bench()
    bench.transmit()
    assert bench.fifo_sizes("write") == [len(COMMAND) - 1, 1]


@pytest.mark.parametrize(
    ("fault", "waited_for"),
    [
        (zero_bursts(0, 30), "burst"),
        (late_valid(30, Since.COMMAND_READY), "stsValid"),
        (late_valid(30, Since.GO), "response"),
        (busy(300), "response"),
        (refused_locality(100), "locality"),
        (BitFault(STS, clear=Sts.COMMAND_READY, count=300), "ready"),
        (BitFault(ACCESS, clear=Access.VALID, count=100), "valid"),
    ],
)
def test_slow_chip_is_waited_for(fault: Fault, waited_for: str) -> None:
    bench = Bench(fault)
    assert bench.transmit() == RESPONSE
    assert bench.clock.time_s > 0.02, waited_for
    assert all(0 < slept <= 0.005 for slept in bench.clock.slept_s)


@pytest.mark.parametrize(
    ("fault", "message", "within_s"),
    [
        (zero_bursts(0, None), "burst count after 0 of 13 command bytes", 0.75),
        (late_valid(10**6, Since.COMMAND_READY), "no stsValid within 0.75 s", 0.75),
        (busy(None), "no response within 2 s", 2.0),
        (BitFault(STS, clear=Sts.COMMAND_READY), "no commandReady", 2.0),
        (zero_bursts(0, None, Since.GO), "burst count after 0 response bytes", 0.75),
    ],
)
def test_stuck_chip_ends_in_a_timeout_that_names_what_was_missing(
    fault: Fault, message: str, within_s: float
) -> None:
    bench = Bench(fault)
    with pytest.raises(Timeout, match=f"bench-a: .*{message}"):
        bench.transmit()
    # Afterwards the driver gives the chip up to timeout B to become ready.
    assert within_s <= bench.clock.time_s <= within_s + bench.host.timeouts.b_s + 0.01


def test_chip_that_trickles_bursts_is_given_up_after_the_transfer_time() -> None:
    bench = Bench(BurstFault((*[0] * 250, 1)))
    bench.host.timeouts = Timeouts(d_s=5.0, transfer_s=10.0)
    with pytest.raises(Timeout, match=r"bench-a: .* 10 s|burst count"):
        bench.transmit()
    assert bench.clock.time_s <= bench.host.transmit_limit_s(2.0)


def test_dropped_expect_is_a_protocol_error_and_leaves_the_chip_ready() -> None:
    bench = Bench(dropped_expect())
    with pytest.raises(ProtocolError, match="wants no more after 13 of 14 command bytes"):
        bench.transmit()
    assert bench.commands == []
    assert bench.chip.core.state(0) is State.READY


def test_expect_that_never_drops_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="wants more than the 14 command bytes"):
        Bench(BitFault(STS, force=Sts.EXPECT)).transmit()


@pytest.mark.parametrize("size", [1, 5, 6, 7, 10, 50, 98, 99])
def test_truncated_response_is_read_again(size: int) -> None:
    bench = Bench(TruncateFault(size, times=2))
    assert bench.transmit() == RESPONSE
    retries = [e for e in bench.bus if e[:2] == ("write", "STS") and e[3][0] == Sts.RETRY]
    assert len(retries) == 2


def test_response_truncated_every_time_is_a_typed_error() -> None:
    bench = Bench(TruncateFault(40, times=9))
    with pytest.raises(ProtocolError, match="response of 100 bytes ends early, 3 times") as caught:
        bench.transmit()
    assert "bus" in caught.value.hint
    assert bench.chip.core.state(0) is State.READY


def test_data_left_after_the_response_is_a_typed_error() -> None:
    with pytest.raises(ProtocolError, match="data left after a response of 100 bytes, 3 times"):
        Bench(BitFault(STS, force=Sts.DATA_AVAIL, since=Since.GO)).transmit()


@pytest.mark.parametrize("size", [0, 9, 1001, 0xFFFFFFFF])
def test_impossible_response_size_is_a_typed_error(size: int) -> None:
    class Liar(TisChip):
        def read(self, locality: int, offset: int, size_: int) -> bytes:
            data = super().read(locality, offset, size_)
            return b"\0\xc4" + size.to_bytes(4, "big") if offset == 0x24 and size_ == 6 else data

        def write(self, locality: int, offset: int, data: bytes) -> None:
            super().write(locality, offset, data)
            if self.take_outputs():
                self.complete(RESPONSE)

    bench = Bench(registers=Liar(), max_response=1000)
    with pytest.raises(ProtocolError, match="response starts 00 c4"):
        bench.transmit()


def test_command_aborted_behind_our_back_is_a_protocol_error() -> None:
    class Aborting(TisChip):
        def write(self, locality: int, offset: int, data: bytes) -> None:
            super().write(locality, offset, data)
            if self.take_outputs():
                super().write(locality, STS.offset, bytes([Sts.COMMAND_READY]))
                self.complete(RESPONSE)

    bench = Bench(registers=Aborting())
    with pytest.raises(ProtocolError, match="aborted in the chip"):
        bench.transmit()


def test_executing_command_is_cancelled_by_abort_on_tpm12() -> None:
    bench = Bench(busy(None))
    with pytest.raises(Cancelled):
        bench.transmit(lambda: True)
    assert bench.chip.core.state(0) in (State.IDLE, State.READY)
    assert bench.clock.time_s <= bench.host.timeouts.b_s + 0.01


def test_cancelled_tpm20_command_is_answered() -> None:
    bench = Bench(busy(5), personality=PC_CLIENT_TPM20)
    bench.run(bench.host.probe())
    assert bench.transmit(lambda: True) == RESPONSE
    cancels = [e for e in bench.bus if e[:2] == ("write", "STS") and e[3] == b"\0\0\0\x01"]
    assert len(cancels) == 1


def test_abort_makes_the_chip_ready_from_any_state() -> None:
    bench = Bench()
    bench.run(bench.host.request_locality(0))
    for prepare in (b"", COMMAND[:5], COMMAND):
        bench.chip.write(0, DATA_FIFO.offset, prepare)
        bench.chip.write(0, STS.offset, bytes([Sts.GO]))
        bench.run(bench.host.abort())
        assert bench.chip.core.state(0) is State.READY


def test_interrupt_of_the_caller_leaves_the_chip_in_order() -> None:
    bench = Bench()
    bench.run(bench.host.request_locality(0))
    write = bench.write

    def interrupted(address: int, data: bytes) -> None:
        write(address, data)
        if address == DATA_FIFO.offset:
            raise KeyboardInterrupt

    bench.write = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.run(bench.host.transmit(COMMAND, 2.0))
    assert bench.chip.core.state(0) is State.READY


def test_failing_link_is_reported_as_it_is() -> None:
    bench = Bench()
    bench.run(bench.host.request_locality(0))

    def unplugged(address: int, size: int) -> bytes:
        raise BusError("adapter unplugged")

    bench.read = unplugged  # type: ignore[method-assign]
    with pytest.raises(BusError, match="adapter unplugged"):
        bench.run(bench.host.transmit(COMMAND, 2.0))


def test_short_read_of_the_port_is_a_bus_error() -> None:
    bench = Bench()
    bench.read = lambda address, size: b"\x81" * (size + 1)  # type: ignore[method-assign]
    with pytest.raises(BusError, match="reading 4 bytes at 0x0f00"):
        bench.run(bench.host.probe())


@pytest.mark.parametrize(
    "bad", [b"", COMMAND[:9], COMMAND + b"x", bytes.fromhex("00c1 00000009 000000")]
)
def test_command_that_is_no_frame_never_reaches_the_bus(bad: bytes) -> None:
    bench = Bench()
    bench.run(bench.host.request_locality(0))
    bench.bus.clear()
    with pytest.raises(UsageError):
        bench.run(bench.host.transmit(bad, 2.0))
    assert bench.bus == []


def test_transmit_needs_a_locality() -> None:
    bench = Bench()
    with pytest.raises(UsageError, match="request a locality"):
        bench.run(bench.host.transmit(COMMAND, 2.0))


def test_all_ones_are_a_bus_error() -> None:
    with pytest.raises(BusError, match="ACCESS of locality 0 reads all ones"):
        Bench(*absent_chip()).transmit()
    with pytest.raises(BusError, match="STS reads all ones in the active locality 0"):
        Bench(BitFault(STS, force=0xFFFFFFFF)).transmit()
    with pytest.raises(BusError, match="all ones"):
        Bench(*absent_chip(first=3)).transmit()


def test_all_zeros_time_out() -> None:
    bench = Bench(*dead_line())
    with pytest.raises(Timeout, match=r"no valid registers within 0.75 s \(register reads 0x0\)"):
        bench.transmit()


# -- localities


def test_refused_locality_times_out_names_the_owner_and_withdraws() -> None:
    bench = Bench()
    bench.chip.write(2, ACCESS.offset, bytes([Access.REQUEST]))
    with pytest.raises(Timeout, match=r"no locality 0 within 0\.75 s") as caught:
        bench.run(bench.host.request_locality(0))
    assert "locality 2 holds the TPM" in caught.value.hint
    assert 0.75 <= bench.clock.time_s <= bench.host.locality_limit_s
    bench.chip.write(2, ACCESS.offset, bytes([Access.ACTIVE]))
    assert bench.chip.core.active_locality is None


def test_requesting_another_locality_releases_the_first() -> None:
    bench = Bench()
    for number in (0, 3, 3):
        bench.run(bench.host.request_locality(number))
        assert bench.host.locality == bench.chip.core.active_locality == number
    bench.run(bench.host.release_locality())
    bench.run(bench.host.release_locality())
    assert bench.host.locality is bench.chip.core.active_locality is None


def test_release_that_the_chip_ignores_times_out() -> None:
    bench = Bench(BitFault(ACCESS, force=Access.ACTIVE))
    bench.run(bench.host.request_locality(0))
    with pytest.raises(Timeout, match="release of locality 0"):
        bench.run(bench.host.release_locality())


def test_seizing_takes_the_tpm_and_the_loser_gets_a_typed_error() -> None:
    bench = Bench()
    other = TisHost(device="other")
    bench.run(bench.host.request_locality(1))
    bench.run(other.seize(3))
    assert bench.chip.core.active_locality == 3
    with pytest.raises(ProtocolError, match="locality 1 was taken away"):
        bench.run(bench.host.transmit(COMMAND, 2.0))
    assert bench.host.locality is None
    bench.run(other.release_locality())
    bench.run(bench.host.request_locality(1))
    assert bench.run(bench.host.transmit(COMMAND, 2.0)) == RESPONSE
    assert not bench.chip.read(1, ACCESS.offset, 1)[0] & Access.BEEN_SEIZED


def test_seizing_from_below_times_out() -> None:
    bench = Bench()
    bench.run(bench.host.request_locality(3))
    with pytest.raises(Timeout):
        bench.run(TisHost().seize(1))


@pytest.mark.parametrize("number", [-1, 5])
def test_locality_that_does_not_exist_is_a_usage_error(number: int) -> None:
    bench = Bench()
    for operation in (bench.host.request_locality, bench.host.seize):
        with pytest.raises(UsageError):
            bench.run(operation(number))
    assert bench.bus == []


# -- identity


def test_probe_tells_what_the_chip_is_and_limits_transfers() -> None:
    bench = Bench(personality=Personality(did_vid=0x001B15D1, rid=0x10, transfer_size=32))
    info = bench.run(bench.host.probe())
    assert (info.vendor, info.device, info.rid, info.tpm20) == (0x15D1, 0x001B, 0x10, False)
    assert not info.burst_static
    assert bench.host.max_transfer == 32


def test_probe_tells_tpm20_by_its_interface() -> None:
    for personality, tpm20 in [
        (PC_CLIENT_TPM20, True),
        (Personality(version=PC_CLIENT_TPM20.version), True),
        (PC_CLIENT_TPM12, False),
    ]:
        assert Bench().run(Bench(personality=personality).host.probe()).tpm20 is False
        bench = Bench(personality=personality)
        assert bench.run(bench.host.probe()).tpm20 is tpm20


@pytest.mark.parametrize(
    ("faults", "evidence", "hint"),
    [
        (absent_chip(), "DID_VID 0xffffffff, ACCESS 0xff", "floats"),
        (dead_line(), "DID_VID 0x00000000, ACCESS 0x00", "stuck low"),
        (
            [BitFault(DID_VID, force=0x01000000, clear=0xFFFFFFFF)],
            "DID_VID 0x01000000",
            "chip select drops",
        ),
    ],
)
def test_absent_chip_is_not_found_with_evidence(
    faults: list[Fault], evidence: str, hint: str
) -> None:
    bench = Bench(*faults)
    with pytest.raises(DeviceNotFound, match=f"bench-a: no TPM answers: {evidence}") as caught:
        bench.run(bench.host.probe())
    assert hint in caught.value.hint


def test_chip_switched_to_crb_is_unsupported() -> None:
    bench = Bench(BitFault(INTERFACE_ID, clear=0xF, force=1))
    with pytest.raises(Unsupported, match="CRB"):
        bench.run(bench.host.probe())


def test_capability_of_all_ones_is_a_bus_error() -> None:
    bench = Bench(BitFault(INTF_CAPABILITY, force=0xFFFFFFFF))
    with pytest.raises(BusError, match="INTF_CAPABILITY"):
        bench.run(bench.host.probe())


def test_impossible_transfer_sizes_are_refused() -> None:
    for wrong in ({"max_transfer": 0}, {"max_response": 9}):
        with pytest.raises(UsageError):
            TisHost(**wrong)


# -- timeouts


def test_chip_timeouts_are_microseconds_and_never_lower_the_defaults() -> None:
    raised = Timeouts.from_chip([1_000_000, 4_000_000, 0, 10_000], [3_000_000, 0, 90_000_000])
    assert (raised.a_s, raised.b_s, raised.c_s, raised.d_s) == (1.0, 4.0, 0.75, 0.75)
    assert (raised.short_s, raised.medium_s, raised.long_s) == (3.0, 20.0, 90.0)
    assert Timeouts.from_chip() == Timeouts()


def test_chips_that_report_milliseconds_are_recognised() -> None:
    quirky = Timeouts.from_chip([900, 2000, 750, 750], [5_000, 30_000, 120_000])
    assert (quirky.a_s, quirky.b_s) == (0.9, 2.0)
    assert (quirky.short_s, quirky.medium_s, quirky.long_s) == (5.0, 30.0, 120.0)


def test_absurd_chip_timeouts_are_capped() -> None:
    absurd = Timeouts.from_chip([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 3)
    assert (absurd.a_s, absurd.long_s) == (30.0, 900.0)


# -- transport


def test_transport_holds_its_locality_until_closed() -> None:
    bench = Bench()
    asked: list[int] = []
    with TisTransport(
        bench, bench.clock, duration_s=lambda ordinal: asked.append(ordinal) or 2.0, locality=2
    ) as transport:
        assert transport.probe().vendor == 0x1014
        for _ in range(2):
            assert transport.execute(COMMAND) == RESPONSE
        assert bench.chip.core.active_locality == 2
        transport.set_locality(1)
        transport.execute(COMMAND)
    assert bench.commands == [(COMMAND, 2), (COMMAND, 2), (COMMAND, 1)]
    assert asked == [0x46] * 3
    assert bench.chip.core.active_locality is None
    assert bench.bus[-1][0] == "close"
    transport.close()
    with pytest.raises(UsageError, match="closed"):
        transport.execute(COMMAND)


def test_transport_regains_a_locality_that_was_seized() -> None:
    bench = Bench()
    transport = TisTransport(bench, bench.clock, duration_s=lambda _: 2.0)
    transport.execute(COMMAND)
    thief = TisHost()
    bench.run(thief.seize(4))
    bench.run(thief.release_locality())
    with pytest.raises(ProtocolError, match="taken away"):
        transport.execute(COMMAND)
    assert transport.execute(COMMAND) == RESPONSE


def test_transport_cancels_from_outside() -> None:
    bench = Bench(busy(None))
    transport = TisTransport(bench, bench.clock, duration_s=lambda _: 60.0)
    sleep = bench.clock.sleep

    def sleep_and_cancel(duration_s: float) -> None:
        sleep(duration_s)
        transport.cancel()

    bench.clock.sleep = sleep_and_cancel  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        transport.execute(COMMAND)
    assert bench.clock.time_s < 1
