"""TPM 2.0 frames: tag, size, code or response code (Library Specification, Part 1, section 18)."""

from __future__ import annotations

import struct
from typing import Final

from hwtpm.errors import ProtocolError, Unsupported
from hwtpm.tpm20.const import Code, Tag

__all__ = ["HEADER_SIZE", "build", "error_response", "is_tpm2", "split"]

HEADER_SIZE: Final = 10

_HEADER: Final = struct.Struct(">HII")


def build(code: Code, body: bytes = b"") -> bytes:
    """A command without sessions; `body` holds handles and parameters."""
    return _HEADER.pack(Tag.NO_SESSIONS, HEADER_SIZE + len(body), code) + body


def error_response(rc: int) -> bytes:
    """The ten bytes of a failed command."""
    return _HEADER.pack(Tag.NO_SESSIONS, HEADER_SIZE, rc)


def is_tpm2(frame: bytes) -> bool:
    """Whether a frame has the tag of TPM 2.0 commands and responses."""
    return frame[:2] in (b"\x80\x01", b"\x80\x02")


def split(response: bytes) -> tuple[int, bytes]:
    """Response code and what follows it.

    Raises:
        ProtocolError: this is no whole response of a TPM.
        Unsupported: it is one of a TPM 1.2.
    """
    if len(response) < HEADER_SIZE:
        raise ProtocolError(f"a TPM response has at least 10 bytes, this one {len(response)}")
    tag, size, rc = _HEADER.unpack_from(response)
    if size != len(response):
        raise ProtocolError(f"the response says it has {size} bytes and has {len(response)}")
    if tag == Tag.RSP_COMMAND:
        raise Unsupported(
            "the answer is that of a TPM 1.2", hint="name a TPM 2.0, or use commands for TPM 1.2"
        )
    if not is_tpm2(response):
        raise ProtocolError(f"{tag:#06x} is not the tag of a TPM 2.0 response")
    return rc, response[HEADER_SIZE:]
