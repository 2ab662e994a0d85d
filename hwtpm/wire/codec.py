"""Codecs of single fields: big-endian integers, blobs, nested structures, arrays.

A codec reads from `data[at:end]` and returns the value and the offset behind it; it never reads
past `end` and never builds more than its declared limit allows.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from hwtpm.errors import ProtocolError

if TYPE_CHECKING:
    from hwtpm.wire.structure import Struct

__all__ = [
    "Array",
    "Blob",
    "BoolByte",
    "Codec",
    "Fault",
    "Fixed",
    "Handle",
    "Nested",
    "OneOf",
    "Rest",
    "SizedNested",
    "Uint",
    "Variants",
    "WireError",
]


class Fault(Enum):
    """What is wrong with bytes that do not decode, or a value that does not encode."""

    SHORT = "ends too early"
    TRAILING = "has bytes left over"
    LIMIT = "is longer than its declared limit"
    VALUE = "has a value outside its range"
    HEAD = "does not start with its tag or version"


class WireError(ProtocolError):
    """Bytes that are no such structure; says which field, at which offset, and why."""

    kind = "wire"

    def __init__(self, path: str, at: int, fault: Fault, detail: str = "") -> None:
        super().__init__(f"{path} at byte {at} {fault.value}{f' ({detail})' if detail else ''}")
        self.path = path
        self.at = at
        self.fault = fault
        self.detail = detail

    def within(self, path: str) -> WireError:
        """The same error seen from the structure that holds this field."""
        inner = f"{path}.{self.path}" if self.path else path
        return WireError(inner, self.at, self.fault, self.detail)


class Codec(Protocol):
    """One field's way to and from bytes."""

    def read(self, data: bytes, at: int, end: int) -> tuple[Any, int]:
        """The value at `at` and the offset behind it; WireError if it is not all there."""
        ...

    def write(self, value: Any, out: bytearray) -> None:
        """Append the value; WireError if it is outside its range or limit."""
        ...


class Uint:
    """An unsigned big-endian integer of 1, 2, 4 or 8 bytes."""

    __slots__ = ("_limit", "_pack", "_unpack", "spec_name", "width")

    def __init__(self, spec_name: str, width: int) -> None:
        coder = struct.Struct({1: ">B", 2: ">H", 4: ">I", 8: ">Q"}[width])
        self.spec_name = spec_name
        self.width = width
        self._limit = 1 << (8 * width)
        self._pack = coder.pack
        self._unpack = coder.unpack_from

    def read(self, data: bytes, at: int, end: int) -> tuple[int, int]:
        behind = at + self.width
        if behind > end:
            raise WireError("", at, Fault.SHORT)
        return self._unpack(data, at)[0], behind

    def write(self, value: int, out: bytearray) -> None:
        if not 0 <= value < self._limit:
            raise WireError("", len(out), Fault.VALUE, f"{value} in {self.width} bytes")
        out += self._pack(value)


class OneOf(Uint):
    """An unsigned integer that tells forms of a structure apart: one of the declared values."""

    __slots__ = ("values",)

    def __init__(self, spec_name: str, width: int, values: Collection[int]) -> None:
        super().__init__(spec_name, width)
        self.values = frozenset(values)

    def read(self, data: bytes, at: int, end: int) -> tuple[int, int]:
        value, behind = super().read(data, at, end)
        if value not in self.values:
            raise WireError("", at, Fault.HEAD, f"{value:#x}")
        return value, behind


