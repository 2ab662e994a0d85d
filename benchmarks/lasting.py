"""Commands whose effect is on the disk when they answer."""

from __future__ import annotations

from typing import Final

from benchmarks.benchmark import of
from benchmarks.patient import NV_INDEX, NV_SIZE, OWNER, USAGE, Patient
from hwtpm.client import counters, nv
from hwtpm.tpm12.commands.startup import SaveState
from hwtpm.tpm12.const import NvPermission

__all__ = ["ROWS"]

_NV_AGAIN: Final = 0x1002


def nv_write(on: Patient) -> None:
    # What is there already need not be stored again, so each write is another one.
    on.writes += 1
    nv.write(on.tpm, NV_INDEX, on.writes.to_bytes(NV_SIZE, "big"), owner_auth=OWNER)


def nv_define(on: Patient) -> None:
    owners = NvPermission.OWNERREAD | NvPermission.OWNERWRITE
    nv.define(on.tpm, _NV_AGAIN, NV_SIZE, owners, owner_auth=OWNER)
    nv.delete(on.tpm, _NV_AGAIN, owner_auth=OWNER)


def increment_counter(on: Patient) -> None:
    counters.increment(on.tpm, on.counter, USAGE)


def save_state(on: Patient) -> None:
    on.tpm.execute(SaveState())


ROWS: Final = (
    of(nv_write, "NV_WriteValue", name="NV_WriteValue, 32 bytes", times=10),
    of(nv_define, "NV_DefineSpace", name="NV_DefineSpace, twice", times=5),
    of(increment_counter, "IncrementCounter", times=10),
    of(save_state, "SaveState", times=10),
)
