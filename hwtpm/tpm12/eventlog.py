"""The TCPA event log: what firmware measured into the PCRs, parsed and replayed.

Source: TCG PC Client Specific Implementation Specification for Conventional BIOS 1.21, section
11.3 (TCG_PCClientPCREventStruct and the event types), and the TCG EFI Platform Specification 1.22
for the types from 0x80000000. Everything is little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from hwtpm.errors import ProtocolError
from hwtpm.tpm12.const import DIGEST_SIZE, NUM_PCRS

__all__ = ["Event", "EventType", "parse", "replay", "trim"]

_HEADER = struct.Struct("<II20sI")
_FILLERS = (b"\0" * _HEADER.size, b"\xff" * _HEADER.size)
_TAGGED = struct.Struct("<II")
_SEPARATOR_ERROR = b"\x01\0\0\0"


class EventType(IntEnum):
    """Event types by their numbers, with the specification's names less the `EV_`."""

    PREBOOT_CERT = 0x00
    POST_CODE = 0x01
    UNUSED = 0x02
    NO_ACTION = 0x03
    SEPARATOR = 0x04
    ACTION = 0x05
    EVENT_TAG = 0x06
    S_CRTM_CONTENTS = 0x07
    S_CRTM_VERSION = 0x08
    CPU_MICROCODE = 0x09
    PLATFORM_CONFIG_FLAGS = 0x0A
    TABLE_OF_DEVICES = 0x0B
    COMPACT_HASH = 0x0C
    IPL = 0x0D
    IPL_PARTITION_DATA = 0x0E
    NONHOST_CODE = 0x0F
    NONHOST_CONFIG = 0x10
    NONHOST_INFO = 0x11
    OMIT_BOOT_DEVICE_EVENTS = 0x12
    EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EFI_VARIABLE_BOOT = 0x80000002
    EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
    EFI_GPT_EVENT = 0x80000006
    EFI_ACTION = 0x80000007
    EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EFI_HANDOFF_TABLES = 0x80000009


# Types whose data is a text for people; all others carry what was measured, or structures.
_TEXTS = frozenset({EventType.ACTION, EventType.EFI_ACTION, EventType.POST_CODE, EventType.IPL})


@dataclass(frozen=True)
class Event:
    """One entry of the log: `digest` is what was extended into PCR `pcr`."""

    pcr: int
    type: int
    digest: bytes
    data: bytes

    @property
    def type_name(self) -> str:
        """`EV_SEPARATOR` and the like; unknown types in hexadecimal."""
        try:
            return f"EV_{EventType(self.type).name}"
        except ValueError:
            return f"0x{self.type:08x}"

    @property
    def extends(self) -> bool:
        """The event was extended into its PCR; EV_NO_ACTION is only there to be read."""
        return self.type != EventType.NO_ACTION

    @property
    def description(self) -> str:
        """One short line for people: what the event's data says, as far as its type tells."""
        if self.type == EventType.SEPARATOR:
            failed = self.data == _SEPARATOR_ERROR
            return f"{self.type_name}: {'pre-boot failed' if failed else 'pre-boot ended'}"
        if self.type in _TEXTS and _is_text(self.data):
            text = self.data.rstrip(b"\0").decode("ascii")
            return f'{self.type_name}: "{_shorten(text)}"'
        if self.type == EventType.EVENT_TAG and len(self.data) >= _TAGGED.size:
            tag, size = _TAGGED.unpack_from(self.data)
            return f"{self.type_name}: event {tag} with {size} bytes"
        if not self.data:
            return f"{self.type_name}: no data"
        return f"{self.type_name}: {_shorten(self.data.hex())}, {len(self.data)} bytes"


def parse(log: bytes) -> list[Event]:
    """The events in a log area, up to its unused rest (zeros or 0xFF) or its end.

    Raises:
        ProtocolError: an entry is cut off, or names a PCR that does not exist.
    """
    events: list[Event] = []
    offset = 0
    while offset < len(log):
        header = log[offset : offset + _HEADER.size]
        if any(filler.startswith(header) for filler in _FILLERS):
            break
        if len(header) < _HEADER.size:
            raise _damaged(events, offset, f"{len(header)} bytes are left of its header")
        pcr, kind, digest, size = _HEADER.unpack(header)
        start = offset + _HEADER.size
        if pcr >= NUM_PCRS:
            raise _damaged(events, offset, f"PCR {pcr}")
        if size > len(log) - start:
            raise _damaged(events, offset, f"{size} bytes of data, {len(log) - start} are left")
        events.append(Event(pcr, kind, digest, bytes(log[start : start + size])))
        offset = start + size
    return events


def trim(log: bytes) -> bytes:
    """A log area without the unused rest behind its last event; errors as `parse`."""
    return log[: sum(_HEADER.size + len(event.data) for event in parse(log))]


def replay(events: Iterable[Event]) -> dict[int, bytes]:
    """Values of the PCRs that the events extended, starting from zero; other PCRs are absent."""
    pcrs: dict[int, bytes] = {}
    for event in events:
        if event.extends:
            before = pcrs.get(event.pcr, bytes(DIGEST_SIZE))
            pcrs[event.pcr] = hashlib.sha1(before + event.digest).digest()
    return pcrs


def _damaged(events: list[Event], offset: int, what: str) -> ProtocolError:
    return ProtocolError(
        f"TCPA event log: event {len(events)} at offset {offset} is damaged: {what}",
        hint="events are binary_bios_measurements in securityfs, or the TCPA table's log area",
    )


def _is_text(data: bytes) -> bool:
    text = data.rstrip(b"\0")
    return bool(text) and all(0x20 <= byte < 0x7F for byte in text)


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
