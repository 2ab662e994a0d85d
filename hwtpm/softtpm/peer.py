"""What the engines that are not ours (libtpms, swtpm) have in common: frames they cannot be given.

Frames: TPM Main 1.2, Part 3, section 2; return codes: Part 2, section 16.
"""

from __future__ import annotations

import struct
from typing import Final

from hwtpm.errors import ProtocolError

__all__ = [
    "BUFFER_SIZE",
    "TPM_BAD_LOCALITY",
    "TPM_BAD_PARAM_SIZE",
    "TPM_FAIL",
    "TPM_RETRY",
    "checked_response",
    "error_response",
    "frame_size",
    "is_locality",
    "refusal",
]

BUFFER_SIZE: Final = 4096  # bytes of the longest command and the longest response
TPM_FAIL: Final = 0x09
TPM_BAD_PARAM_SIZE: Final = 0x19
TPM_BAD_LOCALITY: Final = 0x3D
TPM_RETRY: Final = 0x800

_HEADER: Final = struct.Struct(">HII")
_TAG_RESPONSE: Final = 0x00C4


def error_response(rc: int) -> bytes:
    """The response frame of a command that failed with return code `rc`."""
    return _HEADER.pack(_TAG_RESPONSE, _HEADER.size, rc)


def is_locality(locality: int) -> bool:
    """Whether there is such a locality (0 to 4)."""
    return 0 <= locality <= 4


def refusal(command: bytes, locality: int) -> bytes | None:
    """The answer to what is no frame or comes from no locality, or None: let the engine judge."""
    if not is_locality(locality):
        return error_response(TPM_BAD_LOCALITY)
    if not _HEADER.size <= len(command) <= BUFFER_SIZE:
        return error_response(TPM_BAD_PARAM_SIZE)
    return None


def frame_size(frame: bytes | bytearray) -> int | None:
    """Bytes that the frame says it has, or None while its header is incomplete."""
    if len(frame) < _HEADER.size:
        return None
    return int(_HEADER.unpack_from(frame)[1])


def checked_response(response: bytes, engine: str) -> bytes:
    """`response` if it is one whole frame within `BUFFER_SIZE`.

    Raises:
        ProtocolError: it is not.
    """
    if len(response) <= BUFFER_SIZE and frame_size(response) == len(response):
        return response
    raise ProtocolError(
        f"{engine}: {len(response)} bytes that are no TPM response: {response[:16].hex()}",
        hint="the engine is broken or not what it says; use another one",
    )
