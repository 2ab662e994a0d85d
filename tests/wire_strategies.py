"""Hypothesis strategies from the declarations: what a field or a structure can hold."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from hwtpm.wire import Struct
from hwtpm.wire.codec import (
    Array,
    Blob,
    BoolByte,
    Codec,
    Fixed,
    Handle,
    Nested,
    OneOf,
    Rest,
    SizedNested,
    Uint,
    Variants,
)

__all__ = ["structures", "values_of"]

LONGEST: Final = 300
"""Bytes of a blob or items of an array, if its declaration allows more."""
HANDLES: Final = (0x40000000, 0x40000006, 0, 0x05123456)


def values_of(codec: Codec) -> st.SearchStrategy[Any]:
    """Values that a field of that codec can have; the small ones and known handles are likely."""
    match codec:
        case OneOf():
            return st.sampled_from(sorted(codec.values))
        case Handle():
            return st.sampled_from(HANDLES) | st.integers(0, 2**32 - 1)
        case Uint():
            largest = 256**codec.width - 1
            return st.integers(0, min(40, largest)) | st.integers(0, largest)
        case BoolByte():
            return st.booleans()
        case Fixed():
            return st.binary(min_size=codec.size, max_size=codec.size)
        case Blob() | Rest():
            return st.binary(max_size=min(codec.limit, LONGEST))
        case Array():
            items = values_of(codec.item)
            return st.lists(items, max_size=min(codec.limit, LONGEST)).map(tuple)
        case SizedNested():
            return st.none() | structures(codec.of)
        case Variants():
            return st.one_of(*(structures(of) for of in codec._of))
        case Nested():
            return structures(codec.of)
    raise TypeError(f"no strategy for {codec!r}")


def structures(of: type[Struct]) -> st.SearchStrategy[Struct]:
    """Values of a structure that encode."""
    fields = {name: values_of(codec) for name, codec in of.layout.codecs.items()}
    return st.builds(of, **fields)
