"""swtpm over a storage: the engine contract, and that nothing is answered before it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from softtpm_contract import (
    STARTUP_CLEAR,
    Reopen,
    SoftwareTpmContract,
    nv_define,
    nv_read,
    rc_of,
)

from hwtpm.errors import ProtocolError, StateError
from hwtpm.softtpm.base import MemoryStorage, SoftwareTpm, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.storage import FileStorage
from hwtpm.softtpm.swtpm_stored import StoredSwtpm


class FullStorage(MemoryStorage):
    """Has room while `full` is not set."""

    full = False

    def store(self, name: StateName, blob: bytes) -> None:
        if self.full:
            raise StateError("the disk is full")
        super().store(name, blob)


@pytest.fixture
def storage() -> FullStorage:
    return FullStorage()


@pytest.fixture
def tpm(storage: FullStorage) -> Iterator[StoredSwtpm]:
    tpm = StoredSwtpm(storage)
    tpm.power_on()
    yield tpm
    tpm.close()


@pytest.fixture
def reopen(tpm: StoredSwtpm, storage: FullStorage) -> Iterator[Reopen]:
    opened: list[StoredSwtpm] = []

    def again() -> SoftwareTpm:
        tpm.close()
        opened.append(StoredSwtpm(storage))
        return opened[-1]

    yield again
    for other in opened:
        other.close()


class TestStoredSwtpm(SoftwareTpmContract):
    def test_only_what_changes_the_state_is_stored(
        self, tpm: StoredSwtpm, storage: FullStorage
    ) -> None:
        assert list(storage.blobs) == [StateName.PERMANENT]
        tpm.execute(STARTUP_CLEAR)
        before = storage.writes
        assert rc_of(tpm.execute(nv_read(0x1000, 4))) != 0
        assert storage.writes == before
        assert rc_of(tpm.execute(nv_define(0x1000, 4))) == 0
        assert storage.writes == before + 1

    def test_a_change_that_cannot_be_kept_is_not_answered_and_not_there_later(
        self, tpm: StoredSwtpm, storage: FullStorage, reopen: Reopen
    ) -> None:
        tpm.execute(STARTUP_CLEAR)
        storage.full = True
        with pytest.raises(StateError, match="full"):
            tpm.execute(nv_define(0x1000, 4))
        with pytest.raises(ProtocolError, match="lost"):
            tpm.execute(nv_read(0x1000, 4))
        storage.full = False
        again = reopen()
        again.power_on()
        again.execute(STARTUP_CLEAR)
        assert rc_of(again.execute(nv_define(0x1000, 4))) == 0


def test_the_state_of_another_engine_is_refused_and_kept(tmp_path: Path) -> None:
    with FileStorage(tmp_path) as storage:
        engine = Engine(storage)
        engine.power_on()
        engine.close()
        before = storage.load(StateName.PERMANENT)
        with pytest.raises(StateError, match="another engine"):
            StoredSwtpm(storage)
        assert storage.load(StateName.PERMANENT) == before
