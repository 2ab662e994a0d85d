"""Declarative binary structures: one declaration gives encoding, decoding, limits and digests."""

from hwtpm.wire.codec import (
    Array,
    Blob,
    BoolByte,
    Codec,
    Fault,
    Fixed,
    Handle,
    Nested,
    OneOf,
    Rest,
    SizedNested,
    Uint,
    WireError,
)
from hwtpm.wire.structure import Layout, Struct, structure

__all__ = [
    "Array",
    "Blob",
    "BoolByte",
    "Codec",
    "Fault",
    "Fixed",
    "Handle",
    "Layout",
    "Nested",
    "OneOf",
    "Rest",
    "SizedNested",
    "Struct",
    "Uint",
    "WireError",
    "structure",
]
