"""The sealed state of a vTPM: which copy counts, and what is refused without being touched."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import pytest

from hwtpm.errors import AccessDenied, HwtpmError, StateError
from hwtpm.softtpm.base import StateName
from vstack.vtpm.state import EK_PUBLIC, SealedState, StateFolder

OURS = UUID(int=1)
OTHERS = UUID(int=2)
MANAGER = UUID(int=0xAA)
OTHER_MANAGER = UUID(int=0xBB)


@dataclass
class Keeper:
    """A manager for one vTPM. `fails` says what goes wrong at the next save."""

    kept: bytes | None = None
    saves: int = 0
    fails: str = ""
    seen: list[bytes] = field(default_factory=list)

    def save_hash_key(self, data: bytes) -> None:
        fails, self.fails = self.fails, ""
        if fails == "before":
            raise StateError("the manager cannot write")
        self.kept = data
        self.saves += 1
        self.seen.append(data)
        if fails == "after":
            raise HwtpmError("the answer is lost")

    def load_hash_key(self) -> bytes | None:
        return self.kept


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path, "guest", OURS, MANAGER)


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


def used(folder: StateFolder, keeper: Keeper, saves: int = 3) -> dict[str, bytes]:
    """A state that has been saved that often, closed again; its entries."""
    state = SealedState(folder, keeper, fresh=True)
    for number in range(saves):
        state.store(StateName.PERMANENT, b"permanent %d" % number)
    state.close()
    return {"permanent": b"permanent %d" % (saves - 1)}


def reopen(folder: StateFolder, keeper: Keeper) -> SealedState:
    return SealedState(folder, keeper, fresh=False)


def files(folder: StateFolder) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.directory.iterdir()
    }


def current(folder: StateFolder, keeper: Keeper) -> Path:
    """The copy that the manager's hash names; no bytes are stale behind it here."""
    assert keeper.kept is not None
    for path in folder.directory.iterdir():
        if hashlib.sha256(path.read_bytes()).digest() == keeper.kept[:32]:
            return path
    raise AssertionError("no copy is current")


def other(folder: StateFolder, keeper: Keeper) -> Path:
    (path,) = set(folder.directory.iterdir()) - {current(folder, keeper)}
    return path


def test_a_fresh_state_is_empty_and_writes_nothing_until_it_is_used(
    folder: StateFolder, keeper: Keeper
) -> None:
    state = SealedState(folder, keeper, fresh=True)
    assert state.load(StateName.PERMANENT) is None
    assert (files(folder), keeper.saves) == ({}, 0)


def test_all_entries_are_there_after_reopening(folder: StateFolder, keeper: Keeper) -> None:
    state = SealedState(folder, keeper, fresh=True)
    state.store(StateName.PERMANENT, b"p" * 5000)
    state.store(StateName.SAVED, b"")
    state.put(EK_PUBLIC, b"ek")
    state.close()
    again = reopen(folder, keeper)
    assert again.load(StateName.PERMANENT) == b"p" * 5000
    assert again.load(StateName.SAVED) == b""
    assert again.get(EK_PUBLIC) == b"ek"
    again.delete(StateName.SAVED)
    again.delete(StateName.SAVED)
    assert keeper.saves == 4
    assert reopen(folder, keeper).load(StateName.SAVED) is None


def test_a_shorter_state_over_a_longer_one_reads_back(folder: StateFolder, keeper: Keeper) -> None:
    state = SealedState(folder, keeper, fresh=True)
    for size in (3000, 2000, 10, 0):
        state.store(StateName.PERMANENT, bytes(size))
        assert reopen(folder, keeper).load(StateName.PERMANENT) == bytes(size)


def test_every_save_has_a_key_of_its_own_and_shows_no_plaintext(
    folder: StateFolder, keeper: Keeper
) -> None:
    state = SealedState(folder, keeper, fresh=True)
    for _ in range(4):
        state.store(StateName.PERMANENT, b"the same secret")
    assert len({kept[32:] for kept in keeper.seen}) == 4
    for path in folder.directory.iterdir():
        assert b"secret" not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600


def test_another_manager_is_refused_and_nothing_is_changed(
    folder: StateFolder, keeper: Keeper
) -> None:
    used(folder, keeper)
    before = files(folder)
    elsewhere = Keeper()
    with pytest.raises(StateError, match=str(MANAGER)) as caught:
        reopen(replace(folder, manager=OTHER_MANAGER), elsewhere)
    assert str(OTHER_MANAGER) in caught.value.message
    assert str(folder.directory) in caught.value.message
    assert (files(folder), elsewhere.saves) == (before, 0)


def test_a_vtpm_that_may_begin_anew_does_not_overwrite_the_state_of_another_manager(
    folder: StateFolder, keeper: Keeper
) -> None:
    used(folder, keeper)
    before = files(folder)
    with pytest.raises(StateError, match=str(MANAGER)):
        SealedState(replace(folder, manager=OTHER_MANAGER), Keeper(), fresh=True)
    assert files(folder) == before


def test_a_copy_whose_first_save_a_crash_cut_short_is_written_over(folder: StateFolder) -> None:
    state = SealedState(folder, Keeper(fails="before"), fresh=True)
    with pytest.raises(StateError):
        state.store(StateName.PERMANENT, b"lost")
    state.close()
    again = SealedState(folder, keeper := Keeper(), fresh=True)
    again.store(StateName.PERMANENT, b"kept")
    again.close()
    assert reopen(folder, keeper).load(StateName.PERMANENT) == b"kept"


