"""The manager's durable store: one SQLite file of records that are sealed one by one.

Format, and why SQLite: docs/manager-store.md. A plaintext header says which chip and manager the
file belongs to. Each record is encrypted and bound to its place and to the change that wrote it.
The manifest, itself a sealed record, holds the number of changes and a sum over what every record
was when it was last written: a record that is taken away, brought back or replaced by an older copy
of itself is noticed. An older copy of the whole file is not; that takes a counter in the chip.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import sqlite3
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hwtpm.errors import AccessDenied, Busy, HwtpmError, StateError, UsageError
from hwtpm.secret import Secret

__all__ = ["FORMAT", "Header", "RecordId", "Store", "StoreFile"]

FORMAT: Final = 1

_KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_MOST_KIND: Final = 255
_MANIFEST: Final = "manifest"
_MANIFEST_BODY: Final = struct.Struct(">Q32s")  # changes so far, sum over all records
_SUM_SIZE: Final = 32
_MODULUS: Final = 1 << 8 * _SUM_SIZE
_DISK: Final = "check the disk and the path; nothing has been changed"
_DISK_CODES: Final = frozenset(
    (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
)
_WAY_OUT: Final = "restore the file from a backup, or move it away to start a new manager"

_SCHEMA: Final = (
    """CREATE TABLE header (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        format INTEGER NOT NULL,
        manager BLOB NOT NULL,
        chip_kind TEXT NOT NULL,
        chip_name TEXT NOT NULL,
        sealed_root BLOB NOT NULL
    ) STRICT""",
    """CREATE TABLE record (
        kind TEXT NOT NULL,
        id BLOB NOT NULL,
        parent BLOB NOT NULL,
        generation INTEGER NOT NULL,
        nonce BLOB NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (kind, id)
    ) STRICT, WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True)
class Header:
    """What is readable without the chip.

    Attributes:
        manager: the manager's uuid.
        chip_kind: which root of trust sealed it, as `RootOfTrust` names its kinds.
        chip_name: hex SHA-256 of the endorsement public key, as `ChipIdentity.name`.
        sealed_root: the root secret, sealed by the chip.
    """

    manager: UUID
    chip_kind: str
    chip_name: str
    sealed_root: bytes


