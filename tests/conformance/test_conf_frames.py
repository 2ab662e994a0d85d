"""What all commands have in common: header, size, tag, trailing bytes (Part 3 section 2; Part 1
section 8 for the order of checks)."""

from __future__ import annotations

import struct

import pytest
from conformance_rig import Device
from differences import LACKING
from samples import SAMPLES, frame, sample_frame, tails

from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE, Command

LYING_SIZES = (0, 9, 10, 11, 4096, 4097, 0x7FFFFFFF, 0xFFFFFFFF)
UNKNOWN = (0x00, 0x01, 0x52, 0x64, 0x82, 0x17A, 0x4000000C, 0xFFFFFFFF)

each_command = pytest.mark.parametrize(
    "row", [TABLE[name] for name in SAMPLES], ids=lambda row: row.name
)


def test_there_is_a_sample_of_every_declared_command() -> None:
    assert set(SAMPLES) == {row.name for row in TABLE if row.request is not None}


@each_command
def test_a_paramsize_that_lies_is_refused(owned: Device, row: Command) -> None:
    before = owned.shelf.save()
    for auths in row.auths:
        whole = sample_frame(row, auths)
        for size in {*LYING_SIZES, len(whole) - 1, len(whole) + 1} - {len(whole)}:
            lying = whole[:2] + size.to_bytes(4, "big") + whole[6:]
            assert owned.rc(lying) == Rc.BAD_PARAM_SIZE, size
    assert owned.shelf.save() == before


@each_command
def test_a_frame_cut_short_is_refused(owned: Device, row: Command) -> None:
    """Cut anywhere, with a paramSize that is right."""
    before = owned.shelf.save()
    for auths in row.auths:
        whole = sample_frame(row, auths)
        for length in range(10, len(whole)):
            short = frame(row.ordinal, whole[10:length], tag=0x00C1 + auths)
            assert owned.rc(short) == Rc.BAD_PARAM_SIZE, length
    assert owned.shelf.save() == before


@each_command
def test_trailing_bytes_are_refused(owned: Device, row: Command) -> None:
    before = owned.shelf.save()
    for auths in row.auths:
        body = sample_frame(row, auths)[10:]
        for rest in (b"\0", b"\xff" * 4, bytes(44)):
            longer = frame(row.ordinal, body + rest, tag=0x00C1 + auths)
            assert owned.rc(longer) == Rc.BAD_PARAM_SIZE, rest
    assert owned.shelf.save() == before


@each_command
def test_tags_that_do_not_belong_to_the_command_are_refused(owned: Device, row: Command) -> None:
    body = SAMPLES[row.name].encode()
    for auths in {0, 1, 2} - row.auths:
        wrong = frame(row.ordinal, body + tails(auths), tag=0x00C1 + auths)
        assert owned.rc(wrong) == Rc.BADTAG, auths
    for tag in (0x00C0, 0x00C4, 0x00C5, 0x8001, 0x0000, 0xFFFF):
        assert owned.rc(frame(row.ordinal, body, tag=tag)) == Rc.BADTAG, tag


@pytest.mark.parametrize("ordinal", UNKNOWN)
def test_unknown_and_deleted_ordinals_are_refused(owned: Device, ordinal: int) -> None:
    assert owned.rc(frame(ordinal)) == Rc.BAD_ORDINAL
    assert owned.rc(frame(ordinal, bytes(100))) == Rc.BAD_ORDINAL


@pytest.mark.parametrize("name", sorted(LACKING))
def test_an_engine_says_which_commands_it_lacks(owned: Device, name: str) -> None:
    """Without sessions: libtpms gives a refused ordinal the tag of a success with sessions."""
    lacks = owned.rc(frame(TABLE[name].ordinal)) == Rc.BAD_ORDINAL
    assert lacks == (owned.engine != "engine")


def test_init_is_no_command_that_can_be_sent(owned: Device) -> None:
    """3.1: TPM_Init is a signal of the platform."""
    assert owned.rc(frame(0x97)) == Rc.BAD_ORDINAL


@pytest.mark.parametrize("length", range(10))
def test_a_frame_without_a_whole_header_is_refused(owned: Device, length: int) -> None:
    assert owned.rc(frame(0x50)[:length]) == Rc.BAD_PARAM_SIZE


def test_the_largest_frame_is_taken_and_a_larger_one_refused(owned: Device) -> None:
    """TPM_CAP_PROP_INPUT_BUFFER is 4096."""
    data = bytes(4032)
    whole = frame(0xA1, struct.pack(">I", len(data)) + data)
    assert owned.rc(frame(0xA0)) == Rc.SUCCESS
    assert owned.rc(whole) == Rc.SUCCESS
    assert owned.rc(frame(0xA1, struct.pack(">I", 4096) + bytes(4096))) == Rc.BAD_PARAM_SIZE


@pytest.mark.parametrize("locality", [-1, 5, 255, 2**31])
def test_a_locality_that_does_not_exist_is_refused(owned: Device, locality: int) -> None:
    assert owned.rc(frame(0x50), locality) == Rc.BAD_LOCALITY
