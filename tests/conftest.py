"""Fixtures that unit and interop tests share; `engine_rig` lies beside this file."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_rig import Identity, Rig, new_identity, owned_engine

from hwtpm.tis_spi.virtual.spidev import build_preload


@pytest.fixture(scope="session")
def tpm_identity() -> Identity:
    return new_identity()


@pytest.fixture
def rig(tpm_identity: Identity) -> Rig:
    """Our engine, owned."""
    return Rig(owned_engine(tpm_identity))


@pytest.fixture(scope="session")
def spidev_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes /dev/spidevB.C out of a virtual one in a program."""
    return build_preload(tmp_path_factory.mktemp("spidev"))
