"""Arbitrary register traffic on the device core: it never raises and arbitration holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hwtpm.tis.chip import Execute, TisChip
from hwtpm.tis.personality import PC_CLIENT_TPM12, PC_CLIENT_TPM20, QEMU_TPM12, Personality
from hwtpm.tis.registers import ACCESS, DATA_FIFO, LOCALITIES, REGISTERS, STS, Access, Sts
from hwtpm.tis.states import State
from hwtpm.tis_lpc_sim import LpcWindow

ANSWER = bytes.fromhex("00c4 0000000a 00000000")
COMMAND = bytes.fromhex("00c1 0000000c 00000099 0001")

known = st.sampled_from([register.offset for register in REGISTERS])
offsets = known | st.integers(0, 0xFFF)
localities = st.integers(0, LOCALITIES - 1)


class Traffic(RuleBasedStateMachine):
    """One guest with five localities that writes anything anywhere, and a TPM that answers late."""

    personality: Personality = PC_CLIENT_TPM12

    def __init__(self) -> None:
        super().__init__()
        self.chip = TisChip(self.personality)
        self.window = LpcWindow(self.chip)

    @rule(locality=localities, offset=offsets, data=st.binary(max_size=70))
    def write(self, locality: int, offset: int, data: bytes) -> None:
        self.chip.write(locality, offset, data)

    @rule(locality=localities, offset=offsets, size=st.integers(0, 64))
    def read(self, locality: int, offset: int, size: int) -> None:
        assert len(self.chip.read(locality, offset, size)) == size

    @rule(address=st.integers(0xFED3FFF0, 0xFED45010), size=st.sampled_from([1, 2, 4]))
    def load(self, address: int, size: int) -> None:
        assert 0 <= self.window.read(address, size) < 1 << 8 * size

    @rule(
        address=st.integers(0xFED3FFF0, 0xFED45010),
        size=st.sampled_from([1, 2, 4]),
        value=st.integers(0, 0xFFFFFFFF),
    )
    def store(self, address: int, size: int, value: int) -> None:
        self.window.write(address, value, size)

    @rule(locality=localities, bits=st.integers(0, 0xFF))
    def write_access(self, locality: int, bits: int) -> None:
        self.chip.write(locality, ACCESS.offset, bytes([bits]))

    @rule(locality=localities)
    def start_command(self, locality: int) -> None:
        for _ in range(2):
            self.chip.write(locality, STS.offset, bytes([Sts.COMMAND_READY]))
        self.chip.write(locality, DATA_FIFO.offset, COMMAND)
        self.chip.write(locality, STS.offset, bytes([Sts.GO]))

    @rule()
    def answer(self) -> None:
        if self.chip.pending is not None:
            self.chip.complete(ANSWER)

    @invariant()
    def access_register_tells_the_one_owner(self) -> None:
        access = [self.chip.read(n, ACCESS.offset, 1)[0] for n in range(LOCALITIES)]
        owners = [n for n, value in enumerate(access) if value & Access.ACTIVE]
        assert owners == ([] if self.chip.active_locality is None else [self.chip.active_locality])
        requests = {n for n, value in enumerate(access) if value & Access.REQUEST}
        for n, value in enumerate(access):
            assert bool(value & Access.PENDING) == bool(requests - {n})
        assert all(value & Access.VALID and not value & Access.SEIZE for value in access)

    @invariant()
    def nobody_waits_for_a_free_tpm(self) -> None:
        requested = [
            self.chip.read(n, ACCESS.offset, 1)[0] & Access.REQUEST for n in range(LOCALITIES)
        ]
        if self.chip.active_locality is None and self.chip.pending is None:
            assert not any(requested)

    @invariant()
    def one_pending_command_at_most_and_only_while_executing(self) -> None:
        executing = [n for n in range(LOCALITIES) if self.chip.state(n) is State.EXECUTION]
        assert executing == ([self.chip.pending.locality] if self.chip.pending else [])

    @invariant()
    def each_command_is_handed_over_once(self) -> None:
        executes = [o for o in self.chip.take_outputs() if isinstance(o, Execute)]
        assert len(executes) <= 1

    @invariant()
    def status_belongs_to_the_owner(self) -> None:
        for n in range(LOCALITIES):
            owner = n == self.chip.active_locality
            assert (self.chip.read(n, STS.offset, 4) != b"\xff" * 4) == owner

    def teardown(self) -> None:
        """Whatever happened, locality 0's request is served once all the others let go."""
        self.answer()
        self.chip.write(4, 0x020, b"\0")
        for n in range(LOCALITIES - 1, -1, -1):
            self.chip.write(n, ACCESS.offset, bytes([Access.ACTIVE]))
            self.chip.write(n, ACCESS.offset, bytes([Access.ACTIVE]))
        if self.chip.active_locality is None:
            self.chip.write(0, ACCESS.offset, bytes([Access.REQUEST]))
            assert self.chip.active_locality == 0


@pytest.mark.parametrize("personality", [PC_CLIENT_TPM12, PC_CLIENT_TPM20, QEMU_TPM12])
def test_any_traffic_keeps_the_invariants(personality: Personality) -> None:
    machine = type("PersonalTraffic", (Traffic,), {"personality": personality})
    machine.TestCase("runTest").runTest()


@given(st.permutations(range(LOCALITIES)), st.data())
def test_access_goes_to_the_highest_that_asks(order: list[int], data: st.DataObject) -> None:
    chip = TisChip()
    chip.write(order[0], ACCESS.offset, bytes([Access.REQUEST]))
    waiting = set(data.draw(st.sets(st.sampled_from(order[1:]))))
    for n in order[1:]:
        if n in waiting:
            chip.write(n, ACCESS.offset, bytes([Access.REQUEST]))
    assert chip.active_locality == order[0]
    while waiting:
        chip.write(chip.active_locality, ACCESS.offset, bytes([Access.ACTIVE]))
        assert chip.active_locality == max(waiting)
        waiting.remove(chip.active_locality)


@given(localities, localities, st.booleans())
def test_seizing_needs_a_higher_locality(owner: int, taker: int, executing: bool) -> None:
    chip = TisChip()
    chip.write(owner, ACCESS.offset, bytes([Access.REQUEST]))
    if executing:
        chip.write(owner, STS.offset, bytes([Sts.COMMAND_READY]))
        chip.write(owner, DATA_FIFO.offset, COMMAND)
        chip.write(owner, STS.offset, bytes([Sts.GO]))
    chip.write(taker, ACCESS.offset, bytes([Access.SEIZE]))
    if executing:
        chip.complete(ANSWER)
    assert chip.active_locality == max(owner, taker)
    seized = bool(chip.read(owner, ACCESS.offset, 1)[0] & Access.BEEN_SEIZED)
    assert seized == (taker > owner)
