"""NV storage of our engine (Part 3 section 20), next to libtpms.

Not asked of libtpms 0.9.2: offsets that overflow with the size (it crashes) and sizes beyond its
memory (it goes into failure mode).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from engine_pair import Pair, frame, owned_pair, rc_of, unowned_pair
from engine_rig import OWNER_AUTH, Identity, Rig

from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.state import MAX_NV_AREAS, MAX_NV_BYTES
from hwtpm.tpm12.commands.capability import GetCapability
from hwtpm.tpm12.commands.integrity import Extend
from hwtpm.tpm12.commands.nv import (
    NvDefineSpace,
    NvReadValue,
    NvReadValueAuth,
    NvWriteValue,
    NvWriteValueAuth,
)
from hwtpm.tpm12.commands.optin import PhysicalDisable, SetTempDeactivated
from hwtpm.tpm12.commands.ownership import PhysicalPresence
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import (
    Capability,
    EntityType,
    KeyHandleValue,
    NvIndex,
    NvPermission,
    StartupType,
)
from hwtpm.tpm12.const import PhysicalPresence as Presence
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Request
from hwtpm.tpm12.types import (
    NvAttributes,
    NvDataPublic,
    PcrComposite,
    PcrInfoShort,
    PcrSelection,
)
from hwtpm.wire import Struct

AREA_AUTH = b"n" * 20
Per = NvPermission


def info(
    pcrs: tuple[int, ...] = (), digest: bytes = bytes(20), localities: int = 0x1F
) -> PcrInfoShort:
    return PcrInfoShort(PcrSelection.of(pcrs), localities, digest)


def public(index: int, size: int, attributes: int = Per.PPWRITE, **changes: object) -> NvDataPublic:
    made = NvDataPublic(index, info(), info(), NvAttributes(attributes), False, False, False, size)
    return replace(made, **changes)  # type: ignore[arg-type]


def define(
    index: int, size: int, attributes: int = Per.PPWRITE, **changes: object
) -> NvDefineSpace:
    return NvDefineSpace(public(index, size, attributes, **changes), AREA_AUTH)


LOCK_NV = define(NvIndex.LOCK, 0)
PRESENCE = [PhysicalPresence(Presence.CMD_ENABLE), PhysicalPresence(Presence.PRESENT)]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with unowned_pair() as both:
        yield both


def test_before_the_lock_nobody_is_asked_for_anything(pair: Pair) -> None:
    for index in (1, 0x0101, 0xF000, 0x20001, 0x80000001, 0x10000005, 0x1000001, 0, NvIndex.DIR):
        pair.same(define(index, 8))
    pair.same(define(0x77, 0))
    for attributes in (0, 6, 3 << 17 | 1, 0xFF0 | 1, 2, 4, 2 | 1 << 17):
        pair.same(define(0x79, 8, attributes))
    for localities in (0, 0x20, 0xFF):
        pair.same(define(0x79, 8, pcr_info_read=info(localities=localities)))
        pair.same(define(0x79, 8, pcr_info_write=info(localities=localities)))
    for offset, data in ((0, b"abcdefgh"), (4, b"abcd"), (4, b"abcde"), (0, b"")):
        pair.same(NvWriteValue(1, offset, data))
        pair.same(NvReadValue(1, 0, 8))
    for index in (2, NvIndex.LOCK):
        pair.same(NvWriteValue(index, 0, b"a"))
        pair.same(NvReadValue(index, 0, 1))
    for data in (b"a", b""):
        pair.same(NvWriteValue(0, 0, data))
    for data in (bytes(20), bytes(5), b"", b"d" * 20):
        pair.same(NvWriteValue(NvIndex.DIR, 0, data))
        pair.same(NvReadValue(NvIndex.DIR, 0, 20))
        pair.same(NvReadValue(NvIndex.DIR, 16, 4))


def test_after_the_lock_the_protections_count(pair: Pair) -> None:
    for index, attributes in (
        (1, Per.PPWRITE),
        (2, Per.PPWRITE | Per.PPREAD),
        (3, Per.OWNERWRITE),
        (4, Per.OWNERWRITE | Per.OWNERREAD),
        (5, Per.AUTHWRITE | Per.AUTHREAD),
        (6, Per.PPWRITE | Per.WRITE_STCLEAR | Per.READ_STCLEAR),
        (7, Per.PPWRITE | Per.WRITEDEFINE | Per.WRITEALL),
        (8, Per.PPWRITE | Per.GLOBALLOCK),
    ):
        pair.same(define(index, 8, attributes))
    pair.same(define(NvIndex.LOCK, 5))
    pair.same(LOCK_NV)
    pair.same(LOCK_NV)
    for request in ([], PRESENCE):
        for step in request:
            pair.raw(frame(step))
        for index in (*range(1, 9), NvIndex.DIR):
            pair.same(NvWriteValue(index, 0, b"12345678"))
            pair.same(NvWriteValue(index, 2, b"xyz"))
            pair.same(NvReadValue(index, 0, 8))
        for data in (b"", b"late"):
            pair.same(NvWriteValue(6, 0, data))
            pair.same(NvWriteValue(7, 0, data))
            pair.same(NvWriteValue(0, 0, data))
            pair.same(NvWriteValue(8, 0, data))
        for index in (6, 7, 8):
            pair.same(NvReadValue(index, 0, 0))
            pair.same(NvReadValue(index, 0, 8))
            pair.same(define(index, 8))
        for request_define in (define(9, 4), define(0x10000005, 4), define(0, 4), define(9, 0)):
            pair.same(request_define)


def test_the_locks_of_a_boot_end_with_it_and_write_define_does_not(pair: Pair) -> None:
    pair.same(define(6, 8, Per.PPWRITE | Per.WRITE_STCLEAR | Per.READ_STCLEAR))
    pair.same(define(7, 8, Per.PPWRITE | Per.WRITEDEFINE))
    pair.same(LOCK_NV)
    for _ in range(2):
        for step in PRESENCE:
            pair.raw(frame(step))
        for index in (6, 7):
            pair.same(NvWriteValue(index, 0, b"1234"))
            pair.same(NvReadValue(index, 0, 0))
            pair.same(NvWriteValue(index, 0, b""))
            pair.same(NvReadValue(index, 0, 0))
            pair.same(NvWriteValue(index, 0, b"5678"))
            pair.same(NvReadValue(index, 0, 4))
            pair.same(GetCapability(Capability.NV_INDEX, index.to_bytes(4, "big")))
        pair.same(GetCapability(Capability.NV_LIST, b""))
        pair.power_cycle()


def test_localities_and_pcrs_bind_reading_and_writing(pair: Pair) -> None:
    pair.same(define(1, 4, pcr_info_write=info(localities=0x04)))
    pair.same(define(2, 4, pcr_info_read=info(localities=0x18)))
    composite = bytes(20)
    pair.same(define(3, 4, pcr_info_write=info((5,), composite)))
    pair.same(define(4, 4, pcr_info_read=info((5, 23), composite)))
    pair.same(LOCK_NV)
    for step in PRESENCE:
        pair.raw(frame(step))
    for locality in range(5):
        for index in range(1, 5):
            pair.same(NvWriteValue(index, 0, b"ab"), locality)
            pair.same(NvReadValue(index, 0, 2), locality)


def test_writes_without_an_owner_are_counted(pair: Pair) -> None:
    for number in range(70):
        pair.same(define(1, 1 + number % 5))
        pair.same(NvWriteValue(1, 0, b"x"))
    assert pair.engine.permanent.writes_without_owner == 64


@pytest.mark.parametrize("off", [PhysicalDisable(), SetTempDeactivated()], ids=str)
def test_disabled_tpm_serves_what_is_not_the_owners(pair: Pair, off: Request[Struct]) -> None:
    pair.same(define(1, 4))
    pair.same(define(2, 4, Per.OWNERWRITE | Per.OWNERREAD))
    for step in PRESENCE:
        pair.raw(frame(step))
    pair.same(off)
    for locked in (False, True):
        if locked:
            pair.same(LOCK_NV)
        for index in (1, 2, NvIndex.DIR):
            pair.same(NvWriteValue(index, 0, bytes(20) if index == NvIndex.DIR else b"abcd"))
            pair.same(NvReadValue(index, 0, 4))
        pair.same(define(3, 4))


@pytest.fixture(scope="module")
def owned(tpm_identity: Identity) -> Iterator[Pair]:
    with owned_pair(tpm_identity) as both:
        both.same(LOCK_NV)
        yield both


def define_as_owner(rig: Rig, public_info: NvDataPublic) -> int:
    owner = rig.client.osap(EntityType.OWNER, KeyHandleValue.OWNER, Secret(OWNER_AUTH))
    try:
        with owner as session:
            auth = session.encrypt_auth(Secret(AREA_AUTH))
            rig.client.execute(NvDefineSpace(public_info, auth), session, last=True)
    except TpmError as error:
        return error.rc
    return 0


def test_owner_and_area_authorisation(owned: Pair) -> None:
    areas = {
        1: Per.OWNERWRITE | Per.OWNERREAD,
        2: Per.AUTHWRITE | Per.AUTHREAD,
        3: Per.OWNERWRITE | Per.WRITEALL,
        4: Per.PPWRITE,
        5: Per.AUTHWRITE | Per.WRITE_STCLEAR,
        0x10000007: Per.OWNERWRITE,
    }
    for index, attributes in areas.items():
        ours, theirs = (define_as_owner(rig, public(index, 8, attributes)) for rig in owned.rigs)
        assert ours == theirs
    wrong = b"w" * 20
    for index in (*areas, NvIndex.DIR, 0, 99):
        for write in (NvWriteValue(index, 0, b"12345678"), NvWriteValue(index, 7, b"12")):
            owned.same(write)
            owned.same_rc(write, OWNER_AUTH)
        owned.same(NvReadValue(index, 0, 8))
        owned.same_rc(NvReadValue(index, 0, 8), OWNER_AUTH)
        owned.same_rc(NvWriteValueAuth(index, 0, b"abc"), AREA_AUTH)
        owned.same_rc(NvReadValueAuth(index, 0, 8), AREA_AUTH)
    assert owned.same_rc(NvReadValueAuth(2, 0, 8), wrong) == Rc.AUTHFAIL
    assert owned.same_rc(NvWriteValue(1, 0, b"12"), wrong) == Rc.AUTHFAIL
    owned.same_rc(NvWriteValueAuth(5, 0, b""), AREA_AUTH)
    assert owned.same_rc(NvWriteValueAuth(5, 0, b"12"), AREA_AUTH) == Rc.AREA_LOCKED
    owned.same(define(9, 8))
    for rig in owned.rigs:
        assert rig.run(NvReadValueAuth(2, 0, 8), AREA_AUTH).data[:3] == b"abc"
        assert define_as_owner(rig, public(2, 0, Per.AUTHWRITE)) == 0
    owned.same(GetCapability(Capability.NV_INDEX, b"\0\0\0\2"))


class TestAlone:
    @pytest.fixture
    def engine(self) -> Engine:
        engine = Engine(MemoryStorage())
        engine.power_on()
        engine.execute(frame(Startup(StartupType.CLEAR)))
        return engine

    def test_offsets_do_not_wrap_around(self, engine: Engine) -> None:
        engine.execute(frame(define(1, 8)))
        for offset, size in ((0xFFFFFFFF, 2), (9, 1), (0xFFFFFFF8, 8), (1, 8)):
            write = NvWriteValue(1, offset, bytes(size))
            assert rc_of(engine.execute(frame(write))) == Rc.NOSPACE
            read = NvReadValue(1, offset, size)
            assert rc_of(engine.execute(frame(read))) == Rc.NOSPACE
        assert rc_of(engine.execute(frame(NvReadValue(1, 1, 0xFFFFFFFF)))) == Rc.NOSPACE

    def test_space_is_finite_and_comes_back(self, engine: Engine) -> None:
        assert rc_of(engine.execute(frame(define(1, 0xFFFFFFFF)))) == Rc.NOSPACE
        free = engine.permanent.nv_available
        assert 28_000 < free < MAX_NV_BYTES
        assert rc_of(engine.execute(frame(define(1, free + 1)))) == Rc.NOSPACE
        assert rc_of(engine.execute(frame(define(1, free)))) == 0
        assert rc_of(engine.execute(frame(define(2, 1)))) == Rc.NOSPACE
        assert rc_of(engine.execute(frame(NvReadValue(1, 0, 4041)))) == 0
        assert rc_of(engine.execute(frame(NvReadValue(1, 0, 4096)))) == Rc.SIZE
        assert rc_of(engine.execute(frame(define(1, 0)))) == 0
        assert engine.permanent.nv_available == free

    def test_there_is_room_for_so_many_areas_and_no_more(self, engine: Engine) -> None:
        for index in range(1, MAX_NV_AREAS + 1):
            engine.permanent = replace(engine.permanent, writes_without_owner=0)
            assert rc_of(engine.execute(frame(define(index, 1)))) == 0
        assert engine.permanent.nv_available == 0
        assert rc_of(engine.execute(frame(define(0x1000, 1)))) == Rc.NOSPACE

    def test_refused_redefinition_leaves_the_area(self, engine: Engine) -> None:
        engine.execute(frame(define(1, 8)))
        engine.execute(frame(NvWriteValue(1, 0, b"precious")))
        assert rc_of(engine.execute(frame(define(1, 8, 0)))) == Rc.PER_NOWRITE
        assert engine.execute(frame(NvReadValue(1, 0, 8)))[14:] == b"precious"

    def test_localities_alone_protect_enough(self, engine: Engine) -> None:
        # 20.1 actions 8.b and 9.d; libtpms answers PER_NOWRITE.
        request = define(1, 8, 0, pcr_info_write=info(localities=0x10))
        assert rc_of(engine.execute(frame(request))) == 0

    def test_trial_index_allocates_nothing(self, engine: Engine) -> None:
        assert rc_of(engine.execute(frame(define(0xF004, 8)))) == 0
        assert rc_of(engine.execute(frame(define(0xF004, 0xFFFF)))) == Rc.NOSPACE
        assert engine.permanent.nv_areas == ()

    def test_pcr_bound_area_opens_in_its_state_only(self, engine: Engine) -> None:
        composite = PcrComposite(PcrSelection.of((5,)), bytes(20)).digest()
        bound = info((5,), composite)
        engine.execute(frame(define(1, 4, pcr_info_read=bound, pcr_info_write=bound)))
        engine.execute(frame(LOCK_NV))
        for step in PRESENCE:
            engine.execute(frame(step))
        assert rc_of(engine.execute(frame(NvWriteValue(1, 0, b"ok")))) == 0
        assert rc_of(engine.execute(frame(NvReadValue(1, 0, 2)))) == 0
        engine.execute(frame(Extend(5, bytes(20))))
        assert rc_of(engine.execute(frame(NvWriteValue(1, 0, b"no")))) == Rc.WRONGPCRVAL
        assert rc_of(engine.execute(frame(NvReadValue(1, 0, 2)))) == Rc.WRONGPCRVAL
