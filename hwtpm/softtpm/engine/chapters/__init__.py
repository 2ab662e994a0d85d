"""The commands' own actions, one file a chapter of Part 3."""

from hwtpm.softtpm.engine.chapters import integrity, sessions, ticks

__all__ = ["integrity", "load", "sessions", "ticks"]


def load() -> None:
    """Importing this package has entered all actions; calling this says so where it matters."""
