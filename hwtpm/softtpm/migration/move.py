"""Whole state directories: out of one that swtpm keeps, and into one that it starts from."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hwtpm.errors import AccessDenied, Busy, HwtpmError, Refused, StateError
from hwtpm.softtpm.base import StateName, Storage
from hwtpm.softtpm.engine.state import Permanent, decode_permanent, encode_permanent
from hwtpm.softtpm.migration.libtpms_state import export_permanent, import_permanent
from hwtpm.softtpm.migration.swtpm_file import FileKey, unwrap, wrap

__all__ = [
    "check_unused",
    "export_swtpm",
    "import_swtpm",
    "read_engine",
    "read_swtpm",
    "state_files",
]

_PERMANENT: Final = "tpm-00.permall"
_TEMPORARY: Final = "TMP-00.permall"  # swtpm's own name for a file that it is writing
_VOLATILE: Final = ("tpm-00.savestate", "tpm-00.volatilestate")
_TPM2: Final = "tpm2-00.permall"
_LOCK: Final = ".lock"
_MOST_BYTES: Final = 1 << 20


def state_files(directory: Path) -> tuple[Path, ...]:
    """The files in `directory` in which our engine or swtpm keeps a TPM."""
    paths = (directory / name for name in (*StateName, _PERMANENT, *_VOLATILE, _TPM2))
    return tuple(path for path in paths if path.exists())


def check_unused(directory: Path) -> None:
    """Whether a TPM may be put into `directory`: two in one would be taken for each other.

    Raises:
        Refused: there is one, ours or swtpm's.
    """
    for path in state_files(directory):
        raise Refused(
            f"{path} is there already",
            hint="name a directory that does not exist yet, or an empty one",
        )


def read_swtpm(
    directory: Path,
    key: FileKey | None = None,
    *,
    forget_volatile: bool = False,
    random: Callable[[int], bytes] = os.urandom,
) -> Permanent:
    """The TPM 1.2 whose state swtpm keeps in `directory`; nothing there is changed.

    Args:
        key: swtpm's --key, where it was started with one.
        forget_volatile: take the permanent state alone, though the guest was suspended or saved:
            it has to be booted then, it cannot be resumed.
        random: see `import_permanent`.

    Raises:
        Busy: an swtpm runs on the directory.
        Refused: the guest was suspended or saved, and that is not to be forgotten.
        StateError: there is no TPM 1.2, or one that cannot be carried.
        AccessDenied, UsageError, VerificationError: file or key cannot be used.
    """
    with _locked(directory, make=False):
        present = [name for name in _VOLATILE if (directory / name).exists()]
        if present and not forget_volatile:
            raise Refused(
                f"{directory / present[0]} holds what a suspended or saved guest resumes from, and"
                " that cannot be carried",
                hint="shut the guest down in the old host, or say that it may be forgotten",
            )
        data = _read(directory)
    return import_permanent(unwrap(data, key), random)


def import_swtpm(permanent: Permanent, storage: Storage) -> None:
    """Put a TPM into a storage that has none yet; our engine starts from it.

    `storage` may be a directory (`FileStorage`) or a vTPM's sealed state.

    Raises:
        Refused: there is a TPM already.
    """
    if any(storage.load(name) is not None for name in StateName):
        raise Refused(
            "there is a TPM in the state that is to be written",
            hint="name a directory that does not exist yet, or an empty one",
        )
    storage.store(StateName.PERMANENT, encode_permanent(permanent))


def read_engine(storage: Storage) -> Permanent:
    """The TPM of our engine in a storage.

    Raises:
        StateError: there is none, or it is damaged.
    """
    blob = storage.load(StateName.PERMANENT)
    if blob is None:
        raise StateError("there is no TPM state", hint="name the directory of a TPM of ours")
    return decode_permanent(blob)


def export_swtpm(
    storage: Storage,
    directory: Path,
    key: FileKey | None = None,
    *,
    forget_saved: bool = False,
    random: Callable[[int], bytes] = os.urandom,
) -> None:
    """Write the TPM in `storage` to a directory from which swtpm starts; `storage` stays as it is.

    Args:
        directory: is made (mode 0700) if need be; must not hold a TPM.
        key: encrypt the file with it; swtpm needs the same --key.
        forget_saved: go ahead though TPM_SaveState has been called: see `read_swtpm`.
        random: makes n random bytes.

    Raises:
        Refused: `directory` has a TPM, or the guest is suspended.
        StateError: `storage` has no TPM, or libtpms cannot hold it.
        Busy, AccessDenied: an swtpm runs there, or it cannot be written.
    """
    permanent = read_engine(storage)
    if storage.load(StateName.SAVED) is not None and not forget_saved:
        raise Refused(
            "the guest is suspended, and what it resumes from cannot be carried",
            hint="resume it and shut it down, or say that it may be forgotten",
        )
    file = wrap(export_permanent(permanent), key, random)
    with _locked(directory, make=True):
        check_unused(directory)
        _write(directory, file)


@contextmanager
def _locked(directory: Path, *, make: bool) -> Iterator[None]:
    """Hold the lock that swtpm 0.7 and later hold while they run."""
    try:
        if make:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
        fd = os.open(directory / _LOCK, flags, 0o660)
    except FileNotFoundError:
        yield  # never locked by an swtpm that knows the lock
        return
    except OSError as error:
        raise _explain(error, directory) from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise Busy(
            f"an swtpm runs on {directory}", hint="shut its guest down and try again"
        ) from error
    try:
        yield
    finally:
        os.close(fd)


def _read(directory: Path) -> bytes:
    path = directory / _PERMANENT
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except FileNotFoundError as error:
        if (directory / _TPM2).exists():
            raise StateError(
                f"{directory} is the state of a TPM 2.0", hint="only a TPM 1.2 can be moved"
            ) from error
        raise StateError(
            f"there is no {path}", hint="name the directory that swtpm has as --tpmstate dir="
        ) from error
    except OSError as error:
        raise _explain(error, path) from error


def _write(directory: Path, data: bytes) -> None:
    temporary = directory / _TEMPORARY
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()  # left by a crash: the directory is locked
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        temporary.rename(directory / _PERMANENT)
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory_fd)
        finally:
            os.close(directory_fd)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _explain(error, directory) from error


def _explain(error: OSError, path: Path) -> HwtpmError:
    message = f"cannot use {path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return AccessDenied(message, hint="check the owner and mode of the file and its directory")
    return StateError(message, hint="check the disk; the source is untouched")
