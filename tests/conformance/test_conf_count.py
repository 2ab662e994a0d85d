"""Nothing is lost silently: how many tests there are, and that declared differences are in use."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from differences import DIFFERENCES

HERE = Path(__file__).parent
# swtpm is left out where a test costs power cycles, both peers where libtpms lacks the command: see
# `conftest`.
EXPECTED = {"engine": 1193, "libtpms": 1161, "swtpm": 1065}


def test_every_engine_runs_as_many_tests_as_there_are() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", HERE],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
        cwd=HERE.parent.parent,
    ).stdout
    engines = re.findall(r"\[(engine|libtpms|swtpm)(?=[\]-])", listed)
    assert Counter(engines) == EXPECTED


def test_every_declared_difference_is_asked_for() -> None:
    asked = [re.compile(text) for path in HERE.glob("test_conf_*.py") for text in _texts(path)]
    assert [name for name in DIFFERENCES if not any(one.fullmatch(name) for one in asked)] == []


def _texts(path: Path) -> Iterator[str]:
    """Patterns of all strings in a file; what an f-string fills in is a word."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+"
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.escape(node.value)
