"""The kept inputs of the coverage-guided fuzzer, once each: its targets and its finds."""

from __future__ import annotations

from pathlib import Path

import fuzz_targets
import pytest

KEPT = sorted((Path(__file__).parent / "seeds").glob("*/*"))
SEEDS = list(fuzz_targets.seeds())


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed[0])
def test_every_sample_passes_both_targets(seed: tuple[str, bytes, bytes]) -> None:
    _, to_decode, to_dispatch = seed
    fuzz_targets.check_decode(to_decode)
    fuzz_targets.check_dispatch(to_dispatch)


def test_kept_inputs_pass() -> None:
    """Inputs that the fuzzer found to reach something new, or that once went wrong."""
    target = {"decode": fuzz_targets.check_decode, "dispatch": fuzz_targets.check_dispatch}
    assert KEPT
    for path in KEPT:
        target[path.parent.name](path.read_bytes())


def test_the_targets_see_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that cannot fail is none: an engine that answers rubbish does not pass."""
    from hwtpm.softtpm.engine import Engine

    honest = Engine.execute

    def rubbish(self: Engine, command: bytes, locality: int = 0) -> bytes:
        return honest(self, command, locality) + b"!"

    monkeypatch.setattr(fuzz_targets.Engine, "execute", rubbish)
    with pytest.raises(AssertionError):
        fuzz_targets.check_dispatch(SEEDS[0][2])
