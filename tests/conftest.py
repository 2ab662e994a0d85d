"""Fixtures that unit and interop tests share; `engine_rig` lies beside this file."""

from __future__ import annotations

import pytest
from engine_rig import Identity, Rig, new_identity, owned_engine


@pytest.fixture(scope="session")
def tpm_identity() -> Identity:
    return new_identity()


@pytest.fixture
def rig(tpm_identity: Identity) -> Rig:
    """Our engine, owned."""
    return Rig(owned_engine(tpm_identity))
