"""From guest memory to the TCPA event log, over the tables that firmware left there.

Source: ACPI Specification 6.5, sections 5.2.5 (RSDP), 5.2.6 (table header), 5.2.7 (RSDT) and 5.2.8
(XSDT); TCG ACPI Specification 1.2, sections 7.1 and 7.2 (TCPA table of client and server).

A guest may have put anything there: every address, length and checksum is checked first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from hwtpm.errors import ProtocolError

__all__ = ["LOG_LIMIT", "LogArea", "ReadMemory", "find_log_area", "read_event_log"]

ReadMemory = Callable[[int, int], bytes]
"""Reads `length` bytes of guest memory at a physical `address`; both are the arguments."""

LOG_LIMIT: Final = 1 << 20  # bytes of log area; 64 KiB is usual
TABLE_LIMIT: Final = 1 << 16  # bytes of one ACPI table that we walk

_BIOS_AREA: Final = (0xE0000, 0x20000)
_EBDA_SEGMENT: Final = 0x40E  # BIOS data area: segment of the extended BIOS data area
_EBDA_SEARCHED: Final = 1024
_RSDP_SIZE: Final = 36  # of revision 2; the first 20 bytes are all of revision 0
_HEADER: Final = struct.Struct("<4sI")  # signature, length; the header has 36 bytes in all
_HEADER_SIZE: Final = 36
_CLIENT: Final = 0  # platform class
_SERVER: Final = 1


@dataclass(frozen=True)
class LogArea:
    """Where the event log lies in guest memory."""

    address: int
    length: int


def read_event_log(read: ReadMemory) -> bytes:
    """The whole log area, the unused rest included (`hwtpm.tpm12.eventlog.parse` copes).

    Raises:
        ProtocolError: see `find_log_area`.
    """
    area = find_log_area(read)
    return _exactly(read, area.address, area.length)


def find_log_area(read: ReadMemory) -> LogArea:
    """Find the TCPA table and what it says about the log.

    Raises:
        ProtocolError: there is no table (firmware has not run, or found no TPM), or it is damaged.
    """
    for address in _tables(read):
        signature, length = _HEADER.unpack(_exactly(read, address, _HEADER.size))
        if signature == b"TCPA":
            return _log_area(_table(read, address, length))
    raise ProtocolError(
        "the guest's ACPI tables have no TCPA table",
        hint="firmware makes it when the machine has a TPM 1.2 device that answers",
    )


def _log_area(tcpa: bytes) -> LogArea:
    try:
        (platform_class,) = struct.unpack_from("<H", tcpa, _HEADER_SIZE)
        if platform_class == _CLIENT:
            length, address = struct.unpack_from("<IQ", tcpa, 38)
        elif platform_class == _SERVER:
            length, address = struct.unpack_from("<QQ", tcpa, 40)
        else:
            raise ProtocolError(f"TCPA table: platform class {platform_class} is unknown")
    except struct.error as error:
        raise ProtocolError(f"TCPA table: only {len(tcpa)} bytes long") from error
    if not 0 < length <= LOG_LIMIT:
        raise ProtocolError(
            f"TCPA table: a log area of {length} bytes; at most {LOG_LIMIT} is sane"
        )
    return LogArea(address, length)


def _tables(read: ReadMemory) -> Iterator[int]:
    """Addresses of the tables that the RSDT or XSDT lists."""
    address, is_wide = _root_table(read)
    signature, length = _HEADER.unpack(_exactly(read, address, _HEADER.size))
    if signature != (b"XSDT" if is_wide else b"RSDT"):
        raise ProtocolError(f"ACPI: no root table at {address:#x} but {signature!r}")
    entry = struct.Struct("<Q" if is_wide else "<I")
    body = _table(read, address, length)[_HEADER_SIZE:]
    for (table,) in entry.iter_unpack(body[: len(body) - len(body) % entry.size]):
        yield table


def _root_table(read: ReadMemory) -> tuple[int, bool]:
    """Address of the root table and whether it is an XSDT (64-bit entries)."""
    ebda = int.from_bytes(_exactly(read, _EBDA_SEGMENT, 2), "little") << 4
    for start, length in ((ebda, _EBDA_SEARCHED), _BIOS_AREA):
        area = _exactly(read, start, length + _RSDP_SIZE)
        for offset in range(0, length, 16):
            rsdp = area[offset : offset + _RSDP_SIZE]
            if not rsdp.startswith(b"RSD PTR ") or sum(rsdp[:20]) & 0xFF:
                continue
            revision, rsdt, xsdt = struct.unpack_from("<BI4xQ", rsdp, 15)
            if revision >= 2 and xsdt and not sum(rsdp) & 0xFF:
                return xsdt, True
            return rsdt, False
    raise ProtocolError(
        "the guest's memory has no ACPI root pointer (RSDP)",
        hint="wait until firmware has booted the guest",
    )


def _table(read: ReadMemory, address: int, length: int) -> bytes:
    if not _HEADER_SIZE <= length <= TABLE_LIMIT:
        raise ProtocolError(f"ACPI: the table at {address:#x} claims {length} bytes")
    table = _exactly(read, address, length)
    if sum(table) & 0xFF:
        raise ProtocolError(f"ACPI: the checksum of the table at {address:#x} is wrong")
    return table


def _exactly(read: ReadMemory, address: int, length: int) -> bytes:
    data = read(address, length)
    if len(data) != length:
        raise ProtocolError(f"guest memory at {address:#x}: {len(data)} of {length} bytes")
    return data
