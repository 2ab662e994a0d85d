"""A short run of the differential fuzzer: the same life for our engine and for libtpms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import fuzz_run
import fuzz_twins
import pytest
from fuzz_episode import Episode
from fuzz_report import Report
from fuzz_sides import Answer, Plan, Side
from fuzz_twins import Twins

from hwtpm.tpm12.commands.integrity import PcrReadReply
from hwtpm.tpm12.table import TABLE

SEEDS = range(1, 6)
COMMANDS = 4000  # with each of them: 20,000 in all


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    with fuzz_twins.twins(SEEDS[0]) as both:
        yield both


@pytest.fixture(scope="module", params=SEEDS)
def report(request: pytest.FixtureRequest) -> Report:
    with fuzz_twins.twins(request.param) as both:
        return fuzz_run.fuzz(both, COMMANDS, stop_at_first=False)


def test_nothing_differs_without_a_reason(report: Report) -> None:
    assert not report.differences, str(report)


def test_the_run_comes_far(report: Report) -> None:
    """A fuzzer that gets nowhere finds nothing."""
    assert report.commands >= COMMANDS
    assert len(report.succeeded) >= 95  # of 119 commands
    assert len({name for name, _ in report.answered}) >= 100
    assert len({rc for _, rc in report.answered}) >= 45
    # Most of what is compared has the same answer, not one that a row of the table explains.
    assert report.explained.total() < COMMANDS // 40


def test_a_run_follows_from_its_seed(twins: Twins) -> None:
    first, second = (fuzz_run.fuzz(twins, 300, stop_at_first=False) for _ in range(2))
    assert first == second


def test_a_difference_is_found(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Side.issue

    def lying(self: Side, plan: Plan) -> Answer:
        answer = honest(self, plan)
        if self.name == "ours" and isinstance(answer.reply, PcrReadReply):
            return replace(answer, reply=PcrReadReply(b"!" * 20))
        return answer

    report = Report()
    episode = Episode(twins, 0, report)
    episode.run(Plan(TABLE["TPM_Startup"], {"startup_type": 1}))
    episode.run(Plan(TABLE["TPM_PcrRead"], {"pcr_index": 0}))
    assert not report.differences
    monkeypatch.setattr(Side, "issue", lying)
    episode.run(Plan(TABLE["TPM_PcrRead"], {"pcr_index": 0}))
    assert list(report.differences) == ["TPM_PcrRead.out_digest"]
