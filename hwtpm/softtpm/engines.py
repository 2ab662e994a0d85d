"""The engines that keep their state in a `Storage`, by name; each is imported when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtpm.errors import UsageError
from hwtpm.softtpm.base import Family, SoftwareTpm, Storage

if TYPE_CHECKING:
    from hwtpm.softtpm.keypool import KeyPool

__all__ = ["ENGINES", "make_engine"]

ENGINES = ("engine", "libtpms", "swtpm")


def make_engine(
    name: str,
    storage: Storage,
    pool: KeyPool | None = None,
    *,
    family: Family = Family.TPM12,
) -> SoftwareTpm:
    """The engine of that name over `storage`, powered off.

    Args:
        name: one of `ENGINES`.
        storage: keeps its state.
        pool: where our own engine gets its keys first; the others make theirs themselves.
        family: TPM 1.2 or 2.0; ours is a TPM 1.2.

    Raises:
        UsageError: there is no such engine, or not of that family.
        DeviceNotFound: it is not installed.
    """
    if family is not Family.TPM12 and name != "libtpms":
        raise UsageError(f"the engine {name!r} is no {family}", hint="use libtpms")
    if name == "engine":
        from hwtpm.softtpm.engine import Engine
        from hwtpm.softtpm.engine.entropy import PooledEntropy

        return Engine(storage, entropy=PooledEntropy(pool) if pool else None)
    if name == "libtpms":
        from hwtpm.softtpm.libtpms import LibtpmsTpm

        return LibtpmsTpm(storage, family=family)
    if name == "swtpm":
        from hwtpm.softtpm.swtpm_stored import StoredSwtpm

        return StoredSwtpm(storage)
    raise UsageError(f"{name!r} is no TPM engine", hint=f"use one of: {', '.join(ENGINES)}")
