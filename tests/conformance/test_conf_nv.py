"""Non-volatile storage (Part 3 section 20): areas, who may use them, when they are locked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conformance_rig import OWNER, USAGE, WRONG, ZEROS, Device

from hwtpm.client import nv, pcr, seal
from hwtpm.client.nv import unrestricted
from hwtpm.secret import WELL_KNOWN
from hwtpm.tpm12.commands.nv import (
    NvDefineSpace,
    NvReadValue,
    NvReadValueAuth,
    NvWriteValue,
    NvWriteValueAuth,
)
from hwtpm.tpm12.commands.optin import PhysicalEnable
from hwtpm.tpm12.commands.ownership import OwnerClear
from hwtpm.tpm12.const import NvPermission as P
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import NvAttributes, NvDataPublic, PcrInfoShort, PcrSelection

INDEX = 0x1234
LOCK = 0xFFFFFFFF
DIR = 0x10000001
DATA = b"ABCDEFGH"
OWNED_RW = P.OWNERREAD | P.OWNERWRITE
AUTH_RW = P.AUTHREAD | P.AUTHWRITE


def public(permissions: int, size: int = 8, index: int = INDEX) -> NvDataPublic:
    everybody = unrestricted()
    attributes = NvAttributes(permissions)
    return NvDataPublic(index, everybody, everybody, attributes, False, False, False, size)


def define(device: Device, permissions: int, size: int = 8, index: int = INDEX) -> int:
    """TPM_NV_DefineSpace by the owner, with USAGE as the area's secret."""
    with device.osap_owner() as session:
        area = public(permissions, size, index)
        return device.refusal_in(NvDefineSpace(area, session.encrypt_auth(USAGE)), session)


@pytest.fixture
def locked(owned: Device) -> Device:
    """Owned, with the NV protections on and no area of ours."""
    if owned.refusal(NvReadValue(INDEX, 0, 1)) != Rc.BADINDEX:
        assert define(owned, OWNED_RW, 0) == Rc.SUCCESS
    nv.lock(owned.client)
    owned.assert_presence()
    owned.withdraw_presence()
    return owned


# --- before the lock ---------------------------------------------------------------------------


def test_nobody_proves_to_be_the_owner_that_there_is_not(new: Device) -> None:
    """20.2 and 20.4 action 4.b, for commands that do without an owner."""
    assert new.refusal(NvReadValue(DIR, 0, 4), WRONG) == Rc.AUTHFAIL
    assert new.refusal(NvWriteValue(DIR, 0, ZEROS), WRONG) == Rc.AUTHFAIL


@pytest.mark.alters
def test_before_the_lock_everybody_does_everything(new: Device) -> None:
    assert new.refusal(NvDefineSpace(public(P.PPWRITE), ZEROS)) == Rc.SUCCESS
    assert new.refusal(NvWriteValue(INDEX, 0, DATA)) == Rc.SUCCESS
    assert new.run(NvReadValue(INDEX, 2, 3)).data == DATA[2:5]
    assert nv.indices(new.client) == (INDEX,)
    new.restart()
    assert new.run(NvReadValue(INDEX, 0, 8)).data == DATA
    nv.lock(new.client)
    assert new.refusal(NvWriteValue(INDEX, 0, DATA)) == Rc.BAD_PRESENCE
    assert new.refusal(NvDefineSpace(public(P.PPWRITE, 9), ZEROS)) == Rc.BAD_PRESENCE
    assert new.refusal(NvDefineSpace(public(P.PPWRITE, 8, 0x10001234), ZEROS)) == Rc.BADINDEX
    assert new.run(NvReadValue(INDEX, 0, 8)).data == DATA


@pytest.mark.alters
def test_a_fresh_area_is_all_ones_and_redefining_starts_over(new: Device) -> None:
    define_ = NvDefineSpace(public(P.PPWRITE), ZEROS)
    new.run(define_)
    assert new.run(NvReadValue(INDEX, 0, 8)).data == b"\xff" * 8
    new.run(NvWriteValue(INDEX, 0, DATA))
    new.run(define_)
    assert new.run(NvReadValue(INDEX, 0, 8)).data == b"\xff" * 8
    new.run(NvDefineSpace(public(P.PPWRITE, 0), ZEROS))
    assert new.refusal(NvReadValue(INDEX, 0, 1)) == Rc.BADINDEX
    assert nv.indices(new.client) == ()


