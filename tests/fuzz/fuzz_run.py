"""Differential fuzzing: the same random life for our engine and for libtpms.

Both start from the same permanent state (root keys and tpmProof included). Every answer is held
against the other's: return code, size, tag, resAuth, and every field that is not random. A run is
decided by its seed alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress

from fuzz_episode import Episode, Parted
from fuzz_report import Report
from fuzz_twins import Twins, twins

__all__ = ["fuzz"]

EPISODE = 300  # commands between two fresh starts


def fuzz(
    twins: Twins, commands: int, *, first_episode: int = 0, stop_at_first: bool = True
) -> Report:
    """That many commands."""
    report = Report()
    while report.commands < commands:
        episode = Episode(twins, first_episode + report.episodes, report)
        report.episodes += 1
        with suppress(Parted):
            episode.live(min(EPISODE, commands - report.commands))
        if report.differences and stop_at_first:
            break
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--episode", type=int, default=0, help="the first one to run")
    parser.add_argument("--all", action="store_true", help="go on after a difference")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    with twins(chosen.seed) as both:
        report = fuzz(
            both,
            chosen.commands,
            first_episode=chosen.episode,
            stop_at_first=not chosen.all,
        )
    print(report)
    sys.exit(1 if report.differences else 0)


if __name__ == "__main__":
    main()
