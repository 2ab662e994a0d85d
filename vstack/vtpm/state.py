"""The state of one vTPM on disk: two copies, each encrypted under a key that the manager holds.

A save writes the copy that is not in use, makes it durable, and then gives the manager its SHA-256
and its key (SAVEHASHKEY: 32 + 32 bytes). Only that second step makes it the current state, so a
crash anywhere leaves the old or the new state. At start the manager's hash says which copy is
current.

Copy: 8 bytes magic `VTPMSTAT`, u16 version, 16 bytes uuid of the vTPM, 16 bytes uuid of the
manager, 12 bytes nonce, u32 length, AES-256-GCM of a `Contents` structure; everything before the
ciphertext is authenticated with it. The SHA-256 covers the whole copy; bytes behind it are stale.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Protocol
from uuid import UUID

from hwtpm.errors import AccessDenied, StateError
from hwtpm.softtpm.base import StateName
from hwtpm.wire import Array, Blob, Nested, Struct, WireError, structure

__all__ = ["KeyKeeper", "SealedState", "StateFolder"]

_MAGIC: Final = b"VTPMSTAT"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sH16s16s12sI")
_SLOTS: Final = ("state.0", "state.1")
_MOST_BYTES: Final = 1 << 20
_HASH_SIZE: Final = 32
_KEY_SIZE: Final = 32

EK_PUBLIC: Final = "ek-public"
"""Entry that keeps the endorsement public key, which a TPM hides once it is owned."""


class KeyKeeper(Protocol):
    """What the vTPM asks of its manager."""

    def save_hash_key(self, data: bytes) -> None:
        """Durably replace the 64 bytes kept for this vTPM."""
        ...

    def load_hash_key(self) -> bytes | None:
        """The bytes last saved; None if the manager knows no such vTPM."""
        ...


@structure("vTPM state entry", ref="vstack.vtpm.state")
class _Entry(Struct):
    name: Annotated[bytes, Blob(64, prefix=2)]
    data: Annotated[bytes, Blob(_MOST_BYTES, secret=True)]


@structure("vTPM state contents", ref="vstack.vtpm.state")
class _Contents(Struct):
    entries: Annotated[tuple[_Entry, ...], Array(Nested(_Entry), 16)]


@dataclass(frozen=True)
class StateFolder:
    """Where a vTPM's copies lie and whose they are."""

    directory: Path
    name: str
    uuid: UUID
    manager: UUID


