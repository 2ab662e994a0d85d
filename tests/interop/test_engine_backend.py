"""Our engine: the contract of every engine behind `SoftwareTpm`."""

from __future__ import annotations

import pytest
from softtpm_contract import Reopen, SoftwareTpmContract

from hwtpm.softtpm.base import MemoryStorage, SoftwareTpm
from hwtpm.softtpm.engine import Engine


class TestEngine(SoftwareTpmContract):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage()

    @pytest.fixture
    def tpm(self, storage: MemoryStorage) -> SoftwareTpm:
        engine = Engine(storage)
        engine.power_on()
        return engine

    @pytest.fixture
    def reopen(self, storage: MemoryStorage, tpm: SoftwareTpm) -> Reopen:
        def again() -> SoftwareTpm:
            tpm.close()
            return Engine(storage)

        return again
