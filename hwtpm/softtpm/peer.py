"""What the engines that are not ours (libtpms, swtpm) have in common: frames they cannot be given.

Frames: TPM Main 1.2, Part 3, section 2; return codes: Part 2, section 16. TPM 2.0 Library
Specification, Part 2, section 6.6, for the same of a TPM 2.0.
"""

from __future__ import annotations

import struct
from typing import Final

from hwtpm.errors import ProtocolError
from hwtpm.softtpm.base import Family
from hwtpm.tpm12 import frame as frame12
from hwtpm.tpm12.const import MAX_FRAME
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm20 import frame as frame20
from hwtpm.tpm20.rc import Rc as Rc20

__all__ = [
    "checked_response",
    "failure",
    "frame_size",
    "is_locality",
    "refusal",
]

_HEADER: Final = struct.Struct(">HII")


def is_locality(locality: int) -> bool:
    """Whether there is such a locality (0 to 4)."""
    return 0 <= locality <= 4


def refusal(command: bytes, locality: int, family: Family = Family.TPM12) -> bytes | None:
    """The answer to what is no frame or comes from no locality, or None: let the engine judge."""
    if not is_locality(locality):
        return failure(family, Rc.BAD_LOCALITY, Rc20.LOCALITY)
    if not _HEADER.size <= len(command) <= MAX_FRAME:
        return failure(family, Rc.BAD_PARAM_SIZE, Rc20.COMMAND_SIZE)
    return None


def failure(family: Family, rc12: int = Rc.FAIL, rc20: int = Rc20.FAILURE) -> bytes:
    """The response to a failed command, with the code that the family has for the reason."""
    if family is Family.TPM20:
        return frame20.error_response(rc20)
    return frame12.error_response(rc12)


def frame_size(frame: bytes | bytearray) -> int | None:
    """Bytes that the frame says it has, or None while its header is incomplete."""
    if len(frame) < _HEADER.size:
        return None
    return int(_HEADER.unpack_from(frame)[1])


def checked_response(response: bytes, engine: str) -> bytes:
    """`response` if it is one whole frame within `MAX_FRAME`.

    Raises:
        ProtocolError: it is not.
    """
    if len(response) <= MAX_FRAME and frame_size(response) == len(response):
        return response
    raise ProtocolError(
        f"{engine}: {len(response)} bytes that are no TPM response: {response[:16].hex()}",
        hint="the engine is broken or not what it says; use another one",
    )
