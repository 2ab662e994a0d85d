"""Every attribute of NV areas, alone and in pairs, against the rules of Part 3 section 20."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from conformance_rig import ONES, OWNER, USAGE, WRONG, ZEROS, Device

from hwtpm.client import nv
from hwtpm.client.nv import unrestricted
from hwtpm.tpm12.commands.deprecated import DirWriteAuth
from hwtpm.tpm12.commands.nv import (
    NvDefineSpace,
    NvReadValue,
    NvReadValueAuth,
    NvWriteValue,
    NvWriteValueAuth,
)
from hwtpm.tpm12.commands.optin import PhysicalDisable, PhysicalEnable
from hwtpm.tpm12.commands.startup import SaveState
from hwtpm.tpm12.const import NvPermission as P
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import NvAttributes, NvDataPublic, PcrInfoShort, PcrSelection

INDEX, LOCK, DIR, TRIAL, GPIO = 0x2345, 0xFFFFFFFF, 0x10000001, 0x0000F004, 0x00011600
DATA = b"ABCDEFGH"
ALONE_AND_PAIRS = [sum(pair) for n in (0, 1, 2) for pair in combinations(P, n)]
WRITE_PROTECTIONS = P.OWNERWRITE | P.AUTHWRITE | P.WRITEDEFINE | P.PPWRITE


def public(permissions: int, size: int = 8, index: int = INDEX, **infos: Any) -> NvDataPublic:
    area = NvDataPublic(
        index,
        unrestricted(),
        unrestricted(),
        NvAttributes(permissions),
        read_st_clear=False,
        write_st_clear=False,
        write_define=False,
        data_size=size,
    )
    return replace(area, **infos)


def define(device: Device, area: NvDataPublic) -> int:
    """TPM_NV_DefineSpace by the owner, with USAGE as the area's secret."""
    with device.osap_owner() as session:
        return device.refusal_in(NvDefineSpace(area, session.encrypt_auth(USAGE)), session)


def forget(device: Device, index: int = INDEX) -> None:
    assert define(device, public(P.OWNERWRITE, 0, index)) == Rc.SUCCESS


def attempts(
    device: Device, data: bytes, index: int = INDEX, locality: int = 0
) -> dict[str, tuple[int, int]]:
    """Return codes of writing and reading without authorisation, by the owner, by the secret."""
    commands = {
        "nobody": (NvWriteValue(index, 0, data), NvReadValue(index, 0, len(data)), ()),
        "owner": (NvWriteValue(index, 0, data), NvReadValue(index, 0, len(data)), (OWNER,)),
        "secret": (
            NvWriteValueAuth(index, 0, data),
            NvReadValueAuth(index, 0, len(data)),
            (USAGE,),
        ),
    }
    return {
        who: (
            device.refusal(write, *secrets, locality=locality),
            device.refusal(read, *secrets, locality=locality),
        )
        for who, (write, read, secrets) in commands.items()
    }


def ruling(who: str, has: int, owner: P, auth: P, presence: P, present: bool) -> Rc:
    """What 20.2 to 20.5 say on who may write or read an area with these attributes."""
    wants = {"nobody": 0, "owner": owner, "secret": auth}[who]
    if has & (owner | auth) != wants:
        return Rc.AUTH_CONFLICT
    return Rc.BAD_PRESENCE if has & presence and not present else Rc.SUCCESS


def expected(has: int, present: bool) -> dict[str, tuple[int, int]]:
    return {
        who: (
            ruling(who, has, P.OWNERWRITE, P.AUTHWRITE, P.PPWRITE, present),
            ruling(who, has, P.OWNERREAD, P.AUTHREAD, P.PPREAD, present),
        )
        for who in ("nobody", "owner", "secret")
    }


def definable(has: int) -> Rc:
    """20.1 action 9."""
    for conflict in (P.OWNERWRITE | P.AUTHWRITE, P.OWNERREAD | P.AUTHREAD):
        if has & conflict == conflict:
            return Rc.AUTH_CONFLICT
    return Rc.SUCCESS if has & WRITE_PROTECTIONS else Rc.PER_NOWRITE


@pytest.fixture
def locked(owned: Device) -> Iterator[Device]:
    """Owned, with the NV protections on and physical presence off."""
    nv.lock(owned.client)
    owned.assert_presence()
    owned.withdraw_presence()
    yield owned
    owned.restart()


def test_who_may_do_what_by_the_attributes(locked: Device) -> None:
    for has in ALONE_AND_PAIRS:
        assert define(locked, public(has)) == definable(has), P(has)
        if definable(has) != Rc.SUCCESS:
            continue
        assert attempts(locked, DATA) == expected(has, present=False), P(has)
        locked.assert_presence()
        assert attempts(locked, DATA) == expected(has, present=True), P(has)
        locked.withdraw_presence()
        forget(locked)


