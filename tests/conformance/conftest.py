"""Fixtures of the conformance suite: each test runs on every engine.

`new`, `endorsed` and `owned` are one TPM per engine and module, put back into that state when the
last test left another one. A test that changes more than sessions and keys is marked `alters`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from conformance_rig import ENGINES, OWNER, PREPARATIONS, Device, Prepared, open_shelf
from differences import LACKING

from hwtpm.client import keys, owner


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alters: the test leaves the TPM in another state")
    config.addinivalue_line("markers", "crashes(*engines, why): those engines do not survive it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if _left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _left_out(item)]


def _left_out(item: pytest.Item) -> bool:
    """Tests of commands that an engine lacks, tests that it would die of, and swtpm where a test
    costs power cycles.

    A start of libtpms makes an RSA key for its self test (0.1 to 0.5 s), and libtpms is what swtpm
    runs: what a test that alters the TPM asks is answered by the same code in this process.
    """
    spec = getattr(item, "callspec", None)
    engine = None if spec is None else spec.params.get("bench")
    if spec is None or engine is None:  # a test of another directory
        return False
    row = spec.params.get("row")
    if row is not None and row.name in LACKING and engine != "engine":
        return True
    crashes = item.get_closest_marker("crashes")
    if crashes is not None and engine in crashes.args:
        return True
    return engine == "swtpm" and item.get_closest_marker("alters") is not None


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
            if self._state == "owned":  # wrong secrets are counted, and too many lock the TPM
                owner.reset_lock(self.device.client, OWNER)


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


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


def _on(bench: Bench, request: pytest.FixtureRequest, state: str) -> Iterator[Device]:
    yield bench.ready(state)
    altered = request.node.get_closest_marker("alters") is not None
    bench.tidy(altered or request.node.stash.get(FAILED, False))


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