@dataclass(frozen=True, slots=True)
class RecordId:
    """A record's place: what it is, which one, and which record it belongs to."""

    kind: str
    id: UUID
    parent: UUID = field(default=UUID(int=0), compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


@dataclass(frozen=True, slots=True)
class _Known:
    """A record that is there, and its part in the manifest's sum."""

    at: RecordId
    weight: int


@dataclass(frozen=True, slots=True)
class _Row:
    """A record as it lies in the file."""

    at: RecordId
    generation: int
    nonce: bytes
    sealed: bytes

    def place(self) -> bytes:
        """The plaintext columns, encoded so that no two rows share an encoding."""
        kind = self.at.kind.encode()
        return struct.pack(
            f">B{len(kind)}s16s16sQ12s",
            len(kind),
            kind,
            self.at.id.bytes,
            self.at.parent.bytes,
            self.generation,
            self.nonce,
        )


class StoreFile:
    """The file, locked for one manager until `close`; its header needs no key.

    Raises:
        Busy: another manager uses it.
        AccessDenied: the operating system does not let us use it.
        StateError: it is damaged, of a newer format, a symbolic link or no file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None
        self._in_doubt = False
        self._lock = self._take_lock()
        try:
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the file and the lock go; closing twice is allowed."""
        database, self._database = self._database, None
        if database is not None:
            database.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def create(self, header: Header, rows: Iterable[_Row]) -> None:
        """Make the file with its first records; after a crash it is there whole or not at all."""
        fresh = self.path.with_name(self.path.name + ".new")
        with self._explained("create"):
            # The lock is ours, so files of these names are what a crash left behind.
            for suffix in ("", "-journal", "-wal", "-shm"):
                fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            os.close(fd)
            with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = FULL")
                database.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA:
                    database.execute(statement)
                database.execute(
                    "INSERT INTO header VALUES (1, ?, ?, ?, ?, ?)",
                    (
                        FORMAT,
                        header.manager.bytes,
                        header.chip_kind,
                        header.chip_name,
                        header.sealed_root,
                    ),
                )
                for row in rows:
                    _upsert(database, row)
                database.execute("COMMIT")
                database.execute("PRAGMA journal_mode = WAL")
            os.rename(fresh, self.path)
            _sync_directory(self.path.parent)
        self.header = self._read_header()

    def rows(self) -> Iterator[_Row]:
        """All records, sealed."""
        with self._explained("read"):
            for kind, identity, parent, generation, nonce, sealed in self._connected().execute(
                "SELECT kind, id, parent, generation, nonce, sealed FROM record"
            ):
                yield self._row(kind, identity, parent, generation, nonce, sealed)

    def row(self, at: RecordId) -> _Row | None:
        """One record, sealed."""
        with self._explained("read"):
            found = (
                self._connected()
                .execute(
                    "SELECT kind, id, parent, generation, nonce, sealed FROM record"
                    " WHERE kind = ? AND id = ?",
                    (at.kind, at.id.bytes),
                )
                .fetchone()
            )
        return None if found is None else self._row(*found)

    def commit(self, rows: Iterable[_Row], forget: Iterable[RecordId] = ()) -> None:
        """Write and delete records in one transaction, which is on the disk when this returns.

        Raises:
            StateError: it could not be written; what was there before still counts.
        """
        with self._explained("write"):
            database = self._connected()
            database.execute("BEGIN IMMEDIATE")
            try:
                for row in rows:
                    _upsert(database, row)
                for at in forget:
                    database.execute(
                        "DELETE FROM record WHERE kind = ? AND id = ?", (at.kind, at.id.bytes)
                    )
                database.execute("COMMIT")
            except sqlite3.Error:
                # SQLite has rolled back by itself after some errors, such as a full disk.
                if database.in_transaction:
                    database.execute("ROLLBACK")
                self._in_doubt = True
                with contextlib.suppress(sqlite3.Error):
                    self._settle_doubt(database)
                raise

    def damaged(self, what: str, hint: str = _WAY_OUT) -> StateError:
        """The error for something in this file that cannot be used."""
        return StateError(f"manager store {self.path}: {what}", hint=hint)

    def _take_lock(self) -> int:
        # Beside the store, not on it: the store is renamed into place, and closing any descriptor
        # of the file itself would drop the locks that SQLite holds on it.
        path = self.path.with_name(self.path.name + ".lock")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._of_system(error, "lock") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise Busy(
                f"manager store {self.path} is in use by another manager",
                hint="stop the other manager, or name another store",
            ) from error
        except OSError as error:
            os.close(fd)
            raise self._of_system(error, "lock") from error
        return fd

    def _read_header(self) -> Header | None:
        with self._explained("open"):
            try:
                found = self.path.lstat()
            except FileNotFoundError:
                log = self.path.with_name(self.path.name + "-wal")
                if log.exists():
                    # SQLite would replay it into whatever file takes that name.
                    raise self.damaged(f"it is missing, but its log {log.name} is there") from None
                return None
            if not stat.S_ISREG(found.st_mode):
                raise self.damaged("it is a symbolic link or no file", "name the real file")
            if found.st_mode & 0o077:
                self.path.chmod(0o600)
            # mode=rw: never create. An empty file is a lost store, not a new one.
            database = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw",
                uri=True,
                isolation_level=None,
                timeout=0,
                check_same_thread=False,
            )
            self._database = database
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA secure_delete = ON")
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise self.damaged(f"it is damaged: {verdict}")
            row = database.execute(
                "SELECT format, manager, chip_kind, chip_name, sealed_root FROM header"
            ).fetchone()
        if row is None:
            raise self.damaged("its header is missing")
        version, manager, chip_kind, chip_name, sealed_root = row
        if version != FORMAT:
            raise self.damaged(
                f"it has format {version}, this program reads {FORMAT}",
                "use the version of the program that wrote it",
            )
        return Header(self._uuid(manager), chip_kind, chip_name, sealed_root)

    def _row(
        self,
        kind: str,
        identity: bytes,
        parent: bytes,
        generation: int,
        nonce: bytes,
        sealed: bytes,
    ) -> _Row:
        if not 0 < len(kind.encode()) <= _MOST_KIND or generation < 0 or len(nonce) != _NONCE_SIZE:
            raise self.damaged(f"record {kind} {identity.hex()} is malformed")
        return _Row(
            RecordId(kind, self._uuid(identity), self._uuid(parent)), generation, nonce, sealed
        )

    def _uuid(self, value: bytes) -> UUID:
        try:
            return UUID(bytes=value)
        except ValueError as error:
            raise self.damaged(f"{value.hex()} is no uuid") from error

    def _connected(self) -> sqlite3.Connection:
        if self._database is None:
            raise UsageError(f"manager store {self.path} has been closed or was not created")
        self._settle_doubt(self._database)
        return self._database

    def _settle_doubt(self, database: sqlite3.Connection) -> None:
        """After a failed commit: empty the log, in which it may lie complete, so that a crash would
        bring back what was reported as failed. Until that works nothing is read or written."""
        if self._in_doubt:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._in_doubt = False

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # Errors of the binding itself, such as text that is no UTF-8, carry no code.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if code == sqlite3.SQLITE_BUSY:
                raise Busy(
                    f"manager store {self.path} is in use by another program",
                    hint="close the program that has the file open",
                ) from error
            hint = _DISK if code in _DISK_CODES else _WAY_OUT
            raise self.damaged(f"cannot {action} it: {error}", hint) from error
        except UnicodeDecodeError as error:
            # SQLite quotes damaged text in its message, which Python then cannot decode.
            raise self.damaged(f"cannot {action} it: it is damaged") from error
        except OSError as error:
            raise self._of_system(error, action) from error

    def _of_system(self, error: OSError, action: str) -> HwtpmError:
        message = f"cannot {action} it: {error.strerror}"
        if isinstance(error, PermissionError):
            return AccessDenied(
                f"manager store {self.path}: {message}",
                hint="check the owner and mode of the file and its directory",
            )
        return self.damaged(message, _DISK)


