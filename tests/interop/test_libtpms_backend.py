"""libtpms in process: the engine contract, its storage callbacks, one TPM per process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from softtpm_contract import (
    CAP_VERSION,
    FAIL_SELFTEST,
    STARTUP_CLEAR,
    STARTUP_STATE,
    Reopen,
    SoftwareTpmContract,
    extend,
    frame,
    nv_define,
    nv_read,
    payload,
    rc_of,
)

from hwtpm.errors import Busy, DeviceNotFound, StateError, UsageError
from hwtpm.softtpm import libtpms
from hwtpm.softtpm.base import MemoryStorage, SoftwareTpm, StateName
from hwtpm.softtpm.libtpms import LibtpmsTpm

BAD_PRESENCE = 0x2D
BAD_INDEX = 0x02


class FaultyStorage(MemoryStorage):
    """Raises `fault` from every access while it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: BaseException | None = None

    def load(self, name: StateName) -> bytes | None:
        self._trip()
        return super().load(name)

    def store(self, name: StateName, blob: bytes) -> None:
        self._trip()
        super().store(name, blob)

    def delete(self, name: StateName) -> None:
        self._trip()
        super().delete(name)

    def _trip(self) -> None:
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def storage() -> FaultyStorage:
    return FaultyStorage()


@pytest.fixture
def tpm(storage: FaultyStorage) -> Iterator[LibtpmsTpm]:
    tpm = LibtpmsTpm(storage)
    tpm.power_on()
    yield tpm
    tpm.close()


@pytest.fixture
def reopen(tpm: LibtpmsTpm, storage: FaultyStorage) -> Iterator[Reopen]:
    opened: list[LibtpmsTpm] = []

    def again() -> SoftwareTpm:
        tpm.close()
        opened.append(LibtpmsTpm(storage))
        return opened[-1]

    yield again
    for other in opened:
        other.close()


class TestLibtpms(SoftwareTpmContract):
    def test_description_names_library_and_version(self, tpm: LibtpmsTpm) -> None:
        assert tpm.description.startswith("libtpms 0.")

    def test_a_tpm_without_blobs_is_manufactured_and_stored(
        self, tpm: LibtpmsTpm, storage: FaultyStorage
    ) -> None:
        assert list(storage.blobs) == [StateName.PERMANENT]
        assert rc_of(tpm.execute(STARTUP_STATE)) == FAIL_SELFTEST

    def test_only_one_at_a_time_lives_in_a_process(
        self, tpm: LibtpmsTpm, storage: FaultyStorage
    ) -> None:
        with pytest.raises(Busy, match="one libtpms TPM"):
            LibtpmsTpm(MemoryStorage())
        assert rc_of(tpm.execute(STARTUP_CLEAR)) == 0
        tpm.close()
        LibtpmsTpm(storage).close()

    def test_physical_presence_is_read_at_every_command(self, tpm: LibtpmsTpm) -> None:
        tpm.execute(STARTUP_CLEAR)
        hardware_enable, physical_enable = frame(0x4000000A, b"\0\x40"), frame(0x6F)
        assert rc_of(tpm.execute(hardware_enable)) == 0
        assert rc_of(tpm.execute(physical_enable)) == BAD_PRESENCE
        tpm.physical_presence = True
        assert rc_of(tpm.execute(physical_enable)) == 0
        tpm.physical_presence = False
        assert rc_of(tpm.execute(physical_enable)) == BAD_PRESENCE

    @pytest.mark.parametrize(
        "fault", [OSError("disk full"), StateError("damaged"), KeyboardInterrupt()]
    )
    def test_a_storage_fault_fails_the_command_and_reaches_the_caller(
        self, tpm: LibtpmsTpm, storage: FaultyStorage, fault: BaseException
    ) -> None:
        tpm.execute(STARTUP_CLEAR)
        before = dict(storage.blobs)
        storage.fault = fault
        with pytest.raises(type(fault)) as caught:
            tpm.execute(nv_define(0x1001, 8))
        assert caught.value is fault
        assert storage.blobs == before
        assert rc_of(tpm.execute(nv_read(0x1001, 8))) == FAIL_SELFTEST
        storage.fault = None
        tpm.power_on()
        tpm.execute(STARTUP_CLEAR)
        assert rc_of(tpm.execute(nv_read(0x1001, 8))) == BAD_INDEX

    def test_a_storage_fault_at_power_on_reaches_the_caller(
        self, tpm: LibtpmsTpm, storage: FaultyStorage
    ) -> None:
        storage.fault = StateError("file is damaged")
        with pytest.raises(StateError, match="file is damaged"):
            tpm.power_on()
        with pytest.raises(UsageError, match="off"):
            tpm.execute(CAP_VERSION)
        storage.fault = None
        tpm.power_on()
        assert rc_of(tpm.execute(STARTUP_CLEAR)) == 0

    @pytest.mark.parametrize("damage", ["empty", "cut", "bit", "oversized"])
    def test_an_unusable_permanent_state_is_reported_and_kept(
        self, tpm: LibtpmsTpm, storage: FaultyStorage, damage: str
    ) -> None:
        good = storage.blobs[StateName.PERMANENT]
        bad = {
            "empty": b"",
            "cut": good[:-1],
            "bit": good[:500] + bytes([good[500] ^ 1]) + good[501:],
            "oversized": bytes(1 << 20),
        }[damage]
        storage.blobs = {StateName.PERMANENT: bad}
        with pytest.raises(StateError, match="stored state"):
            tpm.power_on()
        assert storage.blobs == {StateName.PERMANENT: bad}
        storage.blobs = {StateName.PERMANENT: good}
        tpm.power_on()
        assert rc_of(tpm.execute(STARTUP_CLEAR)) == 0

    def test_a_command_that_changes_nothing_permanent_writes_nothing(
        self, tpm: LibtpmsTpm, storage: FaultyStorage
    ) -> None:
        tpm.execute(STARTUP_CLEAR)
        writes = storage.writes
        payload(tpm.execute(extend(1, b"v" * 20)))
        assert storage.writes == writes

    def test_use_before_power_on_is_a_usage_error(self, tpm: LibtpmsTpm) -> None:
        tpm.close()
        fresh = LibtpmsTpm(MemoryStorage())
        try:
            with pytest.raises(UsageError, match="power_on first"):
                fresh.execute(CAP_VERSION)
        finally:
            fresh.close()


def test_a_missing_library_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(libtpms, "_LIBRARY", "libabsent-tpms.so.0")
        with pytest.raises(DeviceNotFound) as caught:
            LibtpmsTpm(MemoryStorage())
    assert "libtpms0" in caught.value.hint
    LibtpmsTpm(MemoryStorage()).close()