class SealedState:
    """Named blobs of one vTPM, durable together (implements `hwtpm.softtpm.base.Storage`).

    Args:
        folder: the directory of the copies; must exist.
        keeper: the manager, which alone can say which copy is current and open it.
        fresh: begin an empty state if the manager knows no such vTPM.
        random: makes n random bytes.

    Raises:
        StateError: there is a state that this manager cannot open, or none where one should be.
            Nothing has been written.
    """

    def __init__(
        self,
        folder: StateFolder,
        keeper: KeyKeeper,
        *,
        fresh: bool,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._folder = folder
        self._keeper = keeper
        self._random = random
        self._entries: dict[str, bytes] = {}
        self._current = 1  # the copy in use; the other one is written next
        self._in_doubt = False
        self._fds: list[int] = []
        self._names_durable = False
        known = keeper.load_hash_key()
        if known is not None:
            self._entries, self._current = self._open_current(known)
        elif not fresh or self._claims() - {(folder.uuid, folder.manager)}:
            raise self._not_ours()

    # --- Storage -----------------------------------------------------------------------------

    def load(self, name: StateName) -> bytes | None:
        return self._entries.get(name)

    def store(self, name: StateName, blob: bytes) -> None:
        self.put(name, blob)

    def delete(self, name: StateName) -> None:
        if name in self._entries:
            entries = dict(self._entries)
            del entries[name]
            self._save(entries)

    # --- further entries -----------------------------------------------------------------------

    def get(self, name: str) -> bytes | None:
        """An entry that is not the software TPM's own."""
        return self._entries.get(name)

    def put(self, name: str, data: bytes) -> None:
        """Durably set an entry."""
        self._save(self._entries | {name: data})

    def close(self) -> None:
        """Close the copies' files."""
        while self._fds:
            os.close(self._fds.pop())

    # --- saving --------------------------------------------------------------------------------

    def _save(self, entries: dict[str, bytes]) -> None:
        if self._in_doubt:
            self._settle_doubt()
        target = 1 - self._current
        copy, key = self._encrypt(entries)
        try:
            fd = self._slot_fd(target)
            _write_all(fd, copy)
            os.fdatasync(fd)
        except OSError as error:
            raise _explain(error, self._path(target), "write") from error
        self._in_doubt = True  # until the manager says that it has kept the new key
        self._keeper.save_hash_key(hashlib.sha256(copy).digest() + key)
        self._in_doubt = False
        self._current = target
        self._entries = entries

    def _settle_doubt(self) -> None:
        """After a save whose outcome is not known: the manager knows which copy is current."""
        known = self._keeper.load_hash_key()
        if known is not None:
            self._entries, self._current = self._open_current(known)
        self._in_doubt = False

    def _encrypt(self, entries: dict[str, bytes]) -> tuple[bytes, bytes]:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        plain = _Contents(
            tuple(_Entry(name.encode(), data) for name, data in entries.items())
        ).encode()
        key, nonce = self._random(_KEY_SIZE), self._random(12)
        folder = self._folder
        header = _HEADER.pack(
            _MAGIC, _VERSION, folder.uuid.bytes, folder.manager.bytes, nonce, len(plain) + 16
        )
        return header + AESGCM(key).encrypt(nonce, plain, header), key

    def _path(self, slot: int) -> Path:
        return self._folder.directory / _SLOTS[slot]

    def _slot_fd(self, slot: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        while len(self._fds) < len(_SLOTS):
            self._fds.append(os.open(self._path(len(self._fds)), flags, 0o600))
            self._names_durable = False
        if not self._names_durable:
            # Even if the files were there: whoever made them may have died before this.
            _sync_directory(self._folder.directory)
            self._names_durable = True
        return self._fds[slot]

    # --- loading -------------------------------------------------------------------------------

    def _open_current(self, known: bytes) -> tuple[dict[str, bytes], int]:
        digest, key = known[:_HASH_SIZE], known[_HASH_SIZE:]
        seen = 0
        for slot in range(len(_SLOTS)):
            copy = self._read_copy(slot)
            if copy is None:
                continue
            seen += 1
            if hashlib.sha256(copy).digest() == digest:
                return self._decrypt(copy, key, slot), slot
        folder = self._folder
        what = "no copy of it is there" if not seen else "no copy on disk is the one it remembers"
        raise StateError(
            f"vTPM {folder.name} ({folder.uuid}): manager {folder.manager} knows it, but {what} "
            f"in {folder.directory}: damaged, replaced or rolled back",
            hint="put back the newest copy of state.0 and state.1; nothing has been changed",
        )

    def _read_copy(self, slot: int) -> bytes | None:
        path = self._path(slot)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                data = file.read(_MOST_BYTES * 2)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _explain(error, path, "read") from error
        if len(data) < _HEADER.size or data[:8] != _MAGIC:
            return None
        length = _HEADER.unpack_from(data)[5]
        return data[: _HEADER.size + length]

    def _decrypt(self, copy: bytes, key: bytes, slot: int) -> dict[str, bytes]:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        header, cipher = copy[: _HEADER.size], copy[_HEADER.size :]
        _, version, uuid, _, nonce, _ = _HEADER.unpack(header)
        if version != _VERSION or uuid != self._folder.uuid.bytes:
            raise StateError(
                f"{self._path(slot)} has format {version} and belongs to vTPM {UUID(bytes=uuid)}",
                hint="put back this vTPM's own state; nothing has been changed",
            )
        try:
            contents = _Contents.decode(AESGCM(key).decrypt(nonce, cipher, header))
        except (InvalidTag, WireError) as error:
            raise StateError(
                f"{self._path(slot)} does not open with the key that the manager holds",
                hint="put back the newest copy; nothing has been changed",
            ) from error
        return {entry.name.decode(): entry.data for entry in contents.entries}

    def _claims(self) -> set[tuple[UUID, UUID]]:
        """The vTPM and the manager that each copy on disk says it is of."""
        headers = [
            _HEADER.unpack_from(copy)
            for slot in range(len(_SLOTS))
            if (copy := self._read_copy(slot)) is not None
        ]
        return {(UUID(bytes=header[2]), UUID(bytes=header[3])) for header in headers}

    def _not_ours(self) -> StateError:
        folder = self._folder
        claims = self._claims()
        if strangers := {vtpm for vtpm, _ in claims} - {folder.uuid}:
            return StateError(
                f"{folder.directory} holds the state of vTPM {min(strangers)}, not of "
                f"{folder.name} ({folder.uuid})",
                hint="move these files to where they belong; nothing has been changed",
            )
        if not claims:
            return StateError(
                f"vTPM {folder.name} ({folder.uuid}): manager {folder.manager} knows no such vTPM "
                f"and {folder.directory} holds no state",
                hint="create it: vstack vtpm create NAME",
            )
        others = ", ".join(str(owner) for owner in sorted(owner for _, owner in claims))
        return StateError(
            f"vTPM {folder.name} ({folder.uuid}): its state in {folder.directory} is encrypted "
            f"under a key that manager {others} holds; this is manager {folder.manager}, "
            "on another chip or with another store, and it has no key for it",
            hint="start it under its own manager and chip; nothing has been changed",
        )


def _write_all(fd: int, data: bytes) -> None:
    """From the start of the file. A disk that fills up takes less than it is given at first."""
    at = 0
    while at < len(data):
        at += os.pwrite(fd, data[at:], at)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _explain(error: OSError, path: Path, action: str) -> StateError | AccessDenied:
    message = f"cannot {action} the vTPM state {path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return AccessDenied(message, hint="check the owner and mode of the file and its directory")
    return StateError(message, hint="check the disk; the current state has not been touched")
