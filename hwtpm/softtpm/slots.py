"""A file whose content is replaced in place, by one write and one sync: two slots, used in turn.

Layout, integers big-endian: a page of 4,096 bytes (magic `HWTPMblb`, u32 format version 2, u64 size
of a slot, SHA-256 of these 20 bytes, zeros), then two slots of whole pages. A slot is made of
sectors of 512 bytes: u64 number of the write, u32 length of the content, 484 bytes of the content,
and the first 16 bytes of the SHA-256 of the sector's u32 number in its slot and all these.

A disk writes a sector whole or not at all. Sectors of one slot that are sound but come from
different writes therefore tell of a write that a crash cut short, and the other slot counts. A
sector that is not sound was damaged later. That is an error even where the other slot is whole:
to go back to it unasked would bring back an old state, with old counters.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

__all__ = ["MAGIC", "VERSION", "Slots", "content_of"]

MAGIC: Final = b"HWTPMblb"
VERSION: Final = 2

_PAGE: Final = 4096
_SECTOR: Final = 512
_FILE_HEAD: Final = struct.Struct(">8sIQ32s")
_HEAD: Final = struct.Struct(">QI")
_INDEX: Final = struct.Struct(">I")
_CHECK_SIZE: Final = 16
_PAYLOAD: Final = _SECTOR - _HEAD.size - _CHECK_SIZE
_EMPTY: Final = bytes(_SECTOR)  # nothing was written here yet


class Slots:
    """What is written into one file, which starts as `file` says.

    Args:
        content: what the file holds first; a slot has room for half as much again.
    """

    def __init__(self, content: bytes) -> None:
        self._number = 1
        first = _sectors(self._number, content)
        self._size = -(-len(first) * 3 // 2 // _PAGE) * _PAGE
        self.file = _file_head(self._size) + first.ljust(2 * self._size, b"\0")

    def next_write(self, content: bytes) -> tuple[int, bytes] | None:
        """Offset and bytes of the one write that replaces the content; None if it does not fit.

        If that write fails, some of it may be there: go on with a new file.
        """
        data = _sectors(self._number + 1, content)
        if len(data) > self._size:
            return None
        self._number += 1
        return _PAGE + self._size * (1 - self._number % 2), data


def content_of(file: bytes) -> bytes:
    """What was last written, whole, into a file.

    Raises:
        ValueError: the file is damaged; it says where.
    """
    if len(file) < _PAGE:
        raise ValueError("its first page is cut off")
    size = _FILE_HEAD.unpack_from(file)[2]
    if file[:_PAGE] != _file_head(size):
        raise ValueError("its first page does not match its digest")
    if len(file) != _PAGE + 2 * size:
        raise ValueError(f"it has {len(file)} bytes, not {_PAGE + 2 * size}")
    slots = (_content_of_slot(file[at : at + size]) for at in (_PAGE, _PAGE + size))
    whole = [slot for slot in slots if slot is not None]
    if not whole:
        raise ValueError("neither of its slots is whole")
    return max(whole)[1]


def _file_head(slot_size: int) -> bytes:
    digest = hashlib.sha256(struct.pack(">8sIQ", MAGIC, VERSION, slot_size)).digest()
    return _FILE_HEAD.pack(MAGIC, VERSION, slot_size, digest).ljust(_PAGE, b"\0")


def _sectors(number: int, content: bytes) -> bytes:
    """Whole pages of sectors: a smaller write would cost the disk the same."""
    head = _HEAD.pack(number, len(content))
    parts: list[bytes] = []
    for index in range(_sectors_for(len(content))):
        part = content[index * _PAYLOAD : (index + 1) * _PAYLOAD]
        body = head + part.ljust(_PAYLOAD, b"\0")
        parts += body, _check(index, body)
    return b"".join(parts)


def _sectors_for(length: int) -> int:
    in_page = _PAGE // _SECTOR
    return -(-max(length, 1) // (_PAYLOAD * in_page)) * in_page


def _check(index: int, body: bytes) -> bytes:
    return hashlib.sha256(_INDEX.pack(index) + body).digest()[:_CHECK_SIZE]


def _content_of_slot(slot: bytes) -> tuple[int, bytes] | None:
    """Number of the write and content; None if the slot is empty or a write of it was cut short.

    Raises:
        ValueError: a sector is damaged.
    """
    sectors = [slot[at : at + _SECTOR] for at in range(0, len(slot), _SECTOR)]
    for index, sector in enumerate(sectors):
        body = sector[:-_CHECK_SIZE]
        if sector != _EMPTY and sector[-_CHECK_SIZE:] != _check(index, body):
            raise ValueError(f"sector {index} of a slot does not match its digest")
    head = slot[: _HEAD.size]
    number, length = _HEAD.unpack(head)
    written = sectors[: _sectors_for(length)]
    if number == 0 or any(not sector.startswith(head) for sector in written):
        return None
    parts = (sector[_HEAD.size : -_CHECK_SIZE] for sector in written)
    return number, b"".join(parts)[:length]
