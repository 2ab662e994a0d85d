"""File storage: durable, checked, exclusive, never regenerated."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwtpm.errors import AccessDenied, Busy, StateError, UsageError
from hwtpm.softtpm.base import StateName, Storage
from hwtpm.softtpm.storage import FileStorage

PERMANENT = StateName.PERMANENT


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "tpm"


def test_blobs_survive_reopening(directory: Path) -> None:
    with FileStorage(directory) as files:
        storage: Storage = files
        assert storage.load(PERMANENT) is None
        storage.store(PERMANENT, b"one")
        storage.store(PERMANENT, b"two")
        storage.store(StateName.SAVED, b"")
    with FileStorage(directory) as files:
        assert files.load(PERMANENT) == b"two"
        assert files.load(StateName.SAVED) == b""
        files.delete(PERMANENT)
        files.delete(PERMANENT)
    with FileStorage(directory) as files:
        assert files.load(PERMANENT) is None


def test_file_format_is_as_documented(directory: Path) -> None:
    with FileStorage(directory) as files:
        files.store(PERMANENT, b"blob")
    head = b"HWTPMblb" + (1).to_bytes(4, "big") + (4).to_bytes(8, "big")
    expected = head + hashlib.sha256(head + b"blob").digest() + b"blob"
    assert (directory / "permanent").read_bytes() == expected


def test_nobody_else_may_read_the_files(directory: Path) -> None:
    old = os.umask(0)
    try:
        with FileStorage(directory) as files:
            files.store(PERMANENT, b"secret")
    finally:
        os.umask(old)
    assert stat.S_IMODE((directory / "permanent").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in directory.iterdir()] == ["permanent"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), blob=st.binary(max_size=60))
def test_any_damage_is_a_state_error_and_leaves_the_file_alone(
    tmp_path: Path, data: st.DataObject, blob: bytes
) -> None:
    path = tmp_path / "permanent"
    with FileStorage(tmp_path) as files:
        files.store(PERMANENT, blob)
        good = path.read_bytes()
        bit = data.draw(st.integers(0, 8 * len(good) - 1))
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        cut = good[: data.draw(st.integers(0, len(good) - 1))]
        for damaged in (bytes(flipped), cut, good + b"\0"):
            path.write_bytes(damaged)
            with pytest.raises(StateError, match="permanent") as caught:
                files.load(PERMANENT)
            assert caught.value.hint
            assert path.read_bytes() == damaged


def test_newer_format_says_so(directory: Path) -> None:
    with FileStorage(directory) as files:
        files.store(PERMANENT, b"blob")
        path = directory / "permanent"
        path.write_bytes(path.read_bytes()[:8] + b"\0\0\0\2" + path.read_bytes()[12:])
        with pytest.raises(StateError, match="format 2") as caught:
            files.load(PERMANENT)
    assert "version of the program" in caught.value.hint


def _hold(directory: Path, held: object, done: object) -> None:
    with FileStorage(directory):
        held.set()
        done.wait(30)


def test_two_processes_never_share_a_directory(directory: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(directory, held, done))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(Busy, match="in use"):
            FileStorage(directory)
    finally:
        done.set()
        other.join(30)
    assert other.exitcode == 0
    FileStorage(directory).close()


def test_two_storages_of_one_process_never_share_a_directory(directory: Path) -> None:
    with FileStorage(directory), pytest.raises(Busy):
        FileStorage(directory)


def test_symbolic_links_are_refused_everywhere(tmp_path: Path) -> None:
    real, target = tmp_path / "real", tmp_path / "target"
    target.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(real)
    with FileStorage(real) as files:
        (real / "permanent").symlink_to(target)
        for attempt in (
            lambda: files.load(PERMANENT),
            lambda: files.store(PERMANENT, b"x"),
            lambda: files.delete(PERMANENT),
        ):
            with pytest.raises(StateError, match="symbolic links are refused"):
                attempt()
        (real / "saved.new").symlink_to(target)
        files.store(StateName.SAVED, b"fine")
        assert files.load(StateName.SAVED) == b"fine"
    with pytest.raises(StateError):
        FileStorage(tmp_path / "link")
    assert target.read_bytes() == b"precious"
    assert (real / "permanent").is_symlink()


def test_what_is_no_regular_file_is_refused_without_hanging(directory: Path) -> None:
    with FileStorage(directory) as files:
        os.mkfifo(directory / "permanent")
        with pytest.raises(StateError, match="no regular file"):
            files.load(PERMANENT)
        (directory / "saved").mkdir()
        with pytest.raises(StateError):
            files.load(StateName.SAVED)
        with pytest.raises(StateError):
            files.store(StateName.SAVED, b"x")


def test_file_in_place_of_the_directory_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError):
        FileStorage(tmp_path / "file")


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_failing_disk_keeps_the_old_blob(
    directory: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with FileStorage(directory) as files:
        files.store(PERMANENT, b"old")

        def fail(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(StateError, match="No space left") as caught:
                files.store(PERMANENT, b"new")
        assert "previous state" in caught.value.hint
        assert files.load(PERMANENT) == b"old"
        assert [path.name for path in directory.iterdir()] == ["permanent"]


def test_crash_before_the_rename_leaves_the_old_blob(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    def cut(*args: object, **kwargs: object) -> None:
        raise PowerCut

    with FileStorage(directory) as files:
        files.store(PERMANENT, b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", cut)
            with pytest.raises(PowerCut):
                files.store(PERMANENT, b"new")
    with FileStorage(directory) as files:
        assert files.load(PERMANENT) == b"old"
        files.store(PERMANENT, b"newer")
        assert files.load(PERMANENT) == b"newer"


def test_permission_problem_is_access_denied(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*args: object, **kwargs: object) -> int:
        raise PermissionError(13, "Permission denied")

    with FileStorage(directory) as files:
        files.store(PERMANENT, b"x")
        monkeypatch.setattr(os, "open", deny)
        with pytest.raises(AccessDenied):
            files.load(PERMANENT)


def test_absurd_sizes_are_refused(directory: Path) -> None:
    with FileStorage(directory) as files:
        with pytest.raises(UsageError):
            files.store(PERMANENT, bytes(1 << 24))
        with (directory / "permanent").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(StateError):
            files.load(PERMANENT)


def test_closed_storage_cannot_be_used(directory: Path) -> None:
    files = FileStorage(directory)
    files.close()
    files.close()
    for attempt in (lambda: files.load(PERMANENT), lambda: files.store(PERMANENT, b"")):
        with pytest.raises(UsageError, match="closed"):
            attempt()
