"""What every engine behind `SoftwareTpm` has to do; each backend's test module inherits it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwtpm.errors import UsageError
from hwtpm.softtpm.base import SoftwareTpm

FAIL_SELFTEST = 0x1C
BAD_PARAM_SIZE = 0x19
INVALID_POSTINIT = 0x26
BAD_LOCALITY = 0x3D

Reopen = Callable[[], SoftwareTpm]


def frame(ordinal: int, body: bytes = b"") -> bytes:
    return struct.pack(">HII", 0x00C1, 10 + len(body), ordinal) + body


def rc_of(response: bytes) -> int:
    tag, size, rc = struct.unpack_from(">HII", response)
    assert tag == 0x00C4
    assert size == len(response)
    return int(rc)


def payload(response: bytes) -> bytes:
    assert rc_of(response) == 0
    return response[10:]


STARTUP_CLEAR = frame(0x99, b"\0\1")
STARTUP_STATE = frame(0x99, b"\0\2")
SAVE_STATE = frame(0x98)
VERSION_1_1 = struct.pack(">I", 4) + b"\1\1\0\0"  # counted, as every capability
CAP_VERSION = frame(0x65, struct.pack(">II", 0x06, 0))
WRONG_SIZES = [
    b"",
    b"\0",
    CAP_VERSION[:9],
    CAP_VERSION[:-1],
    CAP_VERSION + b"\0",
    bytes.fromhex("00c1ffffffff00000065"),
    bytes.fromhex("00c10000000000000065"),
    b"\xff" * 4096,
    b"\xff" * 4097,
    bytes(1 << 20),
    struct.pack(">HII", 0x00C1, 5000, 0x65) + bytes(4990),
]


def extend(pcr: int, digest: bytes) -> bytes:
    return frame(0x14, struct.pack(">I", pcr) + digest)


def pcr_read(pcr: int) -> bytes:
    return frame(0x15, struct.pack(">I", pcr))


def nv_define(index: int, size: int) -> bytes:
    """TPM_NV_DefineSpace, PPWRITE, no PCRs; allowed to all before the NV lock is set."""
    pcr_info = struct.pack(">H3s", 3, b"\0\0\0") + b"\x1f" + bytes(20)
    attributes = struct.pack(">HI", 0x0017, 0x00000001)
    public = struct.pack(">HI", 0x0018, index) + pcr_info * 2 + attributes + bytes(3)
    return frame(0xCC, public + struct.pack(">I", size) + bytes(20))


def nv_write(index: int, data: bytes) -> bytes:
    return frame(0xCD, struct.pack(">III", index, 0, len(data)) + data)


def nv_read(index: int, size: int) -> bytes:
    return frame(0xCF, struct.pack(">III", index, 0, size))


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


class SoftwareTpmContract:
    """`tpm` is powered on and not started; `reopen` closes it and opens the same state again."""

    def test_starts_up_and_reports_tpm_1_1_structure_version(self, tpm: SoftwareTpm) -> None:
        assert rc_of(tpm.execute(CAP_VERSION)) == INVALID_POSTINIT
        assert payload(tpm.execute(STARTUP_CLEAR)) == b""
        assert payload(tpm.execute(CAP_VERSION)) == VERSION_1_1

    def test_extends_a_pcr_and_forgets_it_at_a_power_cycle(self, tpm: SoftwareTpm) -> None:
        tpm.execute(STARTUP_CLEAR)
        value = sha1(bytes(20) + b"d" * 20)
        assert payload(tpm.execute(extend(1, b"d" * 20))) == value
        assert payload(tpm.execute(pcr_read(1))) == value
        tpm.power_on()
        assert rc_of(tpm.execute(pcr_read(1))) == INVALID_POSTINIT
        assert rc_of(tpm.execute(STARTUP_CLEAR)) == 0
        assert payload(tpm.execute(pcr_read(1))) == bytes(20)

    def test_nv_contents_survive_a_new_instance(self, tpm: SoftwareTpm, reopen: Reopen) -> None:
        tpm.execute(STARTUP_CLEAR)
        assert rc_of(tpm.execute(nv_define(0x1001, 8))) == 0
        assert rc_of(tpm.execute(nv_write(0x1001, b"ABCDEFGH"))) == 0
        again = reopen()
        again.power_on()
        assert rc_of(again.execute(STARTUP_CLEAR)) == 0
        assert payload(again.execute(nv_read(0x1001, 8))) == struct.pack(">I", 8) + b"ABCDEFGH"

    def test_saved_state_survives_a_new_instance_once(
        self, tpm: SoftwareTpm, reopen: Reopen
    ) -> None:
        tpm.execute(STARTUP_CLEAR)
        value = payload(tpm.execute(extend(2, b"s" * 20)))
        assert rc_of(tpm.execute(SAVE_STATE)) == 0
        again = reopen()
        again.power_on()
        assert rc_of(again.execute(STARTUP_STATE)) == 0
        assert payload(again.execute(pcr_read(2))) == value
        again.power_on()
        assert rc_of(again.execute(STARTUP_STATE)) == FAIL_SELFTEST

    def test_locality_decides_about_pcr_17(self, tpm: SoftwareTpm) -> None:
        tpm.execute(STARTUP_CLEAR)
        command = extend(17, b"l" * 20)
        assert rc_of(tpm.execute(command, 0)) == BAD_LOCALITY
        assert rc_of(tpm.execute(command, 2)) == 0
        assert rc_of(tpm.execute(command, 0)) == BAD_LOCALITY

    def test_a_locality_that_does_not_exist_is_answered(self, tpm: SoftwareTpm) -> None:
        tpm.execute(STARTUP_CLEAR)
        for locality in (-1, 5, 256, 2**40):
            assert rc_of(tpm.execute(CAP_VERSION, locality)) == BAD_LOCALITY
            assert tpm.reset_established(locality) == BAD_LOCALITY
        assert rc_of(tpm.execute(CAP_VERSION)) == 0

    def test_frames_of_the_wrong_size_are_answered_and_harmless(self, tpm: SoftwareTpm) -> None:
        tpm.execute(STARTUP_CLEAR)
        for command in WRONG_SIZES:
            assert rc_of(tpm.execute(command)) == BAD_PARAM_SIZE, command[:20].hex()
            assert payload(tpm.execute(CAP_VERSION)) == VERSION_1_1

    @settings(
        max_examples=60,
        deadline=None,
        # One TPM serves all examples, and every backend inherits this test: both are meant.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
        ],
    )
    @given(garbage=st.binary(max_size=200), framed=st.booleans(), locality=st.integers(-1, 5))
    def test_garbage_is_always_answered_with_an_error(
        self, tpm: SoftwareTpm, garbage: bytes, framed: bool, locality: int
    ) -> None:
        # Ordinals from 0xF0000000 on belong to nobody.
        command = frame(0xF0000000, garbage) if framed else garbage
        response = tpm.execute(command, locality)
        assert rc_of(response) != 0
        assert len(response) == 10

    def test_a_locality_4_measurement_lands_in_pcr_17(self, tpm: SoftwareTpm) -> None:
        tpm.execute(STARTUP_CLEAR)
        assert not tpm.established
        for length in (0, 3, 4096, 10_000):
            measured = (bytes(range(256)) * 40)[:length]
            tpm.hash_start()
            tpm.hash_data(measured)
            tpm.hash_end()
            assert tpm.established
            value = sha1(bytes(20) + sha1(measured))
            assert payload(tpm.execute(pcr_read(17))) == value

    def test_established_is_reset_from_localities_3_and_4_only(self, tpm: SoftwareTpm) -> None:
        tpm.execute(STARTUP_CLEAR)
        tpm.hash_start()
        tpm.hash_end()
        assert [tpm.reset_established(locality) for locality in (0, 1, 2)] == [BAD_LOCALITY] * 3
        assert tpm.established
        assert tpm.reset_established(3) == 0
        assert not tpm.established

    def test_hash_cycles_outside_a_measurement_change_nothing(self, tpm: SoftwareTpm) -> None:
        tpm.execute(STARTUP_CLEAR)
        before = payload(tpm.execute(pcr_read(17)))
        tpm.hash_data(b"stray")
        tpm.hash_end()
        assert payload(tpm.execute(pcr_read(17))) == before
        assert not tpm.established

    def test_a_power_cycle_ends_a_measurement(self, tpm: SoftwareTpm) -> None:
        tpm.execute(STARTUP_CLEAR)
        tpm.hash_start()
        tpm.power_on()
        tpm.hash_end()
        assert rc_of(tpm.execute(STARTUP_CLEAR)) == 0

    def test_closed_tpm_says_so_and_closes_twice(self, tpm: SoftwareTpm) -> None:
        tpm.close()
        tpm.close()
        for use in (tpm.power_on, tpm.hash_start, tpm.hash_end, lambda: tpm.execute(CAP_VERSION)):
            with pytest.raises(UsageError, match="closed"):
                use()
