"""Fixtures of the conformance suite: each test runs on every engine.

`new`, `endorsed` and `owned` are one TPM per engine and module, put back into that state when the
last test left another one. A test that changes more than sessions and keys is marked `alters`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance_rig import ENGINES, PREPARATIONS, Device, Prepared, open_shelf

from hwtpm.client import keys


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alters: the test leaves the TPM in another state")


States = dict[tuple[str, str], Prepared]  # by engine and name of the state


class Bench:
    """One engine, and which prepared state its TPM is in."""

    def __init__(self, engine: str, directory: Path, prepared: States) -> None:
        self.device = Device(engine, open_shelf(engine, directory))
        self._prepared = prepared
        self._state: str | None = None

    def ready(self, state: str) -> Device:
        """The TPM in that state, started, with nothing loaded."""
        if self._state != state:
            key = (self.device.engine, state)
            if key not in self._prepared:
                self._prepared[key] = PREPARATIONS[state](self.device)
            self.device.restore(self._prepared[key])
            self._state = state
        return self.device

    def tidy(self, altered: bool) -> None:
        if altered:
            self._state = None
        else:
            self.device.wire.locality = 0
            keys.flush_all(self.device.client)


@pytest.fixture(scope="session")
def prepared_states() -> States:
    return {}


@pytest.fixture(scope="module", params=ENGINES)
def bench(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    prepared_states: States,
) -> Iterator[Bench]:
    bench = Bench(request.param, tmp_path_factory.mktemp("tpm"), prepared_states)
    yield bench
    bench.device.tpm.close()


def _on(bench: Bench, request: pytest.FixtureRequest, state: str) -> Iterator[Device]:
    altered = request.node.get_closest_marker("alters") is not None
    try:
        yield bench.ready(state)
    except BaseException:
        altered = True
        raise
    finally:
        bench.tidy(altered)


@pytest.fixture
def new(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Device]:
    """Factory new: no EK, no owner, NV not locked."""
    yield from _on(bench, request, "new")


@pytest.fixture
def endorsed(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Device]:
    """With an EK, without an owner."""
    yield from _on(bench, request, "endorsed")


@pytest.fixture
def owned(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Device]:
    """Owned, with a wrapped key of every kind."""
    yield from _on(bench, request, "owned")
