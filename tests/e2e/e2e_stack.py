"""The installed programs on a stack of their own, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

PROGRAMS = Path(sys.executable).parent
MARK = "VSTACK_TEST_MARK"


@dataclass
class Stack:
    """`vstack` and `hwtpm` with state and run directory set, and a mark to find their processes."""

    root: Path
    mark: str = field(default_factory=lambda: uuid4().hex)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "VSTACK_STATE": str(self.root / "state"),
            "VSTACK_RUN": str(self.root / "run"),
            MARK: self.mark,
        }

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(PROGRAMS / command[0]), *command[1:]],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=100,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def json(self, *command: str) -> dict:
        answer = json.loads(self.run(*command, "--json").stdout)
        assert answer["ok"] is True
        return answer["data"]

    def error(self, *command: str) -> tuple[int, dict]:
        done = self.run(*command, "--json", check=False)
        answer = json.loads(done.stdout)
        assert answer["ok"] is False
        assert answer["error"]["exit"] == done.returncode
        return done.returncode, answer["error"]

    def processes(self) -> list[int]:
        """Processes of this stack that run (zombies do not)."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if self.mark.encode() not in (entry / "environ").read_bytes():
                    continue
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z":
                found.append(int(entry.name))
        return found


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
