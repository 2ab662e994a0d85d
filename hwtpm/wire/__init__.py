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
    Variants,
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
    "Variants",
    "WireError",
    "structure",
]