@pytest.mark.alters
def test_writes_without_an_owner_are_numbered(new: Device) -> None:
    """Part 2 7.4: TPM_MAX_NV_WRITE_NOOWNER is 64; defining counts as well."""
    new.run(NvDefineSpace(public(P.PPWRITE), ZEROS))
    answers = [new.refusal(NvWriteValue(INDEX, 0, DATA)) for _ in range(64)]
    last = new.expected("65th write without an owner", Rc.MAXNVWRITES)
    assert answers == [Rc.SUCCESS] * 63 + [last]


# --- defining, locked --------------------------------------------------------------------------


def test_the_owner_defines_and_deletes(locked: Device) -> None:
    assert define(locked, OWNED_RW) == Rc.SUCCESS
    area = nv.area(locked.client, INDEX)
    assert (area.size, area.permissions) == (8, OWNED_RW)
    assert define(locked, OWNED_RW, 0) == Rc.SUCCESS
    assert INDEX not in nv.indices(locked.client)


def test_only_the_owner_defines(locked: Device) -> None:
    request = NvDefineSpace(public(OWNED_RW), ZEROS)
    assert locked.refusal(request) == Rc.BAD_PRESENCE
    locked.assert_presence()
    assert locked.refusal(request) == Rc.OWNER_SET
    locked.withdraw_presence()
    with locked.osap_owner(WRONG) as session:
        assert locked.refusal_in(request, session) == Rc.AUTHFAIL


