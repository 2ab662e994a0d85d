"""A software TPM's blobs in a directory: durable, checked, never shared and never regenerated.

File layout, one file per blob: 8 bytes magic, u32 format version, u64 length of the blob, SHA-256
over these 20 bytes and the blob, the blob; integers big-endian. A blob is written to a temporary
file and renamed, so a crash leaves the old or the new one.
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

__all__ = ["FileStorage"]

_MAGIC: Final = b"HWTPMblb"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sIQ")
_DIGEST_SIZE: Final = 32
_MOST_BYTES: Final = 1 << 24
"""No TPM 1.2 state comes near 16 MiB; a larger file is not ours and is not read into memory."""

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
            UsageError: the blob is larger than 16 MiB.
        """
        if len(blob) > _MOST_BYTES - _HEADER.size - _DIGEST_SIZE:
            raise UsageError(f"TPM state of {len(blob)} bytes does not fit into 16 MiB")
        try:
            previous = self._read(name)
            self._replace(name, _pack(blob))
            self._settle(name, previous)
        except OSError as error:
            raise _explain(error, self.directory / name, "store") from error

    def delete(self, name: StateName) -> None:
        """Durably forget `name`; nothing happens if it is not there.

        Raises:
            StateError, AccessDenied: the operating system does not let us; it is still there.
        """
        try:
            previous = self._read(name)
            if previous is not None:
                os.unlink(name, dir_fd=self._usable())
                self._settle(name, previous)
        except OSError as error:
            raise _explain(error, self.directory / name, "delete") from error

    def close(self) -> None:
        """Let the lock go; a second call does nothing."""
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
            return file.read(_MOST_BYTES + 1)

    def _replace(self, name: StateName, data: bytes) -> None:
        dir_fd, temporary = self._usable(), f"{name}.new"
        # Only a crash of ours can have left a temporary file: the directory is locked.
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=dir_fd)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            fd = os.open(temporary, flags, 0o600, dir_fd=dir_fd)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=dir_fd)
            raise

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
                    self._replace(name, previous)
            raise


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _pack(blob: bytes) -> bytes:
    header = _HEADER.pack(_MAGIC, _VERSION, len(blob))
    return header + hashlib.sha256(header + blob).digest() + blob


def _unpack(data: bytes, path: Path) -> bytes:
    start = _HEADER.size + _DIGEST_SIZE
    if len(data) < start:
        raise StateError(f"TPM state {path} is cut off: {len(data)} bytes", hint=_WAY_OUT)
    header, digest, blob = data[: _HEADER.size], data[_HEADER.size : start], data[start:]
    magic, version, length = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise StateError(f"{path} is no TPM state of this program", hint=_WAY_OUT)
    if version != _VERSION:
        raise StateError(
            f"TPM state {path} has format {version}, this program reads {_VERSION}",
            hint="use the version of the program that wrote it",
        )
    if length != len(blob) or hashlib.sha256(header + blob).digest() != digest:
        raise StateError(
            f"TPM state {path} is damaged: {len(blob)} of {length} bytes, digest does not match",
            hint=_WAY_OUT,
        )
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
