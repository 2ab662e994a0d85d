"""The generated references are those of the tables, the state's fields are described, and links
between documents lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from hwtpm.softtpm.engine import (
    Engine,  # noqa: F401 - loads the chapters
    contexts,
    daa_sessions,
    keys,
    lockout,
    sessions,
    state,
    transports,
    volatile,
)
from hwtpm.softtpm.engine.call import ACTIONS
from hwtpm.softtpm.engine.chapters import nv
from hwtpm.tpm12 import const
from hwtpm.wire import Struct

ROOT = Path(__file__).parents[2]


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_references_are_up_to_date() -> None:
    for name, text in _builder().references().items():
        assert (ROOT / "docs" / "reference" / name).read_text() == text, "run `make docs`"


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=str
)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


LIMITS = {
    "bytes of a command or answer": const.MAX_FRAME,
    "loaded keys": keys.MAX_KEYS,
    "owner-evict keys, of these": state.MAX_OWNER_EVICT,
    "authorisation sessions": sessions.MAX_SESSIONS,
    "transport sessions": transports.MAX_TRANSPORTS,
    "DAA sessions": daa_sessions.MAX_DAA_SESSIONS,
    "saved contexts of sessions": state.MAX_CONTEXTS,
    "monotonic counters": state.MAX_COUNTERS,
    "families": state.MAX_FAMILIES,
    "rows of the delegate table": state.MAX_DELEGATE_ROWS,
    "NV areas": state.MAX_NV_AREAS,
    "bytes of all NV areas, 96 for each area included": state.MAX_NV_BYTES,
    "NV writes without an owner": nv.MAX_WRITES_WITHOUT_OWNER,
    "wrong authorisations before the TPM waits": lockout.THRESHOLD,
}


def test_the_engines_limits_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "engine.md").read_text()
    (table,) = re.findall(r"\| what \| how many \|\n\|---\|---\|\n((?:\|.*\n)+)", text)
    assert table.splitlines() == [f"| {what} | {limit:,} |" for what, limit in LIMITS.items()]


def test_the_engines_chapters_are_those_of_the_table() -> None:
    """Chapter of Part 3, commands, files that have their actions."""
    text = (ROOT / "docs" / "engine.md").read_text()
    rows = re.findall(r"^\| (\d+) [^|]+\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    files: dict[int, list[str]] = {}
    for served in ACTIONS.values():
        chapter = int(served.row.section.split(".")[0])
        files.setdefault(chapter, []).append(served.action.__module__.rpartition(".")[2])
    assert {int(chapter): int(count) for chapter, count, _ in rows} == {
        chapter: len(names) for chapter, names in files.items()
    }
    for chapter, _, cell in rows:
        named = set(re.findall(r"`(\w+)`", cell))
        assert named <= set(files[int(chapter)])
        assert named == set(files[int(chapter)]) or "the file of what replaced it" in cell


def _described(document: Path) -> dict[str, list[str]]:
    """Section to the first column of its table of fields."""
    sections: dict[str, list[str]] = {}
    name = ""
    for line in document.read_text().splitlines():
        if line.startswith("#"):
            name = line.lstrip("# ").lower()
        elif line.startswith("| field |"):
            sections[name] = []
        elif name in sections and (cell := re.match(r"\| (\w+) \|", line)):
            sections[name].append(cell[1])
    return sections


@pytest.mark.parametrize(
    "structure",
    [
        state.Permanent,
        state.RootKey,
        state.StoredKey,
        state.Counter,
        state.NvArea,
        state.DelegateSlot,
        volatile.Saved,
        volatile.SinceStartup,
        volatile.Resources,
        volatile.StoredSession,
        volatile.StoredTransport,
        daa_sessions.DaaSession,
        volatile.Volatile,
        contexts.SavedSession,
        contexts.Additional,
    ],
)
def test_every_field_of_the_state_is_described(structure: type[Struct]) -> None:
    described = _described(ROOT / "docs" / "engine-state.md")
    name = structure.layout.spec_name
    assert described[name.lower()] == list(structure.layout.codecs)
