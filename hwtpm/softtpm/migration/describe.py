"""What a TPM's permanent state holds, without its secrets: to compare before and after a move."""

from __future__ import annotations

from dataclasses import dataclass

from hwtpm.softtpm.engine.state import Permanent, RootKey
from hwtpm.tpm12.types import PermanentFlags, PubKey

__all__ = ["CounterSummary", "NvSummary", "StateSummary", "describe"]


@dataclass(frozen=True, slots=True)
class NvSummary:
    """An NV area: its index, size in bytes and TPM_NV_ATTRIBUTES."""

    index: int
    size: int
    permissions: int


@dataclass(frozen=True, slots=True)
class CounterSummary:
    """A monotonic counter."""

    handle: int
    label: bytes
    value: int


@dataclass(frozen=True, slots=True)
class StateSummary:
    """A TPM at rest. Keys go by the SHA-1 of their TPM_PUBKEY; None if there is none."""

    owned: bool
    endorsement_key: bytes | None
    storage_root_key: bytes | None
    nv_areas: tuple[NvSummary, ...]
    counters: tuple[CounterSummary, ...]
    owner_evict_keys: tuple[int, ...]
    families: int
    delegations: int
    audited: int
    failed_authorisations: int
    flags: PermanentFlags


def describe(permanent: Permanent) -> StateSummary:
    """The summary of a state."""
    return StateSummary(
        owned=permanent.srk is not None,
        endorsement_key=_name(permanent.ek),
        storage_root_key=_name(permanent.srk),
        nv_areas=tuple(
            NvSummary(
                area.public.nv_index, area.public.data_size, area.public.permission.attributes
            )
            for area in permanent.nv_areas
        ),
        counters=tuple(
            CounterSummary(counter.handle, counter.value.label, counter.value.counter)
            for counter in permanent.counters
        ),
        owner_evict_keys=tuple(key.handle for key in permanent.owner_evict),
        families=len(permanent.families),
        delegations=len(permanent.delegations),
        audited=len(permanent.audited),
        failed_authorisations=permanent.auth_failures,
        flags=permanent.flags,
    )


def _name(root: RootKey | None) -> bytes | None:
    return None if root is None else PubKey(root.key.algorithm_parms, root.key.pub_key).digest()
