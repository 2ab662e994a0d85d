"""The manager's store: durable, exclusive, and every change from outside is noticed."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from hwtpm.errors import AccessDenied, Busy, StateError, UsageError
from hwtpm.secret import Secret
from vstack.vtpmmgr.store import Header, RecordId, Store, StoreFile

ROOT_KEY = Secret(b"r" * 32)
GROUP_KEY = Secret(b"g" * 32)
HEADER = Header(UUID(int=1), "tpm12", "ab" * 32, b"sealed by the chip")
GROUP = RecordId("group", UUID(int=7))
ALICE = RecordId("vtpm", UUID(int=8), GROUP.id)
BOB = RecordId("vtpm", UUID(int=9), GROUP.id)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "manager.db"
    file = StoreFile(path)
    assert file.header is None
    store = Store.create(file, HEADER, ROOT_KEY, {GROUP: (ROOT_KEY, b"the group")})
    store.put(ALICE, GROUP_KEY, b"alice's secret")
    store.put(BOB, GROUP_KEY, b"bob's secret")
    store.close()
    return path


@contextlib.contextmanager
def opened(path: Path, root_key: Secret = ROOT_KEY) -> Iterator[Store]:
    with contextlib.closing(StoreFile(path)) as file:
        yield Store(file, root_key)


def edit(path: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


def contents(path: Path) -> dict[str, bytes]:
    with opened(path) as store:
        return {
            str(at): store.get(at, ROOT_KEY if at == GROUP else GROUP_KEY)
            for kind in ("group", "vtpm")
            for at in store.ids(kind)
        }


def test_what_was_put_is_there_after_a_restart(path: Path) -> None:
    with opened(path) as store:
        assert store.header == HEADER
        assert store.changes == 3
        assert store.get(ALICE, GROUP_KEY) == b"alice's secret"
        assert store.find("vtpm", BOB.id) == BOB
        assert store.find("vtpm", UUID(int=99)) is None
        store.put(ALICE, GROUP_KEY, b"new")
        store.delete(BOB)
    with opened(path) as store:
        assert store.get(ALICE, GROUP_KEY) == b"new"
        assert store.ids("vtpm") == [ALICE]
        assert store.changes == 5


def test_secrets_are_not_readable_in_the_files(path: Path) -> None:
    with opened(path):
        raw = b"".join(p.read_bytes() for p in path.parent.iterdir())
    assert b"secret" not in raw
    assert HEADER.chip_name.encode() in raw


def test_files_are_for_their_owner_only(path: Path) -> None:
    path.chmod(0o644)
    with opened(path) as store:
        store.put(ALICE, GROUP_KEY, b"x")
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_second_manager_is_told_that_the_store_is_in_use(path: Path) -> None:
    with opened(path):
        with pytest.raises(Busy, match="in use by another manager"):
            StoreFile(path)
        path.read_bytes()  # closing another descriptor of the file must not give the lock away
        with pytest.raises(Busy):
            StoreFile(path)
    StoreFile(path).close()


def test_another_program_in_the_database_is_noticed(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE header SET format = format")
        with pytest.raises(Busy, match="another program"):
            StoreFile(path)
        other.execute("ROLLBACK")


def test_every_flipped_byte_of_a_record_is_noticed_and_only_that_record_refused(
    path: Path,
) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        query = "SELECT sealed FROM record WHERE id = ?"
        (sealed,) = database.execute(query, (ALICE.id.bytes,)).fetchone()
    for at in range(len(sealed)):
        broken = bytearray(sealed)
        broken[at] ^= 0x80
        edit(path, "UPDATE record SET sealed = ? WHERE id = ?", bytes(broken), ALICE.id.bytes)
        with opened(path) as store:
            with pytest.raises(StateError) as error:
                store.get(ALICE, GROUP_KEY)
            assert str(path) in error.value.message
            assert str(ALICE.id) in error.value.message
            assert store.get(BOB, GROUP_KEY) == b"bob's secret"
    edit(path, "UPDATE record SET sealed = ? WHERE id = ?", sealed, ALICE.id.bytes)
    assert len(contents(path)) == 3


def test_swapped_contents_of_two_records_are_noticed(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        rows = dict(database.execute("SELECT id, sealed FROM record WHERE kind = 'vtpm'"))
        for mine, other in ((ALICE, BOB), (BOB, ALICE)):
            database.execute(
                "UPDATE record SET sealed = ? WHERE id = ?", (rows[other.id.bytes], mine.id.bytes)
            )
    with opened(path) as store:
        for at in (ALICE, BOB):
            with pytest.raises(StateError, match=str(at.id)):
                store.get(at, GROUP_KEY)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM record WHERE id = x'00000000000000000000000000000008'",
        "UPDATE record SET generation = generation + 1 WHERE kind = 'vtpm'",
        "UPDATE record SET parent = id WHERE kind = 'vtpm'",
        "UPDATE record SET nonce = zeroblob(12) WHERE kind = 'vtpm'",
        "UPDATE record SET nonce = x'00' WHERE kind = 'vtpm'",
        "UPDATE record SET generation = -1 WHERE kind = 'vtpm'",
        "UPDATE record SET kind = '' WHERE kind = 'group'",
        "UPDATE record SET kind = printf('%300s', 'x') WHERE kind = 'group'",
        "UPDATE record SET kind = 'other' WHERE kind = 'group'",
        "UPDATE record SET id = x'01' WHERE kind = 'group'",
        "UPDATE record SET sealed = zeroblob(56) WHERE kind = 'manifest'",
        "DELETE FROM record WHERE kind = 'manifest'",
        "DELETE FROM record",
        "DELETE FROM header",
        "DROP TABLE header",
        "DROP TABLE record",
        "UPDATE header SET manager = x'02'",
        "UPDATE header SET manager = x'00000000000000000000000000000002'",
    ],
)
def test_a_changed_set_of_records_is_refused_and_left_alone(path: Path, statement: str) -> None:
    edit(path, statement)
    before = path.read_bytes()
    with pytest.raises(StateError, match=str(path)) as error, opened(path):
        pass
    assert error.value.hint
    assert path.read_bytes() == before


def test_an_older_copy_of_a_single_record_is_noticed(path: Path) -> None:
    query = "SELECT parent, generation, nonce, sealed FROM record WHERE id = ?"
    with contextlib.closing(sqlite3.connect(path)) as database:
        old = database.execute(query, (ALICE.id.bytes,)).fetchone()
    with opened(path) as store:
        store.put(ALICE, GROUP_KEY, b"newer")
    edit(
        path,
        "UPDATE record SET parent = ?, generation = ?, nonce = ?, sealed = ? WHERE id = ?",
        *old,
        ALICE.id.bytes,
    )
    with pytest.raises(StateError, match="older copies"), opened(path):
        pass


def test_an_older_copy_that_appears_while_the_manager_runs_is_noticed(path: Path) -> None:
    with opened(path) as store:
        old = store._file.row(ALICE)
        assert old is not None
        store.put(ALICE, GROUP_KEY, b"newer")
        store._file.commit([old])
        with pytest.raises(StateError, match=str(ALICE.id)):
            store.get(ALICE, GROUP_KEY)


def test_commits_are_synchronous_and_logged_ahead(path: Path) -> None:
    with opened(path) as store:
        database = store._file._connected()
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA locking_mode").fetchone() == ("exclusive",)


def test_a_newer_format_is_refused(path: Path) -> None:
    edit(path, "UPDATE header SET format = 2")
    with pytest.raises(StateError, match="format 2"):
        StoreFile(path)


def test_a_wrong_root_key_is_refused(path: Path) -> None:
    with pytest.raises(StateError, match="manifest"), opened(path, Secret(b"x" * 32)):
        pass


def test_flipped_bytes_of_the_file_give_the_truth_or_an_error(path: Path) -> None:
    whole, truth = path.read_bytes(), contents(path)
    outcomes = set()
    for at in range(0, len(whole), 41):
        broken = bytearray(whole)
        broken[at] ^= 0xFF
        path.write_bytes(broken)
        try:
            found = contents(path)
        except StateError as error:
            outcomes.add("refused" if str(path) in error.message else error.message)
        else:
            assert found == truth
            outcomes.add("unharmed")
    assert outcomes == {"refused", "unharmed"}


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100])
def test_an_emptied_or_foreign_file_is_never_made_into_a_new_store(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(StateError, match=str(path)):
        StoreFile(path)
    assert path.read_bytes() == content


def test_links_and_directories_are_refused(tmp_path: Path, path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with pytest.raises(StateError, match="symbolic link"):
        StoreFile(link)
    (tmp_path / "directory").mkdir()
    with pytest.raises(StateError):
        StoreFile(tmp_path / "directory")
    (tmp_path / "third.db.lock").symlink_to(path)
    with pytest.raises(StateError):
        StoreFile(tmp_path / "third.db")
    with pytest.raises(StateError, match="No such file"):
        StoreFile(tmp_path / "nowhere" / "manager.db")


def test_leftovers_of_a_crash_while_creating_are_no_store(tmp_path: Path) -> None:
    path = tmp_path / "manager.db"
    (tmp_path / "manager.db.new").write_bytes(b"half a database")
    for suffix in ("journal", "wal", "shm"):
        (tmp_path / f"manager.db.new-{suffix}").write_bytes(b"half a log")
    with contextlib.closing(StoreFile(path)) as file:
        assert file.header is None
        Store.create(file, HEADER, ROOT_KEY, {GROUP: (ROOT_KEY, b"the group")})
    assert contents(path) == {str(GROUP): b"the group"}
    assert not (tmp_path / "manager.db.new").exists()


def test_a_log_without_its_store_is_a_lost_store_and_not_replayed_into_a_new_one(
    path: Path,
) -> None:
    with opened(path) as store:
        store.put(ALICE, GROUP_KEY, b"only in the log")
        log = path.with_name("manager.db-wal")
        kept = log.read_bytes()
    assert kept
    log.write_bytes(kept)
    path.unlink()
    with pytest.raises(StateError, match=r"manager\.db-wal"):
        StoreFile(path)
    assert log.read_bytes() == kept


def test_a_failed_write_changes_nothing_and_the_store_goes_on(path: Path) -> None:
    with opened(path) as store:
        database = store._file._connected()
        database.execute("PRAGMA max_page_count = 1")
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StateError, match="full"):
            store.put(ALICE, GROUP_KEY, bytes(100_000))
        assert store.get(ALICE, GROUP_KEY) == b"alice's secret"
        database.execute("PRAGMA max_page_count = 1000000")
        store.put(BOB, GROUP_KEY, b"later")
    assert contents(path)[str(ALICE)] == b"alice's secret"
    assert contents(path)[str(BOB)] == b"later"


def test_a_closed_store_says_so(path: Path) -> None:
    with opened(path) as store:
        pass
    with pytest.raises(UsageError, match="closed"):
        store.put(ALICE, GROUP_KEY, b"x")


_WRITER = """
import sys
from pathlib import Path
from test_vtpmmgr_store import ALICE, GROUP_KEY, ROOT_KEY
from vstack.vtpmmgr.store import Store, StoreFile
store = Store(StoreFile(Path(sys.argv[1])), ROOT_KEY)
for number in range(10**9):
    store.put(ALICE, GROUP_KEY, b"%d" % number)
    print(number, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 40, 333])
def test_a_killed_writer_leaves_the_last_acknowledged_change_or_the_next(
    path: Path, acknowledged: int
) -> None:
    here = os.pathsep.join((str(Path(__file__).parent), str(Path.cwd())))
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": here},
    ) as writer:
        assert writer.stdout is not None
        for _ in range(acknowledged):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        tail = writer.stdout.read().split()
    last = int(tail[-1]) if tail else acknowledged - 1
    found = int(contents(path)[str(ALICE)])
    assert found in (last, last + 1)


def test_a_file_that_the_system_does_not_let_us_open_is_access_denied(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(AccessDenied, match="Permission denied"):
        StoreFile(path)
