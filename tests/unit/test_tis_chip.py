"""The TIS device core, register access by register access."""

from __future__ import annotations

import pytest

from hwtpm.errors import UsageError
from hwtpm.tis.chip import (
    Cancel,
    Execute,
    HashData,
    HashEnd,
    HashStart,
    ResetEstablishment,
    TisChip,
)
from hwtpm.tis.personality import PC_CLIENT_TPM20, QEMU_TPM12, Personality
from hwtpm.tis.registers import (
    ACCESS,
    DATA_FIFO,
    DID_VID,
    HASH_END,
    HASH_START,
    INT_ENABLE,
    INT_STATUS,
    INT_VECTOR,
    INTERFACE_ID,
    INTF_CAPABILITY,
    RID,
    STS,
    XDATA_FIFO,
    Access,
    Interrupt,
    Register,
    Sts,
)
from hwtpm.tis.states import State

COMMAND = bytes.fromhex("00c1 0000000e 00000046 01020304")
RESPONSE = bytes.fromhex("00c4 0000000c 00000000 abcd")
HELD = 0xA1  # valid, active, not established
FREE = 0x81


def get(chip: TisChip, register: Register, locality: int = 0) -> int:
    return int.from_bytes(chip.read(locality, register.offset, register.size), "little")


def put(chip: TisChip, register: Register, value: int, locality: int = 0) -> None:
    size = register.size if register is not STS else max((value.bit_length() + 7) // 8, 1)
    chip.write(locality, register.offset, value.to_bytes(size, "little"))


def owned(personality: Personality = Personality(), locality: int = 0) -> TisChip:  # noqa: B008
    chip = TisChip(personality)
    put(chip, ACCESS, Access.REQUEST, locality)
    assert get(chip, ACCESS, locality) == HELD
    return chip


def executing(personality: Personality = Personality(), locality: int = 0) -> TisChip:  # noqa: B008
    chip = owned(personality, locality)
    put(chip, STS, Sts.COMMAND_READY, locality)
    chip.write(locality, DATA_FIFO.offset, COMMAND)
    put(chip, STS, Sts.GO, locality)
    assert chip.take_outputs() == [Execute(COMMAND, locality)]
    assert chip.state(locality) is State.EXECUTION
    return chip


def completed(personality: Personality = Personality()) -> TisChip:  # noqa: B008
    chip = executing(personality)
    chip.complete(RESPONSE)
    return chip


def sts(chip: TisChip, locality: int = 0) -> int:
    return get(chip, STS, locality) & 0xFF


def test_identity_registers_read_the_personality_in_every_locality() -> None:
    chip = TisChip(Personality(did_vid=0x001B15D1, rid=0x10, transfer_size=32, burst_static=True))
    for locality in range(5):
        assert get(chip, DID_VID, locality) == 0x001B15D1
        assert get(chip, RID, locality) == 0x10
        assert get(chip, INTF_CAPABILITY, locality) == 0x20000597
        assert get(chip, INTERFACE_ID, locality) == 0xFFFFFFFF


def test_nothing_there_reads_all_ones_and_ignores_writes() -> None:
    chip = TisChip()
    for locality, offset in [(0, 0x04), (0, 0x34), (0, 0xF90), (0, 0x1000), (5, 0), (-1, 0)]:
        chip.write(locality, offset, b"\0\0\0\0")
        assert chip.read(locality, offset, 4) == b"\xff" * 4
    assert chip.read(0, HASH_START.offset, 1) == b"\xff"
    assert chip.take_outputs() == []


def test_inactive_locality_sees_neither_status_nor_fifo() -> None:
    chip = completed()
    assert get(chip, STS, 1) == 0xFFFFFFFF
    assert chip.read(1, DATA_FIFO.offset, 12) == b"\xff" * 12
    put(chip, STS, Sts.COMMAND_READY, 1)
    assert chip.read(0, DATA_FIFO.offset, 12) == RESPONSE


def test_command_goes_through_the_states_of_the_table() -> None:
    chip = owned()
    assert (chip.state(0), sts(chip)) == (State.IDLE, 0)
    put(chip, STS, Sts.COMMAND_READY)
    assert (chip.state(0), sts(chip)) == (State.READY, Sts.COMMAND_READY)
    chip.write(0, DATA_FIFO.offset, COMMAND[:-1])
    assert (chip.state(0), sts(chip)) == (State.RECEPTION, Sts.VALID | Sts.EXPECT)
    put(chip, STS, Sts.GO)
    assert chip.state(0) is State.RECEPTION
    chip.write(0, DATA_FIFO.offset, COMMAND[-1:])
    assert sts(chip) == Sts.VALID
    put(chip, STS, Sts.GO)
    assert chip.pending == Execute(COMMAND, 0)
    chip.complete(RESPONSE)
    assert (chip.state(0), sts(chip)) == (State.COMPLETION, Sts.VALID | Sts.DATA_AVAIL)
    assert chip.read(0, DATA_FIFO.offset, 12) == RESPONSE
    assert sts(chip) == Sts.VALID
    put(chip, STS, Sts.COMMAND_READY)
    assert (chip.state(0), sts(chip)) == (State.IDLE, 0)
    put(chip, STS, Sts.COMMAND_READY)
    assert chip.state(0) is State.READY


def test_fifo_ignores_what_exceeds_the_command() -> None:
    chip = owned()
    put(chip, STS, Sts.COMMAND_READY)
    chip.write(0, DATA_FIFO.offset, COMMAND + b"surplus")
    put(chip, STS, Sts.GO)
    assert chip.take_outputs() == [Execute(COMMAND, 0)]


def test_qemu_hands_over_what_a_wide_write_overshoots() -> None:
    chip = owned(QEMU_TPM12)
    put(chip, STS, Sts.COMMAND_READY)
    chip.write(0, DATA_FIFO.offset, COMMAND[:12])
    chip.write(0, DATA_FIFO.offset, COMMAND[12:] + b"xy")
    put(chip, STS, Sts.GO)
    assert chip.take_outputs() == [Execute(COMMAND + b"xy", 0)]


def test_command_longer_than_the_buffer_stops_at_its_end() -> None:
    chip = owned(Personality(buffer_size=16))
    put(chip, STS, Sts.COMMAND_READY)
    chip.write(0, DATA_FIFO.offset, bytes.fromhex("00c1 00001000") + bytes(100))
    assert sts(chip) == Sts.VALID
    assert Sts.BURST_COUNT.of(get(chip, STS)) == 0
    put(chip, STS, Sts.GO)
    assert len(chip.pending.command) == 16


def test_fifo_write_needs_the_ready_state() -> None:
    chip = owned()
    chip.write(0, DATA_FIFO.offset, COMMAND)
    assert chip.state(0) is State.IDLE
    chip = completed()
    chip.write(0, DATA_FIFO.offset, COMMAND)
    assert chip.read(0, DATA_FIFO.offset, 12) == RESPONSE


def test_both_fifos_are_the_same() -> None:
    chip = owned()
    put(chip, STS, Sts.COMMAND_READY)
    chip.write(0, XDATA_FIFO.offset + 8, COMMAND[:8])
    chip.write(0, DATA_FIFO.offset + 2, COMMAND[8:])
    put(chip, STS, Sts.GO)
    chip.complete(RESPONSE)
    assert chip.read(0, XDATA_FIFO.offset, 4) + chip.read(0, DATA_FIFO.offset, 10) == (
        RESPONSE + b"\xff\xff"
    )


def test_response_retry_starts_the_response_again() -> None:
    chip = completed()
    chip.read(0, DATA_FIFO.offset, 12)
    put(chip, STS, Sts.RETRY)
    assert sts(chip) == Sts.VALID | Sts.DATA_AVAIL
    assert chip.read(0, DATA_FIFO.offset, 12) == RESPONSE


def test_retry_outside_of_completion_is_ignored() -> None:
    chip = executing()
    put(chip, STS, Sts.RETRY)
    assert (chip.state(0), sts(chip)) == (State.EXECUTION, Sts.VALID)


def test_more_than_one_action_in_a_status_write_is_ignored() -> None:
    chip = owned()
    put(chip, STS, Sts.COMMAND_READY | Sts.GO)
    assert chip.state(0) is State.IDLE


def test_dynamic_burst_count_is_what_fits_or_remains() -> None:
    chip = owned(Personality(buffer_size=300))
    put(chip, STS, Sts.COMMAND_READY)
    assert Sts.BURST_COUNT.of(get(chip, STS)) == 300
    chip.write(0, DATA_FIFO.offset, COMMAND[:4])
    assert Sts.BURST_COUNT.of(get(chip, STS)) == 296
    chip.write(0, DATA_FIFO.offset, COMMAND[4:])
    put(chip, STS, Sts.GO)
    chip.complete(RESPONSE)
    chip.read(0, DATA_FIFO.offset, 5)
    assert Sts.BURST_COUNT.of(get(chip, STS)) == 7


def test_burst_count_read_by_bytes_is_not_torn() -> None:
    chip = owned()
    put(chip, STS, Sts.COMMAND_READY)
    assert chip.read(0, STS.offset + 1, 2) == b"\x00\x10"
    assert chip.read(0, STS.offset + 1, 1) + chip.read(0, STS.offset + 2, 1) == b"\xff\x00"


def test_static_burst_count_never_changes() -> None:
    chip = completed(Personality(burst_static=True, burst_limit=32))
    chip.read(0, DATA_FIFO.offset, 12)
    assert Sts.BURST_COUNT.of(get(chip, STS)) == 32


def test_abort_waits_for_the_tpm_and_drops_its_response() -> None:
    chip = executing()
    put(chip, STS, Sts.COMMAND_READY)
    put(chip, STS, Sts.COMMAND_READY)
    assert chip.take_outputs() == [Cancel()]
    assert chip.state(0) is State.EXECUTION
    chip.complete(RESPONSE)
    assert (chip.state(0), sts(chip)) == (State.READY, Sts.COMMAND_READY)
    assert chip.read(0, DATA_FIFO.offset, 12) == b"\xff" * 12


def test_abort_during_reception_forgets_what_came() -> None:
    chip = owned()
    put(chip, STS, Sts.COMMAND_READY)
    chip.write(0, DATA_FIFO.offset, b"\xff" * 9)
    put(chip, STS, Sts.COMMAND_READY)
    assert chip.state(0) is State.READY
    chip.write(0, DATA_FIFO.offset, COMMAND)
    put(chip, STS, Sts.GO)
    assert chip.take_outputs() == [Execute(COMMAND, 0)]


def test_completing_nothing_or_garbage_is_the_shells_mistake() -> None:
    with pytest.raises(UsageError, match="pending"):
        TisChip().complete(RESPONSE)
    chip = executing()
    for bad in (b"", RESPONSE[:9], RESPONSE + b"x", b"\x00\xc4\x00\x00\xff\xff" + bytes(65529)):
        with pytest.raises(UsageError, match="no TPM frame"):
            chip.complete(bad)
    chip.complete(RESPONSE)


def test_second_locality_waits_until_the_first_releases() -> None:
    chip = owned()
    put(chip, ACCESS, Access.REQUEST, 1)
    assert get(chip, ACCESS, 1) == FREE | Access.REQUEST
    assert get(chip, ACCESS, 0) == HELD | Access.PENDING
    put(chip, ACCESS, Access.ACTIVE, 0)
    assert get(chip, ACCESS, 1) == HELD
    assert get(chip, ACCESS, 0) == FREE


def test_highest_waiting_locality_is_next() -> None:
    chip = owned()
    for locality in (1, 3, 2):
        put(chip, ACCESS, Access.REQUEST, locality)
    order = []
    while chip.active_locality is not None:
        put(chip, ACCESS, Access.ACTIVE, chip.active_locality)
        order.append(chip.active_locality)
    assert order == [3, 2, 1, None]


def test_waiting_locality_can_withdraw() -> None:
    chip = owned()
    put(chip, ACCESS, Access.REQUEST, 2)
    put(chip, ACCESS, Access.ACTIVE, 2)
    put(chip, ACCESS, Access.ACTIVE, 0)
    assert chip.active_locality is None


def test_release_during_execution_aborts_before_the_next_owner_gets_access() -> None:
    chip = executing()
    put(chip, ACCESS, Access.ACTIVE)
    assert chip.take_outputs() == [Cancel()]
    put(chip, ACCESS, Access.REQUEST, 1)
    assert chip.active_locality == 0
    chip.complete(RESPONSE)
    assert (chip.active_locality, chip.state(1)) == (1, State.IDLE)
    assert chip.read(1, DATA_FIFO.offset, 12) == b"\xff" * 12


def test_higher_locality_seizes_and_the_loser_learns_it() -> None:
    chip = executing()
    put(chip, ACCESS, Access.SEIZE, 2)
    assert chip.take_outputs() == [Cancel()]
    assert chip.active_locality == 0
    put(chip, STS, Sts.COMMAND_READY)
    put(chip, ACCESS, Access.ACTIVE)
    chip.complete(RESPONSE)
    assert get(chip, ACCESS, 2) == HELD
    assert get(chip, ACCESS, 0) == FREE | Access.BEEN_SEIZED
    put(chip, ACCESS, Access.BEEN_SEIZED)
    assert get(chip, ACCESS, 0) == FREE


def test_lower_or_equal_locality_cannot_seize() -> None:
    chip = owned(locality=2)
    for locality in (0, 1, 2):
        put(chip, ACCESS, Access.SEIZE, locality)
        assert chip.active_locality == 2


def test_higher_seizure_wins_over_a_pending_lower_one() -> None:
    chip = executing()
    put(chip, ACCESS, Access.SEIZE, 1)
    put(chip, ACCESS, Access.SEIZE, 3)
    put(chip, ACCESS, Access.SEIZE, 2)
    chip.complete(RESPONSE)
    assert chip.active_locality == 3


def test_locality_change_forgets_the_command_but_not_on_qemu() -> None:
    for personality, state in [(Personality(), State.IDLE), (QEMU_TPM12, State.COMPLETION)]:
        chip = completed(personality)
        put(chip, ACCESS, Access.SEIZE, 1)
        put(chip, ACCESS, Access.ACTIVE, 1)
        put(chip, ACCESS, Access.REQUEST, 0)
        assert chip.state(0) is state
    assert chip.read(0, DATA_FIFO.offset, 12) == RESPONSE


def test_hash_interface_takes_locality_4_and_measures() -> None:
    chip = TisChip()
    chip.write(4, HASH_START.offset, b"\0")
    chip.write(4, DATA_FIFO.offset, b"measured")
    put(chip, ACCESS, Access.ACTIVE, 4)
    put(chip, STS, Sts.COMMAND_READY, 4)
    assert get(chip, ACCESS, 4) == Access.VALID | Access.ACTIVE
    chip.write(4, HASH_END.offset, b"\0")
    assert chip.take_outputs() == [HashStart(), HashData(b"measured"), HashEnd()]
    assert chip.active_locality is None
    assert get(chip, ACCESS) == Access.VALID


def test_hash_interface_is_locality_4s_alone_and_waits_for_no_one() -> None:
    chip = owned()
    for locality in range(5):
        chip.write(locality, HASH_START.offset, b"\0")
        chip.write(locality, HASH_END.offset, b"\0")
    assert chip.take_outputs() == []
    assert not chip.established


def test_qemu_drops_every_write_of_locality_4() -> None:
    chip = TisChip(QEMU_TPM12)
    chip.write(4, HASH_START.offset, b"\0")
    put(chip, ACCESS, Access.REQUEST, 4)
    assert (chip.take_outputs(), chip.active_locality) == ([], None)


def test_established_and_self_test_flags_are_shown() -> None:
    chip = owned()
    chip.established = chip.self_test_done = True
    assert get(chip, ACCESS) == Access.VALID | Access.ACTIVE
    assert sts(chip) == Sts.SELF_TEST_DONE


def test_tpm20_bits_work_on_a_tpm20_only() -> None:
    for personality, outputs in [
        (Personality(), []),
        (PC_CLIENT_TPM20, [Cancel(), ResetEstablishment(3)]),
    ]:
        chip = executing(personality, locality=3)
        put(chip, STS, Sts.CANCEL, 3)
        put(chip, STS, Sts.RESET_ESTABLISHMENT, 3)
        assert chip.take_outputs() == outputs
        assert Sts.FAMILY.of(get(chip, STS, 3)) == personality.tpm20
        chip.complete(RESPONSE)
        assert chip.state(3) is State.COMPLETION


def test_interface_lock_sticks_until_reset() -> None:
    chip = TisChip(PC_CLIENT_TPM20)
    put(chip, INTERFACE_ID, 1 << 19)
    assert get(chip, INTERFACE_ID, 2) == 0x00082100
    chip.reset()
    assert get(chip, INTERFACE_ID) == 0x00002100


def test_interrupts_follow_enable_and_status() -> None:
    chip = owned()
    put(chip, INT_ENABLE, Interrupt.GLOBAL | Interrupt.COMMAND_READY | Interrupt.DATA_AVAIL)
    put(chip, STS, Sts.COMMAND_READY)
    assert (chip.irq, get(chip, INT_STATUS)) == (True, Interrupt.COMMAND_READY)
    put(chip, INT_STATUS, Interrupt.COMMAND_READY)
    assert not chip.irq
    chip.write(0, DATA_FIFO.offset, COMMAND)
    put(chip, STS, Sts.GO)
    chip.complete(RESPONSE)
    assert get(chip, INT_STATUS) == Interrupt.DATA_AVAIL


def test_interrupts_stay_quiet_unless_enabled_globally() -> None:
    chip = owned()
    put(chip, INT_ENABLE, Interrupt.SOURCES)
    put(chip, STS, Sts.COMMAND_READY)
    assert not chip.irq


def test_interrupt_registers_are_the_owners() -> None:
    chip = owned()
    chip.write(0, INT_ENABLE.offset + 3, b"\x80")
    put(chip, INT_ENABLE, 0xFFFFFFFF, 1)
    put(chip, INT_VECTOR, 0x1B)
    assert get(chip, INT_ENABLE) == 0x80000008
    assert get(chip, INT_ENABLE, 1) == 0x00000008
    assert get(chip, INT_VECTOR) == 0x0B


def test_reset_forgets_a_pending_command_and_all_access() -> None:
    chip = executing()
    chip.reset()
    assert chip.pending is None
    assert [get(chip, ACCESS, locality) for locality in range(5)] == [FREE] * 5


@pytest.mark.parametrize(
    "wrong", [{"burst_limit": 0}, {"buffer_size": 9}, {"buffer_size": 70000}, {"transfer_size": 16}]
)
def test_impossible_personality_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Personality(**wrong)