class Handle(Uint):
    """A handle: 32 bits that lead the parameters and stay out of the authorisation digests."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("TPM_HANDLE", 4)


class BoolByte:
    """TPM_BOOL: one byte, 0 or 1 (Part 2 section 2.2.3)."""

    __slots__ = ()
    spec_name = "BOOL"

    def read(self, data: bytes, at: int, end: int) -> tuple[bool, int]:
        if at >= end:
            raise WireError("", at, Fault.SHORT)
        if data[at] > 1:
            raise WireError("", at, Fault.VALUE, f"{data[at]} is not a boolean")
        return data[at] == 1, at + 1

    def write(self, value: bool, out: bytearray) -> None:
        out.append(1 if value else 0)


class Fixed:
    """Exactly `size` bytes. `secret` fields are redacted in traces."""

    __slots__ = ("secret", "size", "spec_name")

    def __init__(self, spec_name: str, size: int, *, secret: bool = False) -> None:
        self.spec_name = spec_name
        self.size = size
        self.secret = secret

    def read(self, data: bytes, at: int, end: int) -> tuple[bytes, int]:
        behind = at + self.size
        if behind > end:
            raise WireError("", at, Fault.SHORT)
        return data[at:behind], behind

    def write(self, value: bytes, out: bytearray) -> None:
        if len(value) != self.size:
            raise WireError("", len(out), Fault.VALUE, f"{len(value)} bytes, not {self.size}")
        out += value


class Blob:
    """Bytes behind their own size field of `prefix` bytes, at most `limit` of them."""

    __slots__ = ("_size", "limit", "secret", "spec_name")

    def __init__(
        self, limit: int, *, prefix: int = 4, spec_name: str = "BYTE[]", secret: bool = False
    ) -> None:
        self._size = Uint("UINT32" if prefix == 4 else "UINT16", prefix)
        self.limit = limit
        self.spec_name = spec_name
        self.secret = secret

    def read(self, data: bytes, at: int, end: int) -> tuple[bytes, int]:
        size, start = self._size.read(data, at, end)
        if size > self.limit:
            raise WireError("", at, Fault.LIMIT, f"{size} of at most {self.limit} bytes")
        behind = start + size
        if behind > end:
            raise WireError("", at, Fault.SHORT)
        return data[start:behind], behind

    def write(self, value: bytes, out: bytearray) -> None:
        if len(value) > self.limit:
            raise WireError("", len(out), Fault.LIMIT, f"{len(value)} of at most {self.limit}")
        self._size.write(len(value), out)
        out += value


class Rest:
    """Whatever is left, at most `limit` bytes; only as the last field."""

    __slots__ = ("limit", "secret", "spec_name")

    def __init__(self, limit: int, spec_name: str = "BYTE[]", *, secret: bool = False) -> None:
        self.limit = limit
        self.spec_name = spec_name
        self.secret = secret

    def read(self, data: bytes, at: int, end: int) -> tuple[bytes, int]:
        if end - at > self.limit:
            raise WireError("", at, Fault.LIMIT, f"{end - at} of at most {self.limit} bytes")
        return data[at:end], end

    def write(self, value: bytes, out: bytearray) -> None:
        if len(value) > self.limit:
            raise WireError("", len(out), Fault.LIMIT, f"{len(value)} of at most {self.limit}")
        out += value


class Nested:
    """Another structure in place."""

    __slots__ = ("of",)

    def __init__(self, of: type[Struct]) -> None:
        self.of = of

    @property
    def spec_name(self) -> str:
        """The structure's name in the specification."""
        return self.of.layout.spec_name

    def read(self, data: bytes, at: int, end: int) -> tuple[Struct, int]:
        return self.of.layout.read(data, at, end)

    def write(self, value: Struct, out: bytearray) -> None:
        value.layout.write(value, out)


class Variants(Nested):
    """One of several structures in place, told apart by what they start with."""

    __slots__ = ("_of",)

    def __init__(self, *of: type[Struct]) -> None:
        super().__init__(of[0])
        self._of = of

    def read(self, data: bytes, at: int, end: int) -> tuple[Struct, int]:
        for of in self._of:
            if data.startswith(of.layout.head, at, end):
                return of.layout.read(data, at, end)
        return super().read(data, at, end)


class SizedNested(Nested):
    """A structure behind a UINT32 size that it must fill; size 0 stands for None."""

    __slots__ = ()
    _size = Uint("UINT32", 4)

    def read(self, data: bytes, at: int, end: int) -> tuple[Any, int]:
        size, start = self._size.read(data, at, end)
        behind = start + size
        if behind > end:
            raise WireError("", at, Fault.SHORT)
        if size == 0:
            return None, behind
        value, stop = super().read(data, start, behind)
        if stop != behind:
            raise WireError("", stop, Fault.TRAILING)
        return value, behind

    def write(self, value: Struct | None, out: bytearray) -> None:
        body = bytearray()
        if value is not None:
            super().write(value, body)
        self._size.write(len(body), out)
        out += body


class Array:
    """A count of `prefix` bytes, then so many items, at most `limit` of them."""

    __slots__ = ("_count", "item", "limit", "spec_name")

    def __init__(self, item: Codec, limit: int, *, prefix: int = 4, spec_name: str = "") -> None:
        self._count = Uint("UINT32" if prefix == 4 else "UINT16", prefix)
        self.item = item
        self.limit = limit
        self.spec_name = spec_name

    def read(self, data: bytes, at: int, end: int) -> tuple[tuple[Any, ...], int]:
        count, at = self._count.read(data, at, end)
        if count > self.limit:
            raise WireError("", at, Fault.LIMIT, f"{count} of at most {self.limit} items")
        values = []
        for _ in range(count):
            value, at = self.item.read(data, at, end)
            values.append(value)
        return tuple(values), at

    def write(self, value: Sequence[Any], out: bytearray) -> None:
        if len(value) > self.limit:
            raise WireError("", len(out), Fault.LIMIT, f"{len(value)} of at most {self.limit}")
        self._count.write(len(value), out)
        for item in value:
            self.item.write(item, out)
