"""The process that is started with preload.c: runs one scenario and prints what came out.

Usage: crash_harness.py kill|fail SCENARIO|stack|commands SEED COUNT DIRECTORY
"""

from __future__ import annotations

import gc
import json
import logging
import sys
from pathlib import Path

from crash_commands import fail_commands, kill_commands
from crash_rounds import State, fail_writes, kill_lives
from crash_scenarios import SCENARIOS
from crash_stack import kill_stack


def main() -> None:
    what, scenario, seed, count, directory = sys.argv[1:]
    logging.disable()
    gc.freeze()
    print(json.dumps(run(what, scenario, int(seed), int(count), Path(directory))))


def run(what: str, scenario: str, seed: int, count: int, directory: Path) -> State:
    if scenario == "commands":
        return (kill_commands if what == "kill" else fail_commands)(directory, seed, count)
    if what == "fail":
        return fail_writes(SCENARIOS[scenario], directory, seed, count)
    if scenario == "stack":
        return kill_stack(directory, seed, count)
    return kill_lives(SCENARIOS[scenario], directory, seed, count)


main()
