"""Every structure of TPM 1.2 and of the engine: encoding, decoding, and bytes that are none."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_strategies import structures

from hwtpm import tpm12
from hwtpm.softtpm import engine
from hwtpm.tpm12.table import TABLE
from hwtpm.wire import Struct, WireError
from hwtpm.wire.codec import Rest


def _declared() -> Iterator[type[Struct]]:
    for package in (tpm12, engine):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    pending = Struct.__subclasses__()
    while pending:
        one = pending.pop()
        pending += one.__subclasses__()
        if one.__module__.startswith((tpm12.__name__, engine.__name__)) and hasattr(one, "layout"):
            yield one


DECLARED = sorted(set(_declared()), key=lambda of: (of.__module__, of.__qualname__))
BOUNDED = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_bodies_of_all_commands_are_among_them() -> None:
    bodies = {body for row in TABLE for body in (row.request, row.reply) if body is not None}
    assert bodies <= set(DECLARED)
    assert len(DECLARED) > 200


def _ends_open(of: type[Struct]) -> bool:
    codecs = list(of.layout.codecs.values())
    return bool(codecs) and isinstance(codecs[-1], Rest)


@pytest.mark.parametrize("of", DECLARED, ids=lambda of: of.__qualname__)
@BOUNDED
@given(data=st.data())
def test_what_was_encoded_comes_back(of: type[Struct], data: st.DataObject) -> None:
    value = data.draw(structures(of))
    encoded = value.encode()
    assert of.decode(encoded) == value
    assert of.layout.read(b"\xaa" + encoded, 1, 1 + len(encoded)) == (value, 1 + len(encoded))
    if not _ends_open(of):
        with pytest.raises(WireError):
            of.decode(encoded + b"\0")
        if encoded:
            with pytest.raises(WireError):
                of.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@pytest.mark.parametrize("of", DECLARED, ids=lambda of: of.__qualname__)
@BOUNDED
@given(data=st.data())
def test_bytes_are_a_structure_or_refused(of: type[Struct], data: st.DataObject) -> None:
    mutated = bytearray(data.draw(structures(of)).encode())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)))):
        if mutated:
            mutated[at % len(mutated)] = value
    try:
        value = of.decode(bytes(mutated))
    except WireError:
        return
    assert value.encode() == mutated