REFUSED = {
    "owner and area secret to write": (public(P.OWNERWRITE | P.AUTHWRITE), Rc.AUTH_CONFLICT),
    "owner and area secret to read": (
        public(P.OWNERWRITE | P.OWNERREAD | P.AUTHREAD),
        Rc.AUTH_CONFLICT,
    ),
    "no protection against writing": (public(P.OWNERREAD), Rc.PER_NOWRITE),
    "index 0": (public(OWNED_RW, index=0), Rc.BADINDEX),
    "the DIR": (public(OWNED_RW, index=DIR), Rc.BADINDEX),
    "manufacturer's": (public(OWNED_RW, index=0x10001234), Rc.BADINDEX),
    "no size": (public(OWNED_RW, 0), Rc.BAD_PARAM_SIZE),
    "no locality": (
        replace(public(OWNED_RW), pcr_info_read=PcrInfoShort(PcrSelection.of(()), 0, bytes(20))),
        Rc.INVALID_STRUCTURE,
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_areas_that_cannot_be_defined(locked: Device, what: str) -> None:
    area, rc = REFUSED[what]
    with locked.osap_owner() as session:
        request = NvDefineSpace(area, session.encrypt_auth(USAGE))
        assert locked.refusal_in(request, session) == rc


def test_an_area_larger_than_what_is_left(locked: Device) -> None:
    assert define(locked, OWNED_RW, 0x00100000) == locked.expected("NV area of 1 MiB", Rc.NOSPACE)


# --- reading and writing, locked ---------------------------------------------------------------


def test_an_owner_area_is_for_the_owner(locked: Device) -> None:
    define(locked, OWNED_RW)
    write, read = NvWriteValue(INDEX, 0, DATA), NvReadValue(INDEX, 0, 8)
    assert locked.refusal(write, OWNER) == Rc.SUCCESS
    assert locked.run(read, OWNER).data == DATA
    assert locked.refusal(write) == Rc.AUTH_CONFLICT
    assert locked.refusal(read) == Rc.AUTH_CONFLICT
    assert locked.refusal(write, WRONG) == Rc.AUTHFAIL
    assert locked.refusal(read, WRONG) == Rc.AUTHFAIL
    assert locked.refusal(NvWriteValueAuth(INDEX, 0, DATA), USAGE) == Rc.AUTH_CONFLICT
    assert locked.refusal(NvReadValueAuth(INDEX, 0, 8), USAGE) == Rc.AUTH_CONFLICT


def test_an_area_with_its_own_secret(locked: Device) -> None:
    define(locked, AUTH_RW)
    write, read = NvWriteValueAuth(INDEX, 0, DATA), NvReadValueAuth(INDEX, 0, 8)
    assert locked.refusal(write, USAGE) == Rc.SUCCESS
    assert locked.run(read, USAGE).data == DATA
    assert locked.refusal(write, WRONG) == Rc.AUTHFAIL
    assert locked.refusal(read, WRONG) == Rc.AUTHFAIL
    assert locked.refusal(NvWriteValue(INDEX, 0, DATA), OWNER) == Rc.AUTH_CONFLICT
    assert locked.refusal(NvReadValue(INDEX, 0, 8), OWNER) == Rc.AUTH_CONFLICT
    assert locked.refusal(NvReadValue(INDEX, 0, 8)) == Rc.AUTH_CONFLICT


def test_presence_is_what_it_takes(locked: Device) -> None:
    define(locked, P.PPWRITE | P.PPREAD)
    write, read = NvWriteValue(INDEX, 0, DATA), NvReadValue(INDEX, 0, 8)
    assert locked.refusal(write) == Rc.BAD_PRESENCE
    assert locked.refusal(read) == Rc.BAD_PRESENCE
    locked.assert_presence()
    assert locked.refusal(write) == Rc.SUCCESS
    assert locked.run(read).data == DATA
    locked.withdraw_presence()


def test_localities_and_pcrs_are_what_it_takes(locked: Device) -> None:
    locked.reset_pcr16()
    policy = seal.pcr_policy({16: locked.pcr(16)})
    info = PcrInfoShort(PcrSelection.of([16]), 0b00100, policy.digest_at_release)
    area = replace(public(OWNED_RW), pcr_info_read=info, pcr_info_write=info)
    with locked.osap_owner() as session:
        locked.client.execute(NvDefineSpace(area, session.encrypt_auth(WELL_KNOWN)), session)
    write, read = NvWriteValue(INDEX, 0, DATA), NvReadValue(INDEX, 0, 8)
    assert locked.refusal(write, OWNER) == Rc.BAD_LOCALITY
    assert locked.refusal(read, OWNER) == Rc.BAD_LOCALITY
    assert locked.refusal(write, OWNER, locality=2) == Rc.SUCCESS
    assert locked.refusal(read, OWNER, locality=2) == Rc.SUCCESS
    pcr.extend(locked.client, 16, ZEROS)
    assert locked.refusal(write, OWNER, locality=2) == Rc.WRONGPCRVAL
    assert locked.refusal(read, OWNER, locality=2) == Rc.WRONGPCRVAL


@pytest.mark.parametrize(("offset", "size"), [(0, 9), (8, 1), (7, 2), (1, 8), (0x7FFFFFFF, 1)])
def test_nothing_beyond_the_end(locked: Device, offset: int, size: int) -> None:
    define(locked, OWNED_RW)
    assert locked.refusal(NvWriteValue(INDEX, offset, bytes(size)), OWNER) == Rc.NOSPACE
    assert locked.refusal(NvReadValue(INDEX, offset, size), OWNER) == Rc.NOSPACE
    assert locked.run(NvReadValue(INDEX, 0, 8), OWNER).data == b"\xff" * 8


@pytest.mark.crashes("libtpms", "swtpm", why="0.9.2 adds offset and size in 32 bits: SIGSEGV")
def test_an_end_that_does_not_fit_32_bits_is_beyond_the_end(locked: Device) -> None:
    define(locked, OWNED_RW)
    assert locked.refusal(NvWriteValue(INDEX, 0xFFFFFFFF, b"x"), OWNER) == Rc.NOSPACE
    assert locked.refusal(NvReadValue(INDEX, 0xFFFFFFFF, 1), OWNER) == Rc.NOSPACE


def test_writing_in_part_and_as_a_whole(locked: Device) -> None:
    define(locked, OWNED_RW)
    locked.run(NvWriteValue(INDEX, 3, b"xy"), OWNER)
    assert locked.run(NvReadValue(INDEX, 0, 8), OWNER).data == b"\xff\xff\xffxy\xff\xff\xff"
    define(locked, OWNED_RW | P.WRITEALL)
    assert locked.refusal(NvWriteValue(INDEX, 0, DATA[:7]), OWNER) == Rc.NOT_FULLWRITE
    assert locked.refusal(NvWriteValue(INDEX, 0, DATA), OWNER) == Rc.SUCCESS


def test_an_area_that_is_not_there(locked: Device) -> None:
    index = 0x4321
    assert locked.refusal(NvWriteValue(index, 0, DATA), OWNER) == Rc.BADINDEX
    assert locked.refusal(NvReadValue(index, 0, 8), OWNER) == Rc.BADINDEX
    assert locked.refusal(NvWriteValueAuth(index, 0, DATA), USAGE) == Rc.BADINDEX
    assert locked.refusal(NvReadValueAuth(index, 0, 8), USAGE) == Rc.BADINDEX
    assert locked.refusal(NvReadValue(LOCK, 0, 8), OWNER) == Rc.BADINDEX


# --- locks of an area --------------------------------------------------------------------------


def test_write_stclear_locks_until_the_next_start(locked: Device) -> None:
    define(locked, OWNED_RW | P.WRITE_STCLEAR)
    write = NvWriteValue(INDEX, 0, DATA)
    assert locked.refusal(write, OWNER) == Rc.SUCCESS
    assert locked.refusal(NvWriteValue(INDEX, 0, b""), OWNER) == Rc.SUCCESS
    assert locked.refusal(write, OWNER) == Rc.AREA_LOCKED
    locked.restart()
    assert locked.refusal(write, OWNER) == Rc.SUCCESS


def test_read_stclear_locks_until_the_next_start(locked: Device) -> None:
    define(locked, OWNED_RW | P.READ_STCLEAR)
    read = NvReadValue(INDEX, 0, 8)
    assert locked.refusal(read, OWNER) == Rc.SUCCESS
    assert locked.run(NvReadValue(INDEX, 0, 0), OWNER).data == b""
    assert locked.refusal(read, OWNER) == Rc.DISABLED_CMD
    locked.restart()
    assert locked.refusal(read, OWNER) == Rc.SUCCESS


def test_write_define_locks_for_good(locked: Device) -> None:
    define(locked, OWNED_RW | P.WRITEDEFINE)
    write = NvWriteValue(INDEX, 0, DATA)
    assert locked.refusal(write, OWNER) == Rc.SUCCESS
    assert locked.refusal(NvWriteValue(INDEX, 0, b""), OWNER) == Rc.SUCCESS
    assert locked.refusal(write, OWNER) == Rc.AREA_LOCKED
    locked.restart()
    assert locked.refusal(write, OWNER) == Rc.AREA_LOCKED
    assert locked.run(NvReadValue(INDEX, 0, 8), OWNER).data == DATA


def test_the_global_lock_holds_until_the_next_start(locked: Device) -> None:
    define(locked, OWNED_RW | P.GLOBALLOCK)
    write = NvWriteValue(INDEX, 0, DATA)
    assert locked.refusal(write, OWNER) == Rc.SUCCESS
    assert locked.refusal(NvWriteValue(0, 0, b"")) == Rc.SUCCESS
    assert locked.refusal(write, OWNER) == Rc.AREA_LOCKED
    locked.restart()
    assert locked.refusal(write, OWNER) == Rc.SUCCESS


@pytest.mark.alters
def test_clearing_loses_the_owners_areas_and_keeps_the_others(locked: Device) -> None:
    """6.2 action 10."""
    define(locked, OWNED_RW)
    define(locked, P.PPWRITE, index=INDEX + 1)
    locked.run(OwnerClear(), OWNER)
    locked.assert_presence()
    locked.run(PhysicalEnable())
    assert nv.indices(locked.client) == (INDEX + 1,)
