"""Commands that compute next to nothing: without authorisation, and with one."""

from __future__ import annotations

from typing import Final

from benchmarks.benchmark import of
from benchmarks.patient import DIGEST, NV_FREE, NV_INDEX, NV_SIZE, OWNER, Patient
from hwtpm.client import counters, keys, nv, owner
from hwtpm.client.info import capability
from hwtpm.tpm12.commands.cryptography import (
    GetRandom,
    SHA1Complete,
    SHA1Start,
    SHA1Update,
    StirRandom,
)
from hwtpm.tpm12.commands.delegation import DelegateReadTable
from hwtpm.tpm12.commands.integrity import Extend, PcrRead, PcrReset
from hwtpm.tpm12.commands.testing import GetTestResult
from hwtpm.tpm12.commands.ticks import GetTicks
from hwtpm.tpm12.const import Capability, CapFlag, CapProperty
from hwtpm.tpm12.types import PcrSelection

__all__ = ["ROWS"]

_DEBUG_PCR: Final = 16
_BLOCK: Final = bytes(64)


def _word(value: int) -> bytes:
    return value.to_bytes(4, "big")


def pcr_read(on: Patient) -> None:
    on.tpm.execute(PcrRead(0))


def extend(on: Patient) -> None:
    on.tpm.execute(Extend(10, DIGEST))


def pcr_reset(on: Patient) -> None:
    on.tpm.execute(PcrReset(PcrSelection.of([_DEBUG_PCR])))


def get_random(on: Patient) -> None:
    on.tpm.execute(GetRandom(20))


def stir_random(on: Patient) -> None:
    on.tpm.execute(StirRandom(DIGEST))


def get_property(on: Patient) -> None:
    capability(on.tpm, Capability.PROPERTY, _word(CapProperty.PCR))


def get_flags(on: Patient) -> None:
    capability(on.tpm, Capability.FLAG, _word(CapFlag.PERMANENT))


def get_version(on: Patient) -> None:
    capability(on.tpm, Capability.VERSION_VAL)


def get_handles(on: Patient) -> None:
    keys.loaded_handles(on.tpm)


def get_area(on: Patient) -> None:
    nv.area(on.tpm, NV_INDEX)


def get_test_result(on: Patient) -> None:
    on.tpm.execute(GetTestResult())


def get_ticks(on: Patient) -> None:
    on.tpm.execute(GetTicks())


def read_counter(on: Patient) -> None:
    counters.read(on.tpm, on.counter)


def sha1_thread(on: Patient) -> None:
    on.tpm.execute(SHA1Start())
    on.tpm.execute(SHA1Update(_BLOCK))
    on.tpm.execute(SHA1Complete(b""))


def nv_read(on: Patient) -> None:
    nv.read(on.tpm, NV_FREE, NV_SIZE)


def read_table(on: Patient) -> None:
    on.tpm.execute(DelegateReadTable())


def oiap(on: Patient) -> None:
    on.tpm.oiap(OWNER).flush()


def osap(on: Patient) -> None:
    on.osap_owner().flush()


def nv_read_as_owner(on: Patient) -> None:
    nv.read(on.tpm, NV_INDEX, NV_SIZE, owner_auth=OWNER)


def get_pub_key(on: Patient) -> None:
    keys.get_pub(on.tpm, on.signer)


def read_srk(on: Patient) -> None:
    owner.read_srk_as_owner(on.tpm, OWNER)


ROWS: Final = (
    of(pcr_read, "PcrRead", times=100),
    of(extend, "Extend", times=100),
    of(pcr_reset, "PCR_Reset"),
    of(get_random, "GetRandom", name="GetRandom, 20 bytes", times=100),
    of(stir_random, "StirRandom"),
    of(get_property, "GetCapability", name="GetCapability, a property", times=100),
    of(get_flags, "GetCapability", name="GetCapability, flags"),
    of(get_version, "GetCapability", name="GetCapability, version"),
    of(get_handles, "GetCapability", name="GetCapability, handles"),
    of(get_area, "GetCapability", name="GetCapability, NV area"),
    of(get_test_result, "GetTestResult"),
    of(get_ticks, "GetTicks"),
    of(read_counter, "ReadCounter"),
    of(sha1_thread, "SHA1Start", "SHA1Update", "SHA1Complete"),
    of(nv_read, "NV_ReadValue"),
    of(read_table, "Delegate_ReadTable"),
    of(oiap, "OIAP", "FlushSpecific"),
    of(osap, "OSAP", "FlushSpecific"),
    of(nv_read_as_owner, "NV_ReadValue", name="NV_ReadValue, owner"),
    of(get_pub_key, "GetPubKey"),
    of(read_srk, "OwnerReadInternalPub"),
)