@pytest.mark.alters
def test_before_the_lock_only_the_areas_secret_is_not_ignored(new: Device) -> None:
    """20.2 action 1.b, 20.4 action 1.b."""
    for has in (P.PPWRITE, P.OWNERWRITE | P.OWNERREAD, P.WRITEDEFINE | P.PPREAD):
        new.run(NvDefineSpace(public(has), ZEROS))
        assert new.refusal(NvWriteValue(INDEX, 0, DATA)) == Rc.SUCCESS
        assert new.refusal(NvWriteValue(INDEX, 0, b"")) == Rc.SUCCESS
        assert new.refusal(NvWriteValue(INDEX, 0, DATA)) == Rc.SUCCESS
        assert new.run(NvReadValue(INDEX, 0, 8)).data == DATA
    new.run(NvDefineSpace(public(P.AUTHWRITE | P.AUTHREAD), ZEROS))
    assert new.refusal(NvWriteValue(INDEX, 0, DATA)) == Rc.AUTH_CONFLICT
    assert new.refusal(NvReadValue(INDEX, 0, 8)) == Rc.AUTH_CONFLICT


# --- locks -------------------------------------------------------------------------------------

LOCKS = [P.WRITEDEFINE, P.WRITE_STCLEAR]


@pytest.mark.parametrize("owner", [True, False], ids=["owner", "secret"])
@pytest.mark.parametrize("lock", LOCKS)
def test_a_write_of_nothing_locks(locked: Device, lock: P, owner: bool) -> None:
    base = P.OWNERWRITE | P.OWNERREAD if owner else P.AUTHWRITE | P.AUTHREAD
    define(locked, public(base | lock))
    who = "owner" if owner else "secret"
    assert attempts(locked, DATA)[who] == (Rc.SUCCESS, Rc.SUCCESS)
    assert attempts(locked, b"")[who] == (Rc.SUCCESS, Rc.SUCCESS)
    assert attempts(locked, DATA)[who] == (Rc.AREA_LOCKED, Rc.SUCCESS)
    if lock is P.WRITE_STCLEAR:  # 20.1 action 6.c
        assert define(locked, public(base | lock)) == Rc.AREA_LOCKED
        assert define(locked, public(base | lock, 0)) == Rc.AREA_LOCKED
        locked.restart()
        assert attempts(locked, DATA)[who] == (Rc.SUCCESS, Rc.SUCCESS)
    else:
        assert define(locked, public(base | lock)) == Rc.SUCCESS
        assert attempts(locked, DATA)[who] == (Rc.SUCCESS, Rc.SUCCESS)
    forget(locked)


@pytest.mark.parametrize("owner", [True, False], ids=["owner", "secret"])
def test_a_read_of_nothing_locks_until_a_write(locked: Device, owner: bool) -> None:
    """20.2 action 16, 20.3 action 12: a successful write opens the area for reading."""
    base = P.OWNERWRITE | P.OWNERREAD if owner else P.AUTHWRITE | P.AUTHREAD
    define(locked, public(base | P.READ_STCLEAR))
    secret = OWNER if owner else USAGE
    read: NvReadValue | NvReadValueAuth
    read = NvReadValue(INDEX, 0, 8) if owner else NvReadValueAuth(INDEX, 0, 8)
    none = replace(read, data_size=0)
    write = NvWriteValue(INDEX, 0, DATA) if owner else NvWriteValueAuth(INDEX, 0, DATA)
    assert locked.refusal(none, secret) == Rc.SUCCESS
    assert locked.refusal(read, secret) == Rc.DISABLED_CMD
    assert locked.refusal(none, secret) == Rc.DISABLED_CMD
    assert locked.refusal(write, secret) == Rc.SUCCESS
    assert locked.refusal(read, secret) == Rc.SUCCESS
    forget(locked)


def test_locks_survive_a_resume(locked: Device) -> None:
    """They are STCLEAR flags."""
    define(locked, public(P.OWNERWRITE | P.OWNERREAD | P.WRITE_STCLEAR | P.READ_STCLEAR))
    attempts(locked, b"")
    locked.run(SaveState())
    locked.restart(StartupType.STATE)
    assert attempts(locked, DATA)["owner"] == (Rc.AREA_LOCKED, Rc.DISABLED_CMD)
    locked.restart()
    forget(locked)


