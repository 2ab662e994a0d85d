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
from hwtpm.softtpm.slots import Slots
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


def sector(number: int, index: int, content: bytes) -> bytes:
    """A sector of a short blob, from the format's description alone."""
    here = content if index == 0 else b""
    body = number.to_bytes(8, "big") + len(content).to_bytes(4, "big") + here.ljust(484, b"\0")
    return body + hashlib.sha256(index.to_bytes(4, "big") + body).digest()[:16]


def test_file_format_is_as_documented(directory: Path) -> None:
    with FileStorage(directory) as files:
        for blob in (b"one", b"second", b"third"):
            files.store(PERMANENT, blob)
    head = b"HWTPMblb" + (2).to_bytes(4, "big") + (8192).to_bytes(8, "big")
    pages = [(head + hashlib.sha256(head).digest()).ljust(4096, b"\0")]
    for number, blob in ((3, b"third"), (2, b"second")):
        pages += [b"".join(sector(number, i, blob) for i in range(8)), bytes(4096)]
    assert (directory / "permanent").read_bytes() == b"".join(pages)


@given(blob=st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_files_of_format_1_are_read_and_then_written_in_the_new_one(
    tmp_path: Path, blob: bytes
) -> None:
    head = b"HWTPMblb" + (1).to_bytes(4, "big") + len(blob).to_bytes(8, "big")
    old = head + hashlib.sha256(head + blob).digest() + blob
    (tmp_path / "permanent").write_bytes(old)
    with FileStorage(tmp_path) as files:
        assert files.load(PERMANENT) == blob
        assert (tmp_path / "permanent").read_bytes() == old
        for at in range(len(old)):
            (tmp_path / "permanent").write_bytes(old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :])
            with pytest.raises(StateError):
                files.load(PERMANENT)
        files.store(PERMANENT, blob + b"!")
        assert files.load(PERMANENT) == blob + b"!"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(blobs=st.lists(st.binary(max_size=20_000) | st.binary(max_size=600), max_size=8))
def test_blobs_of_any_size_replace_each_other(tmp_path: Path, blobs: list[bytes]) -> None:
    with FileStorage(tmp_path) as files:
        for blob in blobs:
            files.store(PERMANENT, blob)
            assert files.load(PERMANENT) == blob


def test_a_blob_is_replaced_by_one_write_and_one_sync(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str) -> None:
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, **k: (calls.append(name), real(*a, **k))[1])

    with FileStorage(directory) as files:
        files.store(PERMANENT, bytes(2000))
        for name in ("open", "write", "pwrite", "fsync", "fdatasync", "rename", "unlink"):
            counted(name)
        for number in range(3):
            files.store(PERMANENT, bytes([number]) * 2000)
            assert calls == ["pwrite", "fdatasync"]
            calls.clear()
        monkeypatch.undo()
        assert files.load(PERMANENT) == b"\2" * 2000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    blobs=st.lists(st.binary(max_size=600) | st.binary(max_size=9000), min_size=2, max_size=5),
    data=st.data(),
)
def test_whatever_sectors_a_power_cut_let_through_it_is_the_old_or_the_new_blob(
    tmp_path: Path, blobs: list[bytes], data: st.DataObject
) -> None:
    slots = Slots(max(blobs, key=len))
    file = bytearray(slots.file)
    *before, last = blobs
    for blob in before:
        at, written = slots.next_write(blob) or pytest.fail("it does not fit")
        file[at : at + len(written)] = written
    at, written = slots.next_write(last) or pytest.fail("it does not fit")
    for start in range(0, len(written), 512):
        if data.draw(st.booleans()):
            file[at + start : at + start + 512] = written[start : start + 512]
    (tmp_path / "permanent").write_bytes(file)
    with FileStorage(tmp_path) as files:
        assert files.load(PERMANENT) in (before[-1], last)


def test_a_file_that_somebody_removed_is_made_anew(directory: Path) -> None:
    with FileStorage(directory) as files:
        files.store(PERMANENT, b"one")
        (directory / "permanent").unlink()
        files.store(PERMANENT, b"two")
        assert files.load(PERMANENT) == b"two"


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
        files.store(PERMANENT, b"before")
        files.store(PERMANENT, blob)
        good = path.read_bytes()
        bit = data.draw(st.integers(0, 8 * len(good) - 1))
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        cut = good[: data.draw(st.integers(0, len(good) - 1))]
        for damaged in (bytes(flipped), cut, good + b"\0", good[:4096] + bytes(len(good) - 4096)):
            path.write_bytes(damaged)
            with pytest.raises(StateError, match="permanent") as caught:
                files.load(PERMANENT)
            assert caught.value.hint
            assert path.read_bytes() == damaged


def test_newer_format_says_so(directory: Path) -> None:
    with FileStorage(directory) as files:
        files.store(PERMANENT, b"blob")
        path = directory / "permanent"
        path.write_bytes(path.read_bytes()[:8] + b"\0\0\0\3" + path.read_bytes()[12:])
        with pytest.raises(StateError, match="format 3") as caught:
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


@pytest.mark.parametrize(
    ("step", "size"), [("fsync", 9000), ("rename", 9000), ("pwrite", 3), ("fdatasync", 3)]
)
def test_failing_disk_keeps_the_old_blob(
    directory: Path, monkeypatch: pytest.MonkeyPatch, step: str, size: int
) -> None:
    """A blob for which there is no room in the file takes another way."""
    with FileStorage(directory) as files:
        files.store(PERMANENT, b"old")

        def fail(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(StateError, match="No space left") as caught:
                files.store(PERMANENT, bytes(size))
        assert "previous state" in caught.value.hint
        assert files.load(PERMANENT) == b"old"
        assert [path.name for path in directory.iterdir()] == ["permanent"]
        files.store(PERMANENT, b"next")
        assert files.load(PERMANENT) == b"next"


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
                files.store(PERMANENT, bytes(9000))
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
