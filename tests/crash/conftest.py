"""Builds preload.c once and starts the harness under it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from crash_rounds import Run

_HERE = Path(__file__).parent
_DEADLINE_S = int(os.environ.get("CRASH_DEADLINE_S", "100"))


@pytest.fixture(scope="session")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("preload") / "preload.so"
    source = _HERE / "preload.c"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def harness(preload: Path, tmp_path: Path) -> Run:
    """Runs `crash_harness.py WHAT SCENARIO SEED COUNT` to its end; what it reports."""

    def run(what: str, scenario: str, seed: int, count: int) -> dict[str, str]:
        arguments = [what, scenario, str(seed), str(count), str(tmp_path)]
        environment = os.environ | {
            "LD_PRELOAD": str(preload),
            # Writing byte code would be counted as well.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        ended = subprocess.run(
            [sys.executable, str(_HERE / "crash_harness.py"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
        )
        assert ended.returncode == 0, ended.stderr
        report: dict[str, str] = json.loads(ended.stdout)
        assert "problem" not in report, report["problem"]
        return report

    return run
