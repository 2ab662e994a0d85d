"""The commands' own actions, one file a chapter of Part 3."""

from hwtpm.softtpm.engine.chapters import (
    capability,
    counters,
    cryptography,
    endorsement,
    identity,
    integrity,
    management,
    nv,
    optin,
    ownership,
    sessions,
    signing,
    startup,
    storage,
    testing,
    ticks,
)

__all__ = [
    "capability",
    "counters",
    "cryptography",
    "endorsement",
    "identity",
    "integrity",
    "load",
    "management",
    "nv",
    "optin",
    "ownership",
    "sessions",
    "signing",
    "startup",
    "storage",
    "testing",
    "ticks",
]


def load() -> None:
    """Importing this package has entered all actions; calling this says so where it matters."""
