"""A fresh stack for each test, and proof that it leaves nothing behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_stack import Stack


@pytest.fixture
def stack() -> Iterator[Stack]:
    root = Path(tempfile.mkdtemp(prefix="vs-"))  # short: Unix socket paths are limited
    made = Stack(root)
    try:
        yield made
    finally:
        made.run("vstack", "down", check=False)
        left = made.processes()
        for log in sorted((root / "run" / "log").glob("*.log")):
            print(f"== {log.name}\n{log.read_text()[-3000:]}")
        shutil.rmtree(root)
        assert left == [], "the stack left processes running"
