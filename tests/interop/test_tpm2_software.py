"""Software TPMs as TPM 2.0 chips: the same answers as the engine itself, standby, other states."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwtpm.errors import StateError, UsageError
from hwtpm.softtpm.base import Family, MemoryStorage, SoftwareTpm, StateName
from hwtpm.softtpm.engines import make_engine
from hwtpm.softtpm.libtpms import LibtpmsTpm
from hwtpm.softtpm.storage import FileStorage
from hwtpm.softtpm.swtpm import SwtpmTpm
from hwtpm.tpm20 import commands
from hwtpm.tpm20.const import Code, StartupType
from hwtpm.tpm20.frame import build, error_response
from hwtpm.tpm20.rc import Rc
from hwtpm.transport import open_transport

KINDS = ["libtpms2", "swtpm2"]


def engine(kind: str, tmp_path: Path) -> SoftwareTpm:
    if kind == "libtpms2":
        return LibtpmsTpm(FileStorage(tmp_path), family=Family.TPM20)
    return SwtpmTpm(tmp_path, family=Family.TPM20)


EXTEND = bytes.fromhex(
    "8002 00000041 00000182 00000009 00000009 40000009 0000 00 0000 00000001 000b"
) + bytes(32)
DETERMINISTIC = [
    *(build(Code.GET_CAPABILITY, bytes.fromhex(f"000000{area:02x} 00000000 000000fe"))
      for area in (0, 1, 2, 5, 8)),
    build(Code.GET_CAPABILITY, bytes.fromhex("00000006 00000100 000000fe")),
    EXTEND,
    build(Code.PCR_READ, bytes.fromhex("00000001 000b 03 000200")),
    build(Code.HASH, bytes.fromhex("0003 616263 000b 40000007")),
    build(Code.TEST_PARMS, bytes.fromhex("0001 0006 0080 0043 0800 00000000")),
    build(Code.READ_PUBLIC, bytes.fromhex("80000000")),
    build(Code.STARTUP, b"\0\0"),
    build(Code.SELF_TEST, b"\1"),
    bytes.fromhex("8001 0000000a 00000fff"),
    bytes.fromhex("8003 0000000a 0000017b"),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_chip_answers_as_its_engine_does(kind: str, tmp_path: Path) -> None:
    bare = engine(kind, tmp_path / "bare")
    bare.power_on()
    assert commands.startup(bare.execute, StartupType.CLEAR)
    expected = [bare.execute(command) for command in DETERMINISTIC]
    bare.close()
    chip = open_transport(f"{kind}:{tmp_path / 'chip'}")
    try:
        assert [chip.execute(command) for command in DETERMINISTIC] == expected
    finally:
        chip.close()
    assert expected[6] == bytes.fromhex("8002 00000013 00000000 00000000 0000 01 0000")


@pytest.mark.parametrize("kind", KINDS)
def test_a_chip_stands_by_until_it_is_opened_again(kind: str, tmp_path: Path) -> None:
    address = f"{kind}:{tmp_path}"

    def life(*frames: bytes) -> tuple[list[bytes], bytes]:
        chip = open_transport(address)
        try:
            (bank,) = (one for one in commands.read_pcrs(chip.execute, [9]) if one.hash == "sha256")
            return [chip.execute(frame) for frame in frames], bank.pcrs[0].value
        finally:
            chip.close()
            chip.close()

    life(EXTEND)
    assert any(life()[1])
    life(build(Code.SHUTDOWN, b"\0\1"))
    assert any(life()[1])
    life(build(Code.SHUTDOWN, b"\0\0"))
    assert not any(life()[1])


def test_a_standby_state_is_good_for_one_start() -> None:
    storage = MemoryStorage()
    tpm = LibtpmsTpm(storage, family=Family.TPM20)
    tpm.power_on()
    assert commands.startup(tpm.execute, StartupType.CLEAR)
    tpm.stand_by()
    tpm.close()
    again = LibtpmsTpm(storage, family=Family.TPM20)
    again.power_on()
    assert not commands.startup(again.execute, StartupType.CLEAR)
    assert StateName.STANDBY not in storage.blobs
    again.power_on()
    assert commands.startup(again.execute, StartupType.CLEAR)
    again.close()


@pytest.mark.parametrize(("first", "second"), [("libtpms", "libtpms2"), ("libtpms2", "libtpms")])
def test_a_state_of_the_other_family_is_refused_and_kept(
    first: str, second: str, tmp_path: Path
) -> None:
    open_transport(f"{first}:{tmp_path}").close()
    before = (tmp_path / "permanent").read_bytes()
    with pytest.raises(StateError):
        open_transport(f"{second}:{tmp_path}")
    assert (tmp_path / "permanent").read_bytes() == before


@pytest.mark.parametrize("name", ["engine", "swtpm"])
def test_an_engine_that_is_no_tpm_20_says_so(name: str) -> None:
    with pytest.raises(UsageError, match=r"no TPM 2\.0"):
        make_engine(name, MemoryStorage(), family=Family.TPM20)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_command_is_answered_in_the_family_s_way(kind: str, tmp_path: Path) -> None:
    tpm = engine(kind, tmp_path)
    tpm.power_on()
    assert tpm.execute(b"") == error_response(Rc.COMMAND_SIZE)
    assert tpm.execute(build(Code.SELF_TEST, b"\1"), 5) == error_response(Rc.LOCALITY)
    tpm.close()


def test_the_family_shows_in_the_tag_of_the_answer() -> None:
    with_family = open_transport("libtpms2:")
    try:
        assert commands.answers_as_tpm2(with_family.execute)
    finally:
        with_family.close()
    without = open_transport("libtpms:")
    try:
        assert not commands.answers_as_tpm2(without.execute)
    finally:
        without.close()
