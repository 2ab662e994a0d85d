"""Command and response frames (Part 3 section 2; Part 1 section 13 for the authorisation tails).

Request:  tag, size, ordinal, handles, parameters, then 45 bytes for each authorisation session.
Response: tag, size, return code, handles, parameters, then 41 bytes for each session.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hwtpm.errors import ProtocolError, Unsupported
from hwtpm.tpm12.const import MAX_FRAME, Tag

__all__ = [
    "HEADER_SIZE",
    "AuthRequest",
    "AuthResponse",
    "ResponseFrame",
    "build_request",
    "build_response",
    "error_response",
    "ordinal_of",
    "parse_response",
    "return_code_of",
]

HEADER_SIZE = 10
AUTH_REQUEST_SIZE = 45
AUTH_RESPONSE_SIZE = 41

_HEADER = struct.Struct(">HII")
_AUTH_REQUEST = struct.Struct(">I20sB20s")
_AUTH_RESPONSE = struct.Struct(">20sB20s")
_TPM2_TAGS = (0x8001, 0x8002)
_REQUEST_TAGS = (Tag.RQU_COMMAND, Tag.RQU_AUTH1, Tag.RQU_AUTH2)
_RESPONSE_TAGS = (Tag.RSP_COMMAND, Tag.RSP_AUTH1, Tag.RSP_AUTH2)


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """What a request carries for one authorisation session."""

    handle: int
    nonce_odd: bytes
    continue_session: bool
    hmac: bytes


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """What a response carries for one authorisation session."""

    nonce_even: bytes
    continue_session: bool
    hmac: bytes


@dataclass(frozen=True, slots=True)
class ResponseFrame:
    """A response taken apart; `body` holds handles and parameters."""

    rc: int
    body: bytes
    auths: tuple[AuthResponse, ...]


def build_request(ordinal: int, body: bytes, auths: tuple[AuthRequest, ...] = ()) -> bytes:
    """A whole request frame; `body` holds handles and parameters."""
    tail = b"".join(
        _AUTH_REQUEST.pack(a.handle, a.nonce_odd, a.continue_session, a.hmac) for a in auths
    )
    size = HEADER_SIZE + len(body) + len(tail)
    return _HEADER.pack(_REQUEST_TAGS[len(auths)], size, ordinal) + body + tail


def build_response(body: bytes, auths: tuple[AuthResponse, ...] = ()) -> bytes:
    """A whole response frame with return code success."""
    tail = b"".join(_AUTH_RESPONSE.pack(a.nonce_even, a.continue_session, a.hmac) for a in auths)
    size = HEADER_SIZE + len(body) + len(tail)
    return _HEADER.pack(_RESPONSE_TAGS[len(auths)], size, 0) + body + tail


def error_response(rc: int) -> bytes:
    """The ten bytes of a failed command (Part 2 section 16)."""
    return _HEADER.pack(Tag.RSP_COMMAND, HEADER_SIZE, rc)


def parse_response(frame: bytes) -> ResponseFrame:
    """Take a response apart.

    Raises:
        ProtocolError: it is no TPM 1.2 response frame.
        Unsupported: it is one of a TPM 2.0.
    """
    if len(frame) < HEADER_SIZE:
        raise ProtocolError(f"a TPM response has at least 10 bytes, this one {len(frame)}")
    tag, size, rc = _HEADER.unpack_from(frame)
    if size != len(frame) or size > MAX_FRAME:
        raise ProtocolError(f"the response says it has {size} bytes and has {len(frame)}")
    if tag in _TPM2_TAGS:
        raise Unsupported(
            "the answer is that of a TPM 2.0",
            hint="name a TPM 1.2, or use tpm2-tools with `hwtpm tcti` on this one",
        )
    if tag not in _RESPONSE_TAGS:
        raise ProtocolError(f"{tag:#06x} is not the tag of a TPM 1.2 response")
    count = tag - Tag.RSP_COMMAND
    end = size - count * AUTH_RESPONSE_SIZE
    if rc and size != HEADER_SIZE:
        raise ProtocolError(f"a response with return code {rc:#x} has {size} bytes instead of 10")
    if end < HEADER_SIZE:
        raise ProtocolError(f"the response is too short for {count} authorisation sessions")
    auths = []
    for number in range(count):
        nonce, flag, mac = _AUTH_RESPONSE.unpack_from(frame, end + number * AUTH_RESPONSE_SIZE)
        auths.append(AuthResponse(nonce, flag != 0, mac))
    return ResponseFrame(rc, frame[HEADER_SIZE:end], tuple(auths))


def ordinal_of(frame: bytes) -> int:
    """The ordinal of a request frame, 0 if it is too short to have one."""
    return int.from_bytes(frame[6:10], "big") if len(frame) >= HEADER_SIZE else 0


def return_code_of(frame: bytes) -> int:
    """The return code of a response frame (TPM 1.2 or 2.0).

    Raises:
        ProtocolError: the frame has no header.
    """
    if len(frame) < HEADER_SIZE:
        raise ProtocolError(f"a TPM response has at least 10 bytes, this one {len(frame)}")
    return int.from_bytes(frame[6:10], "big")
