"""kill -9 at random writes: the next start recovers by itself and nothing acknowledged is lost.

Each kill is one of: before a call that changes the disk, after it, in the middle of a write.
"""

from __future__ import annotations

import pytest
from crash_rounds import Run

KILLS = {
    "first-start": 16,  # a new manager takes a factory-new chip
    "records": 50,  # SAVEHASHKEY of several vTPMs
    "chip": 24,  # our engine on files, from factory-new to owned and used
    "owned-chip": 24,
    "vtpm": 40,  # a vTPM on its manager, from creation to owned and used
    "owned-vtpm": 40,
    "stack": 40,  # manager and vTPM as processes under the supervisor, either one killed
}

FAILURES = ("chip", "owned-chip", "records", "vtpm", "owned-vtpm")


def test_at_least_two_hundred_kills_are_demanded() -> None:
    assert sum(KILLS.values()) >= 200


@pytest.mark.parametrize("scenario", KILLS)
def test_a_kill_at_any_write_loses_nothing_acknowledged(harness: Run, scenario: str) -> None:
    report = harness("kill", scenario, 1, KILLS[scenario])
    assert int(report["kills"]) >= KILLS[scenario]


@pytest.mark.parametrize("scenario", FAILURES)
def test_a_failing_write_is_answered_with_failure_and_changes_nothing(
    harness: Run, scenario: str
) -> None:
    assert int(harness("fail", scenario, 1, 50)["failures"]) >= 50
