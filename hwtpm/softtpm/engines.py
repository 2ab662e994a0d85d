"""The engines that run in the caller's process, by name; each is imported when it is asked for."""

from __future__ import annotations

from hwtpm.errors import UsageError
from hwtpm.softtpm.base import SoftwareTpm, Storage

__all__ = ["ENGINES", "make_engine"]

ENGINES = ("engine", "libtpms")


def make_engine(name: str, storage: Storage) -> SoftwareTpm:
    """The engine of that name over `storage`, powered off.

    Raises:
        UsageError: there is no such engine.
        DeviceNotFound: it is not installed.
    """
    if name == "engine":
        from hwtpm.softtpm.engine import Engine

        return Engine(storage)
    if name == "libtpms":
        from hwtpm.softtpm.libtpms import LibtpmsTpm

        return LibtpmsTpm(storage)
    raise UsageError(f"{name!r} is no TPM engine", hint=f"use one of: {', '.join(ENGINES)}")
