"""The commands' own actions, one file a chapter of Part 3."""

from hwtpm.softtpm.engine.chapters import (
    endorsement,
    identity,
    integrity,
    sessions,
    signing,
    storage,
    ticks,
)

__all__ = [
    "endorsement",
    "identity",
    "integrity",
    "load",
    "sessions",
    "signing",
    "storage",
    "ticks",
]


def load() -> None:
    """Importing this package has entered all actions; calling this says so where it matters."""