def test_the_global_lock_is_anybodys_and_no_area_comes_or_goes(locked: Device) -> None:
    global_lock = P.OWNERWRITE | P.OWNERREAD | P.GLOBALLOCK
    define(locked, public(global_lock))
    define(locked, public(P.AUTHWRITE | P.AUTHREAD | P.GLOBALLOCK, index=INDEX + 1))
    assert locked.refusal(NvWriteValue(0, 0, b"x")) == Rc.BADINDEX
    assert locked.refusal(NvWriteValue(0, 0, b""), WRONG) == Rc.AUTHFAIL
    assert attempts(locked, DATA)["owner"] == (Rc.SUCCESS, Rc.SUCCESS)
    assert locked.refusal(NvWriteValue(0, 0, b""), OWNER) == Rc.SUCCESS
    assert attempts(locked, DATA)["owner"] == (Rc.AREA_LOCKED, Rc.SUCCESS)
    assert attempts(locked, DATA, INDEX + 1)["secret"] == (Rc.AREA_LOCKED, Rc.SUCCESS)
    assert define(locked, public(global_lock)) == Rc.AREA_LOCKED
    assert locked.refusal(NvReadValue(0, 0, 0)) == Rc.BADINDEX
    locked.restart()
    forget(locked)
    forget(locked, INDEX + 1)


# --- localities and PCRs -----------------------------------------------------------------------


@pytest.mark.parametrize("secret", [True, False], ids=["secret", "owner"])
def test_each_locality_counts_on_its_own(locked: Device, secret: bool) -> None:
    base = P.AUTHWRITE | P.AUTHREAD if secret else P.OWNERWRITE | P.OWNERREAD
    infos: dict[str, Any] = {
        name: PcrInfoShort(PcrSelection(bytes(3)), mask, ZEROS)
        for name, mask in (("pcr_info_write", 0b10101), ("pcr_info_read", 0b01010))
    }
    define(locked, public(base, **infos))
    for locality in range(5):
        answers = attempts(locked, DATA, locality=locality)["secret" if secret else "owner"]
        right = Rc.SUCCESS, Rc.BAD_LOCALITY
        assert answers == (right if locality % 2 == 0 else right[::-1]), locality
    forget(locked)


def test_localities_protect_against_writing_as_well(locked: Device) -> None:
    """20.1 action 8.b and 9.d: some locality disallowed is a write protection."""
    info = PcrInfoShort(PcrSelection(bytes(3)), 0b00001, ZEROS)
    rc = locked.expected("NV area that only a locality protects", Rc.SUCCESS)
    assert define(locked, public(0, pcr_info_write=info)) == rc
    if rc == Rc.SUCCESS:
        forget(locked)


@pytest.mark.parametrize(
    ("select", "localities", "rc"),
    [
        (bytes(3), 0x1F, Rc.SUCCESS),
        (bytes(2), 0x1F, Rc.SUCCESS),
        (bytes(3), 0x00, Rc.INVALID_STRUCTURE),
        (bytes(3), 0x20, Rc.INVALID_STRUCTURE),
        (bytes(3), 0x3F, Rc.INVALID_STRUCTURE),
    ],
)
def test_which_pcr_infos_an_area_may_have(
    locked: Device, select: bytes, localities: int, rc: Rc
) -> None:
    info = PcrInfoShort(PcrSelection(select), localities, ONES)
    for area in (
        public(P.OWNERWRITE, pcr_info_read=info),
        public(P.OWNERWRITE, pcr_info_write=info),
    ):
        assert define(locked, area) == rc
    if rc == Rc.SUCCESS:
        forget(locked)


def test_more_pcrs_than_there_are(locked: Device) -> None:
    info = PcrInfoShort(PcrSelection(bytes(4)), 0x1F, ZEROS)
    rc = locked.expected("NV area with 32 PCRs", Rc.INVALID_STRUCTURE)
    assert define(locked, public(P.OWNERWRITE, pcr_info_read=info)) == rc


# --- indices -----------------------------------------------------------------------------------


def test_the_trial_index_is_never_defined(locked: Device) -> None:
    """20.1 action 12."""
    assert define(locked, public(P.OWNERWRITE, index=TRIAL)) == Rc.SUCCESS
    assert define(locked, public(0, index=TRIAL)) == Rc.PER_NOWRITE
    assert TRIAL not in nv.indices(locked.client)


def test_the_gpio_index_is_an_area_like_others(locked: Device) -> None:
    assert define(locked, public(P.OWNERWRITE, 1, GPIO)) == Rc.SUCCESS
    assert locked.refusal(NvWriteValue(GPIO, 0, b"\1"), OWNER) == Rc.SUCCESS
    forget(locked, GPIO)


@pytest.mark.parametrize("index", [0x01001234, 0x08001234, 0x0F000001])
def test_the_reserved_bits_of_an_index_are_zero(locked: Device, index: int) -> None:
    assert define(locked, public(P.OWNERWRITE, index=index)) == Rc.BADINDEX


