"""Frames at the border to the operating system: what may be sent, how much is still to come, and
what people call it."""

from __future__ import annotations

from hwtpm.errors import ProtocolError, UsageError
from hwtpm.tpm12 import rc as rc12
from hwtpm.tpm12.const import MAX_FRAME
from hwtpm.tpm12.frame import HEADER_SIZE, ordinal_of, return_code_of
from hwtpm.tpm20 import const as const20
from hwtpm.tpm20 import rc as rc20
from hwtpm.tpm20.frame import is_tpm2

__all__ = ["check_command", "command_name", "frame_size", "missing", "result_name", "to_come"]

_SIZE_FIELD = slice(2, 6)


def check_command(command: bytes, address: str) -> None:
    """Let only whole command frames pass, so that no peer waits for the rest of one.

    Raises:
        UsageError: the bytes are no whole frame, or a longer one than any TPM takes.
    """
    if not HEADER_SIZE <= len(command) == _size_of(command) <= MAX_FRAME:
        raise UsageError(
            f"{address}: {len(command)} bytes starting {command[:HEADER_SIZE].hex()} are no TPM"
            f" command of {HEADER_SIZE} to {MAX_FRAME} bytes",
            hint="bytes 2 to 5 hold the command's whole length",
        )


def missing(received: bytes | bytearray, address: str) -> int:
    """How many bytes of the response in `received` are still to come: 0 when it is whole.

    Raises:
        ProtocolError: its header cannot be that of a response.
    """
    if (wanted := to_come(received)) is None:
        raise ProtocolError(
            f"{address}: the answer starts {bytes(received[:HEADER_SIZE]).hex()} and says it has"
            f" {_size_of(received)} bytes; {len(received)} came, a TPM answers {HEADER_SIZE} to"
            f" {MAX_FRAME}",
            hint="is what listens there a TPM that takes raw commands?",
        )
    return wanted


def to_come(received: bytes | bytearray) -> int | None:
    """How many bytes of a frame are still to come; None if its header cannot be one's."""
    size = frame_size(received)
    if size == 0:
        return HEADER_SIZE - len(received)
    if size is None or size < len(received):
        return None
    return size - len(received)


def frame_size(received: bytes | bytearray) -> int | None:
    """How long the frame is that `received` starts with: 0 while its header is not all there, None
    if the header cannot be one's."""
    if len(received) < HEADER_SIZE:
        return 0
    size = _size_of(received)
    return size if HEADER_SIZE <= size <= MAX_FRAME else None


def command_name(command: bytes) -> str:
    """The specification's name for a command of either family."""
    if is_tpm2(command):
        return const20.name_of(ordinal_of(command))
    # A TPM 2.0 is reached without loading the table of all TPM 1.2 commands.
    from hwtpm.tpm12.commands import TABLE

    return TABLE.name_of(ordinal_of(command))


def result_name(response: bytes) -> str:
    """The specification's name for a response's return code."""
    if len(response) < HEADER_SIZE:
        return "garbage"
    code = return_code_of(response)
    if is_tpm2(response):
        return rc20.describe(code)[0]
    return rc12.describe(code)[0]


def _size_of(frame: bytes | bytearray) -> int:
    return int.from_bytes(frame[_SIZE_FIELD], "big")