class Store:
    """The records of a store that has been opened with its root secret.

    Every change is one durable transaction that writes its record and the manifest, however many
    records there are. Keys are given with each call, because each group has its own.

    Args:
        file: the locked file.
        root_key: 32 bytes from the chip; keys the manifest.
        random: makes n random bytes, for nonces.
    """

    def __init__(
        self, file: StoreFile, root_key: Secret, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        header = file.header
        if header is None:
            raise UsageError(f"manager store {file.path} was not created")
        self._file = file
        self._sealer = _Sealer(header.manager, root_key, random)
        self._root_key = root_key
        self.header = header
        self._known: dict[RecordId, _Known] = {}
        self._changes, self._sum = self._verify()

    @classmethod
    def create(
        cls,
        file: StoreFile,
        header: Header,
        root_key: Secret,
        records: Mapping[RecordId, tuple[Secret, bytes]],
        random: Callable[[int], bytes] = os.urandom,
    ) -> Store:
        """A new store with its first records, each with the key that it is sealed under.

        Raises:
            StateError, AccessDenied: it cannot be written; then there is no store.
        """
        sealer = _Sealer(header.manager, root_key, random)
        rows = [sealer.seal(at, 1, key, plain) for at, (key, plain) in records.items()]
        total = sum(sealer.weight(row) for row in rows) % _MODULUS
        file.create(header, [*rows, sealer.manifest(1, total, root_key)])
        return cls(file, root_key, random)

    @property
    def changes(self) -> int:
        """How many changes the store has seen; only ever grows."""
        return self._changes

    def ids(self, kind: str) -> list[RecordId]:
        """The records of a kind that are there."""
        return [known.at for known in self._known.values() if known.at.kind == kind]

    def find(self, kind: str, identity: UUID) -> RecordId | None:
        """The place of a record, if there is one."""
        known = self._known.get(RecordId(kind, identity))
        return None if known is None else known.at

    def get(self, at: RecordId, key: Secret) -> bytes:
        """What a record holds.

        Raises:
            StateError: the record is damaged or was exchanged; it stays as it is.
        """
        row = self._file.row(at)
        plain = None
        if row is not None and self._sealer.weight(row) == self._known[at].weight:
            plain = self._sealer.open(row, key)
        if plain is None:
            raise self._file.damaged(
                f"record {at} is damaged or does not belong there",
                "restore the file from a backup, or have the manager forget this one",
            )
        return plain

    def put(self, at: RecordId, key: Secret, plain: bytes) -> None:
        """Durably write a record; when this returns it is on the disk.

        Raises:
            StateError: it could not be written; the old content is still there.
        """
        row = self._sealer.seal(at, self._changes + 1, key, plain)
        weight = self._sealer.weight(row)
        changes, total, manifest = self._next(weight - self._weight(at))
        self._file.commit([row, manifest])
        self._changes, self._sum, self._known[at] = changes, total, _Known(at, weight)

    def delete(self, at: RecordId) -> None:
        """Durably forget a record, damaged or not.

        Raises:
            StateError: the file could not be written; the record is still there.
        """
        changes, total, manifest = self._next(-self._weight(at))
        self._file.commit([manifest], forget=[at])
        self._changes, self._sum = changes, total
        del self._known[at]

    def close(self) -> None:
        """Let the file and the lock go."""
        self._file.close()

    def _weight(self, at: RecordId) -> int:
        known = self._known.get(at)
        return 0 if known is None else known.weight

    def _next(self, difference: int) -> tuple[int, int, _Row]:
        """Count, sum and manifest after a change that adds `difference` to the sum."""
        changes, total = self._changes + 1, (self._sum + difference) % _MODULUS
        return changes, total, self._sealer.manifest(changes, total, self._root_key)

    def _verify(self) -> tuple[int, int]:
        """Check that the records are those of the manifest; its counts."""
        total, manifest = 0, None
        for row in self._file.rows():
            if row.at.kind == _MANIFEST:
                manifest = row
            else:
                known = _Known(row.at, self._sealer.weight(row))
                self._known[row.at] = known
                total += known.weight
        body = None if manifest is None else self._sealer.open(manifest, self._root_key)
        if body is None or len(body) != _MANIFEST_BODY.size:
            raise self._file.damaged("record manifest is damaged or missing")
        changes, expected = _MANIFEST_BODY.unpack(body)
        total %= _MODULUS
        if total.to_bytes(_SUM_SIZE, "big") != expected:
            raise self._file.damaged(
                "its records are not those that the manifest was written for: some were added,"
                " removed, or replaced by older copies"
            )
        return changes, total


class _Sealer:
    """Encrypts and weighs rows; pure but for its random numbers."""

    def __init__(self, manager: UUID, root_key: Secret, random: Callable[[int], bytes]) -> None:
        self._manager = manager
        self._weights = _derive(root_key, b"manifest weights", manager)
        self._random = random

    def seal(self, at: RecordId, generation: int, key: Secret, plain: bytes) -> _Row:
        blank = _Row(at, generation, self._random(_NONCE_SIZE), b"")
        cipher, context = self._cipher(blank, key)
        return _Row(at, generation, blank.nonce, cipher.encrypt(blank.nonce, plain, context))

    def open(self, row: _Row, key: Secret) -> bytes | None:
        cipher, context = self._cipher(row, key)
        try:
            return cipher.decrypt(row.nonce, row.sealed, context)
        except InvalidTag:
            return None

    def manifest(self, changes: int, total: int, root_key: Secret) -> _Row:
        body = _MANIFEST_BODY.pack(changes, total.to_bytes(_SUM_SIZE, "big"))
        return self.seal(RecordId(_MANIFEST, self._manager), changes, root_key, body)

    def weight(self, row: _Row) -> int:
        return int.from_bytes(hmac.digest(self._weights, row.place(), "sha256"), "big")

    def _cipher(self, row: _Row, key: Secret) -> tuple[AESGCM, bytes]:
        # A key of its own for each record: no number of saves of one host wears out a nonce space.
        place = b"vstack manager store %d" % FORMAT + self._manager.bytes + row.place()
        own = _derive(key, row.at.kind.encode() + b"\0" + row.at.id.bytes, self._manager)
        return AESGCM(own), place


def _derive(key: Secret, purpose: bytes, manager: UUID) -> bytes:
    """HKDF-SHA256 of a 32-byte secret (RFC 5869), the manager's uuid as salt."""
    return HKDF(hashes.SHA256(), _KEY_SIZE, manager.bytes, purpose).derive(key.reveal())


def _upsert(database: sqlite3.Connection, row: _Row) -> None:
    at = row.at
    database.execute(
        "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?)",
        (at.kind, at.id.bytes, at.parent.bytes, row.generation, row.nonce, row.sealed),
    )


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
