"""Startup, saved state, failure mode and self tests of our engine (Part 3 sections 3 and 4)."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import pytest
from engine_pair import frame, rc_of, unowned_pair
from engine_rig import Identity

from hwtpm.errors import StateError
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine, selftest
from hwtpm.softtpm.engine.state import encode_permanent
from hwtpm.tpm12.commands.capability import GetCapability
from hwtpm.tpm12.commands.cryptography import (
    GetRandom,
    SHA1Complete,
    SHA1CompleteExtend,
    SHA1Start,
    SHA1Update,
    StirRandom,
)
from hwtpm.tpm12.commands.integrity import Extend, PcrRead
from hwtpm.tpm12.commands.ownership import DisableForceClear
from hwtpm.tpm12.commands.startup import SaveState, Startup
from hwtpm.tpm12.commands.testing import ContinueSelfTest, GetTestResult, SelfTestFull
from hwtpm.tpm12.const import Capability, CapProperty, StartupType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Request
from hwtpm.wire import Struct


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def engine(storage: MemoryStorage) -> Engine:
    engine = Engine(storage)
    engine.power_on()
    return engine


def rc(engine: Engine, request: Request[Struct], locality: int = 0) -> int:
    return rc_of(engine.execute(frame(request), locality))


def pcr(engine: Engine, index: int) -> bytes:
    return engine.execute(frame(PcrRead(index)))[10:]


class TestStartup:
    def test_once_and_only_with_a_known_type(self, engine: Engine) -> None:
        assert rc(engine, Startup(7)) == Rc.BAD_PARAMETER
        assert rc(engine, PcrRead(0)) == Rc.INVALID_POSTINIT
        assert rc(engine, Startup(StartupType.CLEAR)) == 0
        assert rc(engine, Startup(StartupType.CLEAR)) == Rc.INVALID_POSTINIT

    def test_deactivated_keeps_extending_and_hides_the_value(self, engine: Engine) -> None:
        assert rc(engine, Startup(StartupType.DEACTIVATED)) == 0
        assert engine.execute(frame(Extend(1, bytes(20))))[10:] == bytes(20)
        assert rc(engine, PcrRead(1)) == Rc.DEACTIVATED

    def test_saved_state_brings_back_pcrs_but_not_the_resettable_ones(self, engine: Engine) -> None:
        rc(engine, Startup(StartupType.CLEAR))
        for index in (3, 16, 23):
            rc(engine, Extend(index, b"x" * 20))
        rc(engine, DisableForceClear())
        kept = pcr(engine, 3)
        assert rc(engine, SaveState()) == 0
        engine.power_on()
        assert rc(engine, Startup(StartupType.STATE)) == 0
        assert pcr(engine, 3) == kept
        assert (pcr(engine, 16), pcr(engine, 17)) == (bytes(20), b"\xff" * 20)
        assert engine.volatile.flags.disable_force_clear

    @pytest.mark.parametrize("change", ["extend", "hash"])
    def test_saved_state_dies_with_the_first_change(
        self, engine: Engine, storage: MemoryStorage, change: str
    ) -> None:
        rc(engine, Startup(StartupType.CLEAR))
        rc(engine, SaveState())
        rc(engine, PcrRead(1))
        assert StateName.SAVED in storage.blobs
        if change == "extend":
            rc(engine, Extend(1, bytes(20)))
        else:
            engine.hash_start()
        assert StateName.SAVED not in storage.blobs

    def test_any_startup_uses_up_the_saved_state(
        self, engine: Engine, storage: MemoryStorage
    ) -> None:
        rc(engine, Startup(StartupType.CLEAR))
        rc(engine, SaveState())
        engine.power_on()
        assert rc(engine, Startup(StartupType.CLEAR)) == 0
        assert StateName.SAVED not in storage.blobs

    def test_without_saved_state_no_later_startup_poses_as_a_boot(self, engine: Engine) -> None:
        assert rc(engine, Startup(StartupType.STATE)) == Rc.FAILEDSELFTEST
        for request in (Startup(StartupType.CLEAR), Extend(0, bytes(20)), SelfTestFull()):
            assert rc(engine, request) == Rc.FAILEDSELFTEST  # type: ignore[arg-type]
        assert b"no saved state" in engine.execute(frame(GetTestResult()))
        for area, sub in (
            (Capability.VERSION, b""),
            (Capability.VERSION_VAL, b""),
            (Capability.MFR, b""),
            (Capability.PROPERTY, CapProperty.MANUFACTURER.to_bytes(4, "big")),
            (Capability.PROPERTY, CapProperty.DURATION.to_bytes(4, "big")),
            (Capability.PROPERTY, CapProperty.TIS_TIMEOUT.to_bytes(4, "big")),
        ):
            assert rc(engine, GetCapability(area, sub)) == 0
        assert rc(engine, GetCapability(Capability.NV_LIST, b"")) == Rc.FAILEDSELFTEST
        engine.power_on()
        assert rc(engine, Startup(StartupType.CLEAR)) == 0

    def test_damaged_saved_state_is_an_error_and_stays(
        self, engine: Engine, storage: MemoryStorage
    ) -> None:
        rc(engine, Startup(StartupType.CLEAR))
        rc(engine, SaveState())
        blob = bytearray(storage.blobs[StateName.SAVED])
        blob[40] ^= 1
        storage.blobs[StateName.SAVED] = bytes(blob)
        engine.power_on()
        with pytest.raises(StateError, match="saved state is damaged"):
            rc(engine, Startup(StartupType.STATE))
        assert storage.blobs[StateName.SAVED] == blob
        assert rc(engine, Startup(StartupType.CLEAR)) == Rc.FAILEDSELFTEST


class TestSelfTest:
    def test_all_tests_pass_here(self) -> None:
        assert [test.name for test in selftest.FULL if test.passes()] == ["SHA-1", "HMAC", "RSA"]

    def test_result_says_what_was_tested(self, engine: Engine) -> None:
        rc(engine, Startup(StartupType.CLEAR))
        assert b"RSA not tested" in engine.execute(frame(GetTestResult()))
        assert rc(engine, ContinueSelfTest()) == 0
        assert engine.execute(frame(GetTestResult()))[14:] == b"passed"

    def test_a_failing_test_shuts_the_tpm_down(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rc(engine, Startup(StartupType.CLEAR))
        monkeypatch.setattr(selftest, "FULL", (selftest.SelfTest("RSA", lambda: False),))
        assert rc(engine, SelfTestFull()) == Rc.FAILEDSELFTEST
        assert rc(engine, PcrRead(0)) == Rc.FAILEDSELFTEST
        assert b"self test RSA" in engine.execute(frame(GetTestResult()))

    def test_a_key_that_does_not_load_fails_its_test(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(selftest, "_PRIME", bytes(64))
        assert [test.name for test in selftest.FULL if not test.passes()] == ["RSA"]


class TestPermanentBlob:
    def test_what_does_not_decode_is_damaged_whatever_its_checksum_says(
        self, engine: Engine, storage: MemoryStorage
    ) -> None:
        short = storage.blobs[StateName.PERMANENT][:-33]
        bad = storage.blobs[StateName.PERMANENT] = short + hashlib.sha256(short).digest()
        with pytest.raises(StateError, match="permanent state is damaged: permanent state"):
            engine.power_on()
        assert storage.blobs[StateName.PERMANENT] == bad

    def test_a_root_key_whose_prime_does_not_fit_is_damage(
        self, engine: Engine, storage: MemoryStorage, tpm_identity: Identity
    ) -> None:
        bad = replace(tpm_identity.srk, prime=tpm_identity.ek.prime)
        storage.blobs[StateName.PERMANENT] = encode_permanent(replace(engine.permanent, srk=bad))
        with pytest.raises(StateError, match="prime and modulus of its SRK"):
            engine.power_on()

    def test_every_flipped_byte_is_noticed(self, engine: Engine, storage: MemoryStorage) -> None:
        good = storage.blobs[StateName.PERMANENT]
        for at in range(len(good)):
            bad = bytearray(good)
            bad[at] ^= 0x40
            storage.blobs[StateName.PERMANENT] = bytes(bad)
            with pytest.raises(StateError):
                engine.power_on()
            assert storage.blobs[StateName.PERMANENT] == bad
        storage.blobs[StateName.PERMANENT] = good
        engine.power_on()
        assert rc(engine, Startup(StartupType.CLEAR)) == 0


def test_sha1_and_random_commands_answer_as_libtpms() -> None:
    with unowned_pair() as pair:
        pair.same(SHA1Update(bytes(64)))
        pair.same(SHA1CompleteExtend(30, b""))
        for last in (b"", b"abc", bytes(64), bytes(65)):
            pair.same(SHA1Start())
            pair.same(SHA1Update(bytes(range(64)) * 10))
            pair.same(SHA1Complete(last))
        pair.same(SHA1Complete(b""))
        for size in (4032, 63, 4082):
            pair.same(SHA1Start())
            pair.same(SHA1Update(bytes(size)))
            pair.same(SHA1Complete(b"x"))
        for index, locality in ((1, 0), (30, 0), (17, 0), (17, 3), (1, 0)):
            pair.same(SHA1Start())
            pair.same(SHA1CompleteExtend(index, b"last"), locality)
            pair.same(SHA1Complete(b""))
        pair.same(SHA1Start())
        pair.same(PcrRead(1))
        pair.same(SHA1Complete(b""))
        for size in (0, 1, 255, 256, 1000):
            pair.same(StirRandom(bytes(size)))
        for count in (0, 1, 4081, 4082, 4083, 2**32 - 1):
            ours, theirs = pair.raw(frame(GetRandom(count)))
            assert ours[:14] == theirs[:14]
            assert len(ours) == len(theirs)


def test_a_host_calculation_cannot_reach_into_the_locality_4_measurement(engine: Engine) -> None:
    rc(engine, Startup(StartupType.CLEAR))
    engine.hash_start()
    engine.hash_data(b"launched")
    rc(engine, SHA1Start())
    rc(engine, SHA1Update(bytes(64)))
    engine.hash_end()
    alone = Engine(MemoryStorage())
    alone.power_on()
    rc(alone, Startup(StartupType.CLEAR))
    alone.hash_start()
    alone.hash_data(b"launched")
    alone.hash_end()
    assert pcr(engine, 17) == pcr(alone, 17)


def test_the_end_of_no_launch_changes_nothing(engine: Engine) -> None:
    engine.hash_end()
    rc(engine, Startup(StartupType.CLEAR))
    engine.hash_data(b"nowhere")
    engine.hash_end()
    assert pcr(engine, 17) == b"\xff" * 20
    assert not engine.established


def test_durations_leave_room_for_a_key_generation(engine: Engine) -> None:
    rc(engine, Startup(StartupType.CLEAR))
    request = GetCapability(Capability.PROPERTY, CapProperty.DURATION.to_bytes(4, "big"))
    short, medium, long = struct.unpack(">III", engine.execute(frame(request))[14:])
    assert 1_000_000 <= short <= medium <= long


def test_disabled_from_the_permanent_flags(engine: Engine) -> None:
    flags = replace(engine.permanent.flags, disable=True)
    engine.permanent = replace(engine.permanent, flags=flags)
    rc(engine, Startup(StartupType.CLEAR))
    assert rc(engine, GetRandom(1)) == Rc.DISABLED
    assert rc(engine, Extend(1, bytes(20))) == 0
