"""What a chip asks to be given: its TIS timeouts and command durations, read from itself.

Source: TPM Main 1.2, Part 2 section 21.2, TPM_CAP_PROP_TIS_TIMEOUT and TPM_CAP_PROP_DURATION.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from hwtpm.tis import Timeouts
from hwtpm.tpm12.commands.capability import GetCapability, GetCapabilityReply
from hwtpm.tpm12.const import Capability, CapProperty
from hwtpm.tpm12.frame import build_request, parse_response

__all__ = ["announced_timeouts"]


def announced_timeouts(execute: Callable[[bytes], bytes]) -> Timeouts:
    """The timeouts of a started chip; what it does not tell keeps its default.

    Raises: what `execute` raises; ProtocolError for what is no answer.
    """
    return Timeouts.from_chip(
        _microseconds(execute, CapProperty.TIS_TIMEOUT),
        _microseconds(execute, CapProperty.DURATION),
    )


def _microseconds(execute: Callable[[bytes], bytes], name: CapProperty) -> tuple[int, ...]:
    request = GetCapability(Capability.PROPERTY, name.to_bytes(4, "big"))
    frame = parse_response(execute(build_request(request.command.ordinal, request.encode())))
    if frame.rc:
        return ()
    values = GetCapabilityReply.decode(frame.body).resp
    return struct.unpack_from(f">{len(values) // 4}I", values)