@pytest.mark.alters
def test_the_manufacturers_areas_come_before_the_lock_and_stay(new: Device) -> None:
    """20.1 action 3; actions 1 and 2: the lock is no area, and set as often as one likes."""
    shipped = public(P.PPWRITE, index=0x1000F000)
    new.run(NvDefineSpace(shipped, ZEROS))
    assert new.refusal(NvDefineSpace(public(P.PPWRITE, index=DIR), ZEROS)) == Rc.BADINDEX
    assert new.refusal(NvDefineSpace(public(P.PPWRITE, index=0), ZEROS)) == Rc.BADINDEX
    lock = NvDefineSpace(public(0, 0, LOCK), ZEROS)
    assert [new.refusal(lock) for _ in range(2)] == [Rc.SUCCESS] * 2
    new.assert_presence()
    assert new.refusal(NvDefineSpace(shipped, ZEROS)) == Rc.BADINDEX
    assert new.refusal(NvDefineSpace(replace(shipped, data_size=0), ZEROS)) == Rc.BADINDEX
    assert nv.indices(new.client) == (0x1000F000,)
    ours = public(P.PPWRITE)
    assert new.refusal(NvDefineSpace(ours, ZEROS)) == Rc.SUCCESS
    # Action 5.c: without an owner nothing is deleted.
    assert new.refusal(NvDefineSpace(replace(ours, data_size=0), ZEROS)) == Rc.BAD_DATASIZE


def test_defining_takes_an_osap_session(locked: Device) -> None:
    assert locked.refusal(NvDefineSpace(public(P.OWNERWRITE), ZEROS), OWNER) == Rc.BAD_MODE


def test_what_the_caller_says_about_locks_does_not_count(locked: Device) -> None:
    """20.1 actions 9.a and 10."""
    area = public(P.OWNERWRITE | P.OWNERREAD | P.WRITEDEFINE | P.READ_STCLEAR)
    said = replace(area, read_st_clear=True, write_st_clear=True, write_define=True)
    assert define(locked, said) == Rc.SUCCESS
    assert attempts(locked, DATA)["owner"] == (Rc.SUCCESS, Rc.SUCCESS)
    forget(locked)


# --- the DIR -----------------------------------------------------------------------------------


@pytest.mark.alters
def test_the_dir_is_written_whole_and_by_the_owner(locked: Device) -> None:
    value = bytes(range(20))
    for request, secrets, rc in (
        (NvWriteValue(DIR, 0, value), (), Rc.AUTH_CONFLICT),
        (NvWriteValue(DIR, 0, value), (WRONG,), Rc.AUTHFAIL),
        (NvWriteValue(DIR, 0, value[:8]), (OWNER,), Rc.NOT_FULLWRITE),
        (NvWriteValue(DIR, 0, b""), (OWNER,), Rc.SUCCESS),
        (NvWriteValue(DIR, 0, value), (OWNER,), Rc.SUCCESS),
        (NvWriteValueAuth(DIR, 0, value), (USAGE,), Rc.BADINDEX),
        (NvReadValueAuth(DIR, 0, 20), (USAGE,), Rc.BADINDEX),
        (NvReadValue(DIR, 15, 6), (), Rc.NOSPACE),
        (NvReadValue(DIR, 0, 0), (), Rc.SUCCESS),
    ):
        assert locked.refusal(request, *secrets) == rc, request
    assert locked.run(NvReadValue(DIR, 5, 5)).data == value[5:10]
    assert locked.run(NvReadValue(DIR, 5, 5), OWNER).data == value[5:10]
    locked.run(DirWriteAuth(0, ZEROS), OWNER)


# --- disabled ----------------------------------------------------------------------------------


@pytest.mark.alters
def test_a_disabled_tpm_serves_all_but_the_owners_areas(locked: Device) -> None:
    """20.2 and 20.4 action 3."""
    define(locked, public(P.OWNERWRITE | P.OWNERREAD))
    define(locked, public(P.PPWRITE | P.PPREAD, index=INDEX + 1))
    locked.assert_presence()
    locked.run(PhysicalDisable())
    assert attempts(locked, DATA)["nobody"] == (Rc.DISABLED, Rc.DISABLED)
    assert attempts(locked, DATA, INDEX + 1)["nobody"] == (Rc.SUCCESS, Rc.SUCCESS)
    assert locked.refusal(NvWriteValue(0, 0, b"")) == Rc.SUCCESS
    assert locked.refusal(NvDefineSpace(public(P.PPWRITE), ZEROS)) == Rc.DISABLED
    rc = locked.expected("NV lock while disabled", Rc.SUCCESS)
    assert locked.refusal(NvDefineSpace(public(0, 0, LOCK), ZEROS)) == rc
    locked.run(PhysicalEnable())
