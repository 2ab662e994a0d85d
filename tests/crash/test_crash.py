"""kill -9 at random writes: the next start recovers by itself and nothing acknowledged is lost.

Each kill is one of: before a call that changes the disk, after it, in the middle of a write.
"""

from __future__ import annotations

import os

import pytest
from crash_rounds import Run
from recorded_life import DURABLE

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


# --- every command that writes -------------------------------------------------------------------

# So many places for each step of the life that writes; `make crash` visits them all.
PLACES = int(os.environ.get("CRASH_PLACES", "2"))
# What one command writes, by files that are written for the first time and by files that are not:
# a new file takes unlink, write, fsync, rename and fsync; in place it is write and fsync; and a
# saved state is deleted by unlink and fsync.
CALLS = {"2/2", "5/2", "5/5"}
STEPS = 96  # that write; docs/crash-safety.md has the numbers
ALSO = {"hash_start", "TPM_SaveState", "TPM_Startup"}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", ["kill", "fail"])
def test_every_command_that_writes_is_all_or_nothing(harness: Run, what: str) -> None:
    report = harness(what, "commands", int(os.environ.get("CRASH_SEED", "1")), PLACES)
    visited = set(report["commands"].split())
    assert visited >= DURABLE | ALSO
    assert set(report["calls"].split()) == CALLS
    if PLACES:
        assert int(report["places"]) == PLACES * STEPS
