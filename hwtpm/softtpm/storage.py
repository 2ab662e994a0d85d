"""A software TPM's blobs in a directory: durable, checked, never shared and never regenerated.

One file per blob. The first time that a storage writes a blob it makes a new file and renames it
into place; from then on it replaces the content in place (`hwtpm.softtpm.slots` has the format). A
crash leaves the old or the new content.

Files of format 1 are read as well: 8 bytes magic, u32 format version, u64 length of the blob,
SHA-256 over these 20 bytes and the blob, the blob; integers big-endian.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from hwtpm.errors import AccessDenied, Busy, HwtpmError, StateError, UsageError
from hwtpm.softtpm.base import StateName
from hwtpm.softtpm.slots import MAGIC, VERSION, Slots, content_of

__all__ = ["FileStorage"]

_HEADER: Final = struct.Struct(">8sIQ")
_DIGEST_SIZE: Final = 32
_MOST_BYTES: Final = 1 << 22
"""No TPM 1.2 state comes near 4 MiB."""
_LARGEST_FILE: Final = 4 * _MOST_BYTES
"""A larger file is not ours and is not read into memory."""

_WAY_OUT: Final = (
    "restore this file from a backup, or move it away to start with a factory-new TPM "
    "(its keys and NV data are then lost)"
)


class FileStorage:
    """Storage in one directory, which is made if need be and locked until `close`.

    Raises:
        Busy: another process (or object) uses the directory.
        AccessDenied: the operating system does not let us use it.
        StateError: it is no directory, or a symbolic link.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._fd = -1
        self._written: dict[StateName, tuple[int, Slots]] = {}  # files that this object made
        try:
            if not directory.is_dir():
                directory.mkdir(mode=0o700, parents=True)
                _sync(directory.parent)
            # Everything below is relative to this descriptor: renaming the directory or putting a
            # link in its place cannot redirect a write.
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise Busy(
                f"TPM state {directory} is in use by another process",
                hint="stop the other TPM, or use another state directory",
            ) from error
        except OSError as error:
            self.close()
            raise _explain(error, directory, "open") from error

    def load(self, name: StateName) -> bytes | None:
        """The blob last stored, or None if there never was one (or it was deleted).

        Raises:
            StateError: the file is damaged, newer, a symbolic link or no file; it stays untouched.
            AccessDenied: the operating system does not let us read it.
        """
        path = self.directory / name
        try:
            data = self._read(name)
        except OSError as error:
            raise _explain(error, path, "read") from error
        return None if data is None else _unpack(data, path)

    def store(self, name: StateName, blob: bytes) -> None:
        """Make `blob` the durable content of `name`; all or nothing.

        Raises:
            StateError: the disk is full or fails; the old content is still there.
            AccessDenied: the operating system does not let us write.
            UsageError: the blob is larger than 4 MiB.
        """
        if len(blob) > _MOST_BYTES:
            raise UsageError(f"TPM state of {len(blob)} bytes is larger than {_MOST_BYTES}")
        try:
            if not self._overwrite(name, blob):
                previous = self._read(name)
                slots = Slots(blob)
                fd = self._replace(name, slots.file)
                self._written[name] = fd, slots
                self._settle(name, previous)
        except OSError as error:
            self._forget(name)
            raise _explain(error, self.directory / name, "store") from error

    def delete(self, name: StateName) -> None:
        """Durably forget `name`; nothing happens if it is not there.

        Raises:
            StateError, AccessDenied: the operating system does not let us; it is still there.
        """
        try:
            previous = self._read(name)
            if previous is not None:
                self._forget(name)
                os.unlink(name, dir_fd=self._usable())
                self._settle(name, previous)
        except OSError as error:
            raise _explain(error, self.directory / name, "delete") from error

    def close(self) -> None:
        """Let the lock go; a second call does nothing."""
        for name in tuple(self._written):
            self._forget(name)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> FileStorage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _usable(self) -> int:
        if self._fd < 0:
            raise UsageError(f"TPM state {self.directory} has been closed")
        return self._fd

    def _read(self, name: StateName) -> bytes | None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(name, flags, dir_fd=self._usable())
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StateError(
                    f"TPM state {self.directory / name} is no regular file", hint=_WAY_OUT
                )
            return file.read(_LARGEST_FILE + 1)

    def _overwrite(self, name: StateName, blob: bytes) -> bool:
        """Replace the content of a file that this object made; False if there is none, or too
        small a one, or somebody removed it."""
        fd, slots = self._written.get(name, (-1, None))
        if slots is None or not os.fstat(fd).st_nlink:
            return False
        write = slots.next_write(blob)
        if write is None:
            return False
        offset, data = write
        try:
            if os.pwrite(fd, data, offset) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(fd)
        except OSError:
            # What is reported as failed should not come up at the next start.
            with suppress(OSError):
                os.pwrite(fd, bytes(len(data)), offset)
                os.fdatasync(fd)
            raise
        return True

    def _forget(self, name: StateName) -> None:
        """Have the next `store` make a new file."""
        if name in self._written:
            os.close(self._written.pop(name)[0])

    def _replace(self, name: StateName, data: bytes) -> int:
        """Put a new file in place of the old one; its descriptor."""
        self._forget(name)
        dir_fd, temporary = self._usable(), f"{name}.new"
        # Only a crash of ours can have left a temporary file: the directory is locked.
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=dir_fd)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(temporary, flags, 0o600, dir_fd=dir_fd)
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except OSError:
            os.close(fd)
            with suppress(OSError):
                os.unlink(temporary, dir_fd=dir_fd)
            raise
        return fd

    def _settle(self, name: StateName, previous: bytes | None) -> None:
        """Make the directory's change durable; if that fails, undo it as far as the disk allows,
        so that what is reported as failed does not come up at the next start."""
        try:
            os.fsync(self._usable())
        except OSError:
            with suppress(OSError):
                if previous is None:
                    os.unlink(name, dir_fd=self._usable())
                else:
                    os.close(self._replace(name, previous))
            raise


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unpack(data: bytes, path: Path) -> bytes:
    if len(data) < _HEADER.size:
        raise StateError(f"TPM state {path} is cut off: {len(data)} bytes", hint=_WAY_OUT)
    magic, version, length = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise StateError(f"{path} is no TPM state of this program", hint=_WAY_OUT)
    try:
        if version == 1:
            return _content_of_format_1(data, length)
        if version == VERSION:
            return content_of(data)
    except ValueError as error:
        raise StateError(f"TPM state {path} is damaged: {error}", hint=_WAY_OUT) from None
    raise StateError(
        f"TPM state {path} has format {version}, this program reads up to {VERSION}",
        hint="use the version of the program that wrote it",
    )


def _content_of_format_1(data: bytes, length: int) -> bytes:
    start = _HEADER.size + _DIGEST_SIZE
    digest, blob = data[_HEADER.size : start], data[start:]
    if length != len(blob) or hashlib.sha256(data[: _HEADER.size] + blob).digest() != digest:
        raise ValueError(f"{len(blob)} of {length} bytes, digest does not match")
    return blob


def _explain(error: OSError, path: Path, action: str) -> HwtpmError:
    message = f"cannot {action} TPM state {path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return AccessDenied(message, hint="check the owner and mode of the file and its directory")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return StateError(
            f"{message} (symbolic links are refused)", hint="name the real file or directory"
        )
    return StateError(message, hint="check the disk; the previous state has not been touched")
