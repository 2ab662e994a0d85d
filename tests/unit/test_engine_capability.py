"""TPM_GetCapability of our engine, next to what libtpms answers."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from engine_pair import Pair, frame, rc_of, unowned_pair

from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engine import Engine
from hwtpm.tpm12.commands.capability import GetCapability
from hwtpm.tpm12.const import Capability, CapFlag, CapProperty
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types import PermanentFlags


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with unowned_pair() as both:
        yield both


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


# Ours by design: no delegation or DAA yet; own vendor, own timeouts,
# own NV size; what ST_STATE resets.
OWN_PROPERTIES = {
    CapProperty.MANUFACTURER,
    CapProperty.FAMILYROWS,
    CapProperty.TIS_TIMEOUT,
    CapProperty.STARTUP_EFFECT,
    CapProperty.DELEGATE_ROW,
    CapProperty.MAX_DAASESS,
    CapProperty.DAASESS,
    CapProperty.MAX_NV_AVAILABLE,
}


def test_properties_are_those_of_libtpms_where_they_can_be(pair: Pair) -> None:
    for value in range(0x100, 0x128):
        request = GetCapability(Capability.PROPERTY, u32(value))
        if value in OWN_PROPERTIES:
            ours, theirs = pair.raw(frame(request))
            assert (rc_of(ours), len(ours)) == (0, len(theirs)), hex(value)
        else:
            pair.same(request)


@pytest.mark.parametrize(
    ("area", "subs"),
    [
        (0x00, [b"", u32(1)]),
        (Capability.ALG, [u32(i) for i in range(12)]),
        (Capability.VERSION, [b"", u32(7)]),
        (Capability.KEY_HANDLE, [b""]),
        (Capability.KEY_STATUS, [b"", u32(1), u32(0x40000000)]),
        (Capability.SYM_MODE, [b"", u32(0), u32(1), u32(2)]),
        (Capability.NV_LIST, [b""]),
        (Capability.NV_INDEX, [b"", u32(5), u32(0xFFFFFFFF), u32(0x10000001)]),
        (Capability.PID, [u16(i) for i in (0, 1, 2, 3, 5, 8)] + [u32(1)]),
        (Capability.HANDLE, [b""] + [u32(i) for i in (1, 2, 4, 5, 6, 8)]),
        (Capability.SELECT_SIZE, [b"\1\2\0\3", b"\1\2\0\4", b"\1\1\0\2", b"\2\0\0\2", b""]),
        (Capability.DA_LOGIC, [u16(1), u16(2), b""]),
        (0x1B, [b""]),
        (Capability.CHECK_LOADED, [b"", bytes(8), struct.pack(">IHHI", 1, 3, 1, 0)]),
        (
            Capability.CHECK_LOADED,
            [struct.pack(">IHHIIII", 1, 3, 1, 12, bits, 2, 0) for bits in (512, 1024, 2048)],
        ),
        (Capability.ORD, [u32(0x65), u32(0x99), u32(0x4000000A), u32(0x1234), b"", b"\0"]),
        (Capability.FLAG, [u32(CapFlag.VOLATILE), u32(0x107), u32(1), b""]),
        (Capability.PROPERTY, [b"", b"\0", bytes(8)]),
    ],
)
def test_answers_as_libtpms(pair: Pair, area: int, subs: list[bytes]) -> None:
    for sub in subs:
        pair.same(GetCapability(area, sub))


class TestAlone:
    @pytest.fixture
    def engine(self) -> Engine:
        engine = Engine(MemoryStorage())
        engine.power_on()
        engine.execute(bytes.fromhex("00c10000000c000000990001"))
        return engine

    def ask(self, engine: Engine, area: int, sub: bytes = b"") -> bytes:
        response = engine.execute(frame(GetCapability(area, sub)))
        assert rc_of(response) == 0
        return response[14:]

    def test_every_ordinal_it_claims_is_one_it_runs(self, engine: Engine) -> None:
        for row in TABLE:
            claimed = self.ask(engine, Capability.ORD, u32(row.ordinal)) == b"\1"
            header = struct.pack(">HII", 0xC1, 10, row.ordinal)
            assert claimed == (rc_of(engine.execute(header)) != Rc.BAD_ORDINAL), row.name

    def test_permanent_flags_are_enabled_and_active_from_the_factory(self, engine: Engine) -> None:
        flags = PermanentFlags.decode(self.ask(engine, Capability.FLAG, u32(CapFlag.PERMANENT)))
        assert (flags.disable, flags.deactivated, flags.ownership) == (False, False, True)

    def test_unsupported_key_types_are_answered_false(self, engine: Engine) -> None:
        # Part 2 section 21.1: FALSE for a type the TPM does not support. libtpms says TRUE.
        for algorithm, bits, primes in ((1, 4096, 2), (1, 2048, 3), (1, 1000, 2), (6, 128, 2)):
            parms = struct.pack(">IHHIIII", algorithm, 3, 1, 12, bits, primes, 0)
            assert self.ask(engine, Capability.CHECK_LOADED, parms) == b"\0"

    def test_illegal_resource_type_is_a_bad_mode(self, engine: Engine) -> None:
        # Part 2 section 21.1, TPM_CAP_HANDLE. libtpms says BAD_PARAMETER.
        for kind in (0, 3, 7, 9):
            request = GetCapability(Capability.HANDLE, u32(kind))
            assert rc_of(engine.execute(frame(request))) == Rc.BAD_MODE

    def test_free_sessions_count_down(self, engine: Engine) -> None:
        engine.execute(struct.pack(">HII", 0xC1, 10, 0x0A))
        assert self.ask(engine, Capability.PROPERTY, u32(CapProperty.AUTHSESS)) == u32(15)
        handles = self.ask(engine, Capability.HANDLE, u32(2))
        assert handles[:2] == u16(1)
