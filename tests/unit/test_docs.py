"""The generated references are those of the tables, the state's fields are described, and links
between documents lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from hwtpm.softtpm.engine import contexts, daa_sessions, state, volatile
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
