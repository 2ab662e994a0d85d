"""A TPM in use is moved into another object: the engines that can, by the same test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engine_rig import Rig, new_identity, owned_engine, owned_libtpms, template

from hwtpm.errors import Busy, StateError
from hwtpm.softtpm.base import MemoryStorage, MovableTpm, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.state import encode_permanent
from hwtpm.softtpm.libtpms import LibtpmsTpm
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.integrity import Extend, PcrRead
from hwtpm.tpm12.const import KeyUsage
from hwtpm.tpm12.rc import Rc

Make = Callable[[MemoryStorage], Any]


def _engine() -> tuple[MovableTpm, MemoryStorage]:
    engine = owned_engine(new_identity())
    assert isinstance(engine.storage, MemoryStorage)
    engine.storage.store(StateName.PERMANENT, encode_permanent(engine.permanent))
    return engine, engine.storage


def _libtpms() -> tuple[MovableTpm, MemoryStorage]:
    storage = MemoryStorage()
    return owned_libtpms(storage), storage


@pytest.fixture(params=[(_engine, Engine), (_libtpms, LibtpmsTpm)], ids=["engine", "libtpms"])
def owned(request: pytest.FixtureRequest) -> Iterator[tuple[MovableTpm, MemoryStorage, Make]]:
    make_owned, make = request.param
    tpm, storage = make_owned()
    yield tpm, storage, make
    tpm.close()


def test_sessions_keys_and_pcrs_go_on(owned: tuple[MovableTpm, MemoryStorage, Make]) -> None:
    tpm, storage, make = owned
    rig = Rig(tpm)
    key = rig.make_key(template(KeyUsage.SIGNING, 1024))
    session = rig.osap(key.handle, key.auth)
    rig.client.execute(Sign(key.handle, bytes(20)), session)
    value = rig.run(Extend(3, b"\1" * 20)).out_digest
    blob = tpm.export_volatile()
    tpm.close()
    other = make(storage)
    other.import_volatile(blob)
    try:
        rig.wire.tpm = other
        assert rig.run(PcrRead(3)).out_digest == value
        rig.client.execute(Sign(key.handle, bytes(20)), session)
        other.power_on()
        assert rig.refusal(PcrRead(3)) == Rc.INVALID_POSTINIT
        with pytest.raises(StateError):
            other.import_volatile(blob[:-1] + bytes([blob[-1] ^ 1]))
    finally:
        other.close()


def test_half_a_launch_stays(owned: tuple[MovableTpm, MemoryStorage, Make]) -> None:
    tpm, _, _ = owned
    tpm.hash_start()
    with pytest.raises(Busy):
        tpm.export_volatile()
    tpm.hash_end()
    assert tpm.export_volatile()
