"""Recordings: what passed a transport once as JSON lines, and a transport that plays it again.

The first line says what was recorded: `{"schema": "hwtpm.record/1", "on": ..., "backend": ...,
"real_hardware": ..., "detail": ...}`; each further line is one exchange, `{"command": hex,
"response": hex}`. A recording holds the traffic in clear and is made readable to its owner only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec

from hwtpm.errors import AccessDenied, DeviceNotFound, StateError, UsageError
from hwtpm.tpm12.commands import TABLE
from hwtpm.tpm12.const import MAX_FRAME
from hwtpm.tpm12.frame import ordinal_of
from hwtpm.transport.base import Attached, Transport, Wrapper

__all__ = ["Record", "Replay"]

SCHEMA: Final = "hwtpm.record/1"

T = TypeVar("T")
_Hex = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2}){10,}$", max_length=2 * MAX_FRAME)]


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    schema: str
    on: str
    backend: str
    real_hardware: bool
    detail: str


class _Exchange(msgspec.Struct, forbid_unknown_fields=True):
    command: _Hex
    response: _Hex


class Record(Wrapper):
    """Writes every exchange that got an answer to a new file.

    Raises:
        UsageError: the file is there already; a recording is evidence and never overwritten.
        AccessDenied: it cannot be written.
    """

    def __init__(self, inner: Transport, path: Path) -> None:
        super().__init__(inner)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise UsageError(
                f"{path} is there already", hint="delete it first, or record to another file"
            ) from error
        except OSError as error:
            raise AccessDenied(f"cannot write {path}: {error.strerror}") from error
        self._file = os.fdopen(descriptor, "wb")
        on = self.attached
        self._put(_Head(SCHEMA, on.address, on.backend, on.real_hardware, on.detail))

    def execute(self, command: bytes) -> bytes:
        """See `Transport.execute`."""
        response = self._inner.execute(command)
        self._put(_Exchange(command.hex(), response.hex()))
        return response

    def close(self) -> None:
        """See `Transport.close`."""
        try:
            self._file.close()
        finally:
            super().close()

    def _put(self, line: msgspec.Struct) -> None:
        # Flushed at once: what led to a crash is what the recording is read for.
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()


class Replay:
    """Answers from a recording; commands have to come in its order and with its bytes.

    Never real hardware, whatever was recorded. Commands that carry nonces only match if the caller
    draws the same random numbers again (`Tpm(..., random=...)`).

    Raises:
        DeviceNotFound: there is no such file.
        AccessDenied: it cannot be read.
        StateError: it is no recording of this version.
    """

    def __init__(self, address: str, path: Path) -> None:
        lines = _read(address, path)
        head = _decode(lines[0] if lines else b"", _Head, f"{address}: {path} line 1")
        if head.schema != SCHEMA:
            raise StateError(
                f"{address}: {path} is a {head.schema!r}, not a {SCHEMA}",
                hint="record it again with this version",
            )
        self._attached = Attached(address, "replay", False, f"a recording of {head.on}")
        self._exchanges = [
            _decode(line, _Exchange, f"{address}: {path} line {number}")
            for number, line in enumerate(lines[1:], 2)
        ]
        self._next = 0

    @property
    def attached(self) -> Attached:
        """The recording, and of what it is one."""
        return self._attached

    @property
    def remaining(self) -> int:
        """How many recorded exchanges have not been played."""
        return len(self._exchanges) - self._next

    def execute(self, command: bytes) -> bytes:
        """See `Transport.execute`.

        Raises:
            UsageError: the recording has another command here, or has ended.
        """
        if not self.remaining:
            raise UsageError(
                f"{self._attached.address}: the recording ends after {self._next} commands, then"
                f" came {_name(command)}",
                hint="record it again",
            )
        exchange = self._exchanges[self._next]
        recorded = bytes.fromhex(exchange.command)
        if recorded != command:
            raise UsageError(
                f"{self._attached.address}: command {self._next + 1} is {_name(recorded)} of"
                f" {len(recorded)} bytes in the recording, here {_name(command)} of {len(command)}"
                f" bytes that differ from byte {_first_difference(recorded, command)} on",
                hint="send what was recorded, with the same random numbers, or record it again",
            )
        self._next += 1
        return bytes.fromhex(exchange.response)

    def close(self) -> None:
        """See `Transport.close`; it may be left before its end."""


def _read(address: str, path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise DeviceNotFound(
            f"{address}: there is no recording {path}",
            hint="`hwtpm.transport.replay.Record` makes one",
        ) from error
    except OSError as error:
        raise AccessDenied(f"{address}: cannot read {path}: {error.strerror}") from error


def _decode(line: bytes, kind: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.DecodeError as error:
        raise StateError(
            f"{where} is not of a recording: {error}", hint="record it again"
        ) from error


def _name(command: bytes) -> str:
    return TABLE.name_of(ordinal_of(command))


def _first_difference(one: bytes, other: bytes) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
