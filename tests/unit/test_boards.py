"""Boards' files: what they declare, what is refused and how, and whose come first."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwtpm.boards import boards, find_board, read_board, search_path
from hwtpm.boards.file import Ftdi, SimulatedFtdi, SimulatedSpidev, Spidev
from hwtpm.errors import AccessDenied, DeviceNotFound, UsageError
from hwtpm.softtpm.base import Family
from hwtpm.tis import ChipInfo
from hwtpm.tis_spi.quirks import quirks_of
from hwtpm.tis_spi.virtual import PROFILES

OURS = search_path()[-1:]
ALL = boards(OURS)
GOOD = """
summary = "a board"
source = "this test"

[bus]
kind = "ftdi"
url = "ftdi://ftdi:232h/1"
clock_hz = 10_000_000

[bus.reset]
pin = 4

[chip]
name = "cr50"
did_vid = "00281AE0"
family = "TPM 2.0"

[quirks]
gap_s = 0.003
"""


def _file(directory: Path, text: str, name: str = "mine") -> Path:
    path = directory / f"{name}.toml"
    path.write_text(text)
    return path


def test_there_is_a_file_for_each_board_that_can_be_driven() -> None:
    real = [board for board in ALL.values() if not board.simulated]
    assert len(real) >= 16
    assert {type(board.bus) for board in real} == {Spidev, Ftdi}


@pytest.mark.parametrize("name", ALL)
def test_a_board_claims_nothing_that_nobody_has_seen_and_allows_nothing(name: str) -> None:
    board = ALL[name]
    assert board.verified == ()
    assert board.unverified
    assert board.policy.allow_destructive is board.simulated


@pytest.mark.parametrize("name", ALL)
def test_no_board_clocks_its_chip_faster_than_the_chip_stands(name: str) -> None:
    board = ALL[name]
    if board.chip.did_vid is not None:
        quirks = quirks_of(ChipInfo(int(board.chip.did_vid, 16), 0, 0, 0))
        assert board.bus.clock_hz <= quirks.max_sck_hz


def test_simulated_boards_play_the_chip_they_name() -> None:
    simulated = [b for b in ALL.values() if isinstance(b.bus, SimulatedFtdi | SimulatedSpidev)]
    assert simulated
    for board in simulated:
        assert isinstance(board.bus, SimulatedFtdi | SimulatedSpidev)
        personality = PROFILES[board.bus.profile].personality
        assert board.chip.did_vid == f"{personality.did_vid:08X}"
        assert (board.chip.family is Family.TPM20) is personality.tpm20


def test_overrides_change_the_quirks_of_the_expected_chip(tmp_path: Path) -> None:
    quirks = read_board(_file(tmp_path, GOOD)).known_quirks()
    assert quirks is not None
    assert (quirks.name, quirks.gap_s, quirks.header_bit_valid) == ("cr50", 0.003, False)
    plain = read_board(_file(tmp_path, GOOD.replace("gap_s = 0.003", "")))
    assert plain.known_quirks() is None


def test_a_chip_that_is_another_one_is_told_from_the_boards() -> None:
    chip = ALL["sim-slb9670-ftdi"].chip
    did_vid, of_tpm2 = 0x001B15D1, 3 << 28
    assert chip.differs(ChipInfo(did_vid, 0x16, 0, 0xF)) == ""
    assert "00281AE0" in chip.differs(ChipInfo(0x00281AE0, 0, 0, 0xF))
    assert "TPM 2.0, not a TPM 1.2" in chip.differs(ChipInfo(did_vid, 0x16, of_tpm2, 0xF))


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('kind = "ftdi"', 'kind = "i2c"', "bus.kind"),
        ("10_000_000", "10_000_000_000", "bus.clock_hz"),
        ("10_000_000", '"fast"', "bus.clock_hz"),
        ("pin = 4", "pin = 16", "bus.reset.pin"),
        ("pin = 4", "pin = 3", "bus"),
        ("pin = 4", 'pin = 4\nactive = "high"', "bus.reset.active"),
        ("00281AE0", "0x281ae0", "chip.did_vid"),
        ("TPM 2.0", "TPM 3.0", "chip.family"),
        ("gap_s", "gaps", "quirks"),
        ("gap_s = 0.003", "transfer_limit = 65", "quirks.transfer_limit"),
        ('source = "this test"', "", "source"),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_field(
    old: str, new: str, field: str, tmp_path: Path
) -> None:
    path = _file(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UsageError) as failure:
        read_board(path)
    assert str(path) in failure.value.message
    assert field in failure.value.message
    assert failure.value.hint


@pytest.mark.parametrize("content", [b"[", b"\xff", b"# " + b"x" * 70_000])
def test_what_is_no_toml_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=str(path)):
        read_board(path)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match="No such file"):
        read_board(tmp_path / "none.toml")


def test_the_users_own_board_hides_ours_of_the_same_name(tmp_path: Path) -> None:
    _file(tmp_path, GOOD, "letstrust-tpm")
    assert find_board("letstrust-tpm", (tmp_path, *OURS)).summary == "a board"
    assert find_board("letstrust-tpm", OURS).summary != "a board"
    assert set(boards((tmp_path, *OURS))) == set(ALL)


def test_an_unknown_board_is_not_replaced_by_another(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFound, match="no board nope"):
        find_board("nope", (tmp_path,))
    for name in ("", "../letstrust-tpm", "Nope", "a/b"):
        with pytest.raises(UsageError, match="no name of a board"):
            find_board(name, OURS)
