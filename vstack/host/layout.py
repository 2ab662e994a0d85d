"""Where a stack keeps its state and its sockets, and the description of each vTPM.

State directory: `stack.json` (the chip's address), `chip/` (a simulated chip's state),
`manager.db`, `vtpms/NAME/` (`vtpm.json`, the two state copies).
Run directory: `control.sock`, `log/`, `vtpms/NAME/{tpm,host,qemu}.sock`. Both have mode 0700.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from hwtpm.errors import AccessDenied, Busy, DeviceNotFound, StateError, UsageError
from hwtpm.softtpm.engines import ENGINES
from hwtpm.transport.address import kept_in

__all__ = ["Layout", "StackConfig", "VtpmConfig", "check_engine", "write_durably"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_SOCKET_PATH_LIMIT: Final = 107
_NEW: Final = ".new"  # ends the name of a file that is being written
_UNFINISHED: Final = {f"vtpm.json{_NEW}"}  # all that a crash while a vTPM is created leaves


class StackConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stack.json`."""

    chip: str


class VtpmConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`vtpm.json`. `provisioned` becomes true once the vTPM's first state is durable; only before
    that may a start make a new state."""

    uuid: UUID
    engine: str
    provisioned: bool = False


def check_engine(name: str) -> None:
    """Whether vTPMs can have this engine, before anything is made.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in ENGINES:
        raise UsageError(f"{name!r} is no TPM engine", hint=f"use one of: {', '.join(ENGINES)}")


T = TypeVar("T", StackConfig, VtpmConfig)


@dataclass(frozen=True)
class Layout:
    """The paths of one stack."""

    state: Path
    run: Path

    def prepare(self) -> None:
        """Make the directories, for their owner only.

        Raises:
            AccessDenied: they cannot be made.
            UsageError: the run directory's path is too long for Unix sockets.
        """
        self.vtpm_run("n" * 16)
        for directory in (self.state, self.state / "vtpms", self.run, self.run / "vtpms", self.log):
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                status = directory.stat()
            except OSError as error:
                raise AccessDenied(
                    f"cannot make {directory}: {error.strerror}",
                    hint="choose another --state or --run directory",
                ) from error
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise AccessDenied(
                    f"others can write to {directory}, or it belongs to somebody else",
                    hint="make it yours alone (chown, chmod 700), or choose another directory",
                )

    def lock(self) -> list[int]:
        """Hold both directories; the descriptors keep the locks.

        Raises:
            Busy: another stack runs on one of them.
        """
        held: list[int] = []
        for directory in (self.state, self.run):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.append(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                for taken in held:
                    os.close(taken)
                raise Busy(
                    f"a stack runs on {directory} already",
                    hint="see it: vstack status; or choose another --state and --run",
                ) from error
        return held

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.run / "control.sock"

    @property
    def log(self) -> Path:
        """Directory of the processes' logs."""
        return self.run / "log"

    @property
    def store(self) -> Path:
        """The manager's store."""
        return self.state / "manager.db"

    @property
    def config(self) -> Path:
        """The stack's own configuration."""
        return self.state / "stack.json"

    def chip_address(self, address: str) -> str:
        """The address with which the manager opens its chip: a simulated chip named without a path
        keeps its state in the stack's own state directory."""
        return kept_in(address, self.state / "chip")

    def vtpm_state(self, name: str) -> Path:
        """Directory of a vTPM's state.

        Raises:
            UsageError: this is no name of a vTPM.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} is no name for a vTPM",
                hint="use letters, digits, '.', '_' and '-', at most 63, a letter or digit first",
            )
        return self.state / "vtpms" / name

    def vtpm_run(self, name: str) -> Path:
        """Directory of a vTPM's sockets.

        Raises:
            UsageError: its path is too long for Unix sockets.
        """
        directory = self.run / "vtpms" / name
        if len(os.fsencode(directory / "host.sock")) > _SOCKET_PATH_LIMIT:
            raise UsageError(
                f"{directory} is too long for Unix sockets",
                hint="choose a shorter --run, or a shorter name for the vTPM",
            )
        return directory

    def vtpm_names(self) -> list[str]:
        """All vTPMs that have a directory, readable or not, by name."""
        return sorted(path.name for path in (self.state / "vtpms").iterdir() if path.is_dir())

    def read_stack(self) -> StackConfig | None:
        """The stack's configuration, if it has been up before."""
        return _read(self.config, StackConfig)

    def read_vtpm(self, name: str) -> VtpmConfig:
        """A vTPM's description.

        Raises:
            DeviceNotFound: there is no such vTPM.
            StateError: its description is damaged, or missing beside a state.
        """
        directory = self.vtpm_state(name)
        config = _read(directory / "vtpm.json", VtpmConfig)
        if config is None and directory.is_dir() and set(os.listdir(directory)) - _UNFINISHED:
            raise StateError(
                f"{directory} holds files of a vTPM but no vtpm.json, which says whose they are",
                hint="put vtpm.json back from a backup, or move the directory away",
            )
        if config is None:
            raise DeviceNotFound(
                f"there is no vTPM {name!r} in {self.state}", hint="see them: vstack vtpm list"
            )
        return config

    def write_stack(self, config: StackConfig) -> None:
        """Durably keep the stack's configuration."""
        write_durably(self.config, msgspec.json.encode(config))

    def write_vtpm(self, name: str, config: VtpmConfig) -> None:
        """Durably keep a vTPM's description."""
        directory = self.vtpm_state(name)
        directory.mkdir(mode=0o700, exist_ok=True)
        write_durably(directory / "vtpm.json", msgspec.json.encode(config))
        _sync(directory.parent)  # the directory may be new


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise StateError(
            f"{path}: {error}", hint="restore the file; nothing was changed"
        ) from error


def write_durably(path: Path, data: bytes) -> None:
    """Replace a small file, all or nothing; it is on disk when this returns.

    Raises:
        StateError: the disk is full or fails.
    """
    temporary = path.with_name(path.name + _NEW)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise StateError(
            f"cannot write {path}: {error.strerror}", hint="check the disk and the directory"
        ) from error


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
