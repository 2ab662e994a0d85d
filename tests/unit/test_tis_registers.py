"""The register table: what the specification and QEMU's documented values say about it."""

from __future__ import annotations

import pytest

from hwtpm.tis.personality import PC_CLIENT_TPM12, PC_CLIENT_TPM20
from hwtpm.tis.registers import (
    ACCESS,
    DATA_FIFO,
    DID_VID,
    LOCALITIES,
    REGISTERS,
    RID,
    STS,
    XDATA_FIFO,
    Access,
    DidVid,
    IntfCapability,
    Sts,
    address_of,
    register_at,
    split_address,
)
from hwtpm.tis.states import PC_CLIENT, READY_AFTER_COMPLETION, Event, State


def test_offsets_are_those_of_the_specification() -> None:
    assert {register.name: register.offset for register in REGISTERS} == {
        "ACCESS": 0x00,
        "INT_ENABLE": 0x08,
        "INT_VECTOR": 0x0C,
        "INT_STATUS": 0x10,
        "INTF_CAPABILITY": 0x14,
        "STS": 0x18,
        "HASH_END": 0x20,
        "DATA_FIFO": 0x24,
        "HASH_START": 0x28,
        "INTERFACE_ID": 0x30,
        "XDATA_FIFO": 0x80,
        "DID_VID": 0xF00,
        "RID": 0xF04,
    }


def test_status_and_access_masks_are_those_of_the_specification() -> None:
    assert [
        Sts.VALID,
        Sts.COMMAND_READY,
        Sts.GO,
        Sts.DATA_AVAIL,
        Sts.EXPECT,
        Sts.SELF_TEST_DONE,
        Sts.RETRY,
    ] == [0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02]
    assert (Sts.BURST_COUNT, Sts.CANCEL, Sts.FAMILY) == (0xFFFF00, 1 << 24, 3 << 26)
    assert [Access.VALID, Access.ACTIVE, Access.BEEN_SEIZED, Access.SEIZE] == [
        0x80,
        0x20,
        0x10,
        0x08,
    ]
    assert [Access.PENDING, Access.REQUEST, Access.ESTABLISHMENT] == [4, 2, 1]


def test_every_bit_of_every_register_is_declared_exactly_once() -> None:
    for register in REGISTERS:
        bits = [field.low + i for field in register.fields for i in range(field.width)]
        assert sorted(bits) == list(range(8 * register.size)), register.name


def test_field_extracts_and_places_its_content() -> None:
    assert Sts.BURST_COUNT.of(0x01123480) == 0x1234
    assert Sts.BURST_COUNT.put(0x1234) == 0x123400
    assert Sts.BURST_COUNT.put(0x12345) == 0x234500
    assert DidVid.VENDOR.of(0x001B15D1) == 0x15D1


def test_addresses_select_registers_in_every_locality() -> None:
    assert address_of(STS, 3) == 0x3018
    assert split_address(0x3019) == (3, 0x19)
    assert register_at(0x19) is STS
    assert register_at(0x27) is DATA_FIFO
    assert register_at(0xBF) is XDATA_FIFO
    assert [register_at(offset) for offset in (0x01, 0x34, 0xC0, 0xF05, 0xF90, -1)] == [None] * 6
    assert [register.offset for register in (ACCESS, DID_VID, RID)] == [0, 0xF00, 0xF04]
    assert LOCALITIES == 5


@pytest.mark.parametrize(
    ("personality", "value"), [(PC_CLIENT_TPM12, 0x20000697), (PC_CLIENT_TPM20, 0x30000697)]
)
def test_capability_is_what_real_parts_and_qemu_report(personality: object, value: int) -> None:
    assert personality.capability == value
    assert IntfCapability.TRANSFER_SIZE.of(value) == 3


@pytest.mark.parametrize("table", [PC_CLIENT, READY_AFTER_COMPLETION])
def test_state_table_is_total_and_every_state_is_reachable_and_left(table: object) -> None:
    assert set(table) == set(State)
    assert all(set(row) == set(Event) for row in table.values())
    reached = {State.IDLE}
    while more := {new for state in reached for new in table[state].values()} - reached:
        reached |= more
    assert reached == set(State)


def test_only_go_starts_execution_and_only_the_tpm_ends_it() -> None:
    into = {(s, e) for s in State for e in Event if PC_CLIENT[s][e] is State.EXECUTION}
    assert {(s, e) for s, e in into if s is not State.EXECUTION} == {(State.RECEPTION, Event.GO)}
    left = {e for e in Event if PC_CLIENT[State.EXECUTION][e] is not State.EXECUTION}
    assert left == {Event.RESPONSE, Event.ABORTED}