def test_a_state_that_should_be_there_and_is_nowhere_is_an_error(
    folder: StateFolder, keeper: Keeper
) -> None:
    with pytest.raises(StateError, match="holds no state"):
        reopen(folder, keeper)
    assert files(folder) == {}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [damage, truncate, empty, Path.unlink])
def test_a_lost_current_copy_is_an_error_that_names_the_directory(
    folder: StateFolder, keeper: Keeper, spoil: Callable[[Path], None]
) -> None:
    used(folder, keeper)
    spoil(current(folder, keeper))
    before = files(folder)
    for fresh in (False, True):  # being new is no licence to overwrite what the manager knows
        with pytest.raises(StateError, match=str(folder.directory)):
            SealedState(folder, keeper, fresh=fresh)
    assert (files(folder), keeper.saves) == (before, 3)


@pytest.mark.parametrize("spoil", [damage, truncate, empty, Path.unlink])
def test_the_copy_that_is_not_current_does_not_matter(
    folder: StateFolder, keeper: Keeper, spoil: Callable[[Path], None]
) -> None:
    entries = used(folder, keeper)
    spoil(other(folder, keeper))
    state = reopen(folder, keeper)
    assert state.load(StateName.PERMANENT) == entries["permanent"]
    state.store(StateName.PERMANENT, b"next")
    assert reopen(folder, keeper).load(StateName.PERMANENT) == b"next"


def test_missing_copies_are_told_from_damaged_ones(folder: StateFolder, keeper: Keeper) -> None:
    used(folder, keeper)
    for path in folder.directory.iterdir():
        path.unlink()
    with pytest.raises(StateError, match="no copy of it is there"):
        reopen(folder, keeper)
    assert files(folder) == {}


def test_copies_rolled_back_together_are_refused(folder: StateFolder, keeper: Keeper) -> None:
    used(folder, keeper)
    backup = {path: path.read_bytes() for path in folder.directory.iterdir()}
    state = reopen(folder, keeper)
    for number in range(2):
        state.store(StateName.PERMANENT, b"later %d" % number)
    for path, data in backup.items():
        path.write_bytes(data)
    with pytest.raises(StateError, match="rolled back"):
        reopen(folder, keeper)


def test_copies_of_another_vtpm_are_refused(folder: StateFolder, tmp_path: Path) -> None:
    folders = [
        replace(folder, directory=tmp_path / name, uuid=uuid)
        for name, uuid in (("ours", OURS), ("others", OTHERS))
    ]
    keepers = [Keeper(), Keeper()]
    for its_folder, its_keeper in zip(folders, keepers, strict=True):
        its_folder.directory.mkdir()
        used(its_folder, its_keeper)
    with pytest.raises(StateError, match="no copy on disk is the one"):
        reopen(replace(folders[0], directory=folders[1].directory), keepers[0])
    # Even a manager that mixes two vTPMs up does not give one the other's state.
    with pytest.raises(StateError, match=str(OTHERS)):
        reopen(replace(folders[0], directory=folders[1].directory), keepers[1])


def test_a_key_that_does_not_fit_is_a_state_error(folder: StateFolder, keeper: Keeper) -> None:
    used(folder, keeper)
    assert keeper.kept is not None
    keeper.kept = keeper.kept[:32] + bytes(32)
    with pytest.raises(StateError, match="does not open"):
        reopen(folder, keeper)


def test_every_flipped_bit_of_the_current_copy_is_noticed(
    folder: StateFolder, keeper: Keeper
) -> None:
    used(folder, keeper)
    path = current(folder, keeper)
    whole = path.read_bytes()
    header = range(8 * 58)  # all of it: it is not encrypted
    rest = random.Random(1).sample(range(8 * 58, 8 * len(whole)), 300)
    for bit in (*header, *rest):
        spoilt = bytearray(whole)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        with pytest.raises(StateError):
            reopen(folder, keeper)
    path.write_bytes(whole)
    reopen(folder, keeper)


@pytest.mark.parametrize("fails", ["before", "after"])
def test_a_save_whose_outcome_is_unknown_is_settled_by_the_next_one(
    folder: StateFolder, keeper: Keeper, fails: str
) -> None:
    used(folder, keeper)
    state = reopen(folder, keeper)
    for number in range(4):  # in each of the two copies, and both again
        keeper.fails = fails
        with pytest.raises(HwtpmError):
            state.store(StateName.PERMANENT, b"in doubt %d" % number)
        expected = b"in doubt %d" % number if fails == "after" else b"sure %d" % (number - 1)
        if number:
            assert reopen(folder, keeper).load(StateName.PERMANENT) == expected
        state.store(StateName.PERMANENT, b"sure %d" % number)
        assert state.load(StateName.PERMANENT) == b"sure %d" % number
        assert reopen(folder, keeper).load(StateName.PERMANENT) == b"sure %d" % number


@pytest.mark.parametrize("fails", ["before", "after"])
def test_the_very_first_save_may_fail_too(folder: StateFolder, keeper: Keeper, fails: str) -> None:
    state = SealedState(folder, keeper, fresh=True)
    keeper.fails = fails
    with pytest.raises(HwtpmError):
        state.store(StateName.PERMANENT, b"first")
    state.store(StateName.PERMANENT, b"second")
    assert reopen(folder, keeper).load(StateName.PERMANENT) == b"second"


def test_a_link_in_place_of_a_copy_is_not_followed(folder: StateFolder, tmp_path: Path) -> None:
    target = tmp_path.parent / f"{tmp_path.name}-target"
    target.write_bytes(b"precious")
    (folder.directory / "state.0").symlink_to(target)
    with pytest.raises((StateError, AccessDenied)):
        SealedState(folder, Keeper(), fresh=True).store(StateName.PERMANENT, b"x")
    assert target.read_bytes() == b"precious"
