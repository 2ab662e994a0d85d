"""Frames at the border to the operating system: what may be sent, and how much is still to come."""

from __future__ import annotations

from hwtpm.errors import ProtocolError, UsageError
from hwtpm.tpm12.const import MAX_FRAME
from hwtpm.tpm12.frame import HEADER_SIZE

__all__ = ["check_command", "frame_size", "missing", "to_come"]

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


def _size_of(frame: bytes | bytearray) -> int:
    return int.from_bytes(frame[_SIZE_FIELD], "big")
