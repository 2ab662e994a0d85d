"""One function a benchmark: what is done once, and which commands of it are timed.

Only the time between request and response counts: what the client computes is the same for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.subjects import Subject
from hwtpm.client import keys, nv, owner, quote, seal
from hwtpm.client.info import capability
from hwtpm.client.session import Tpm
from hwtpm.secret import WELL_KNOWN, Secret
from hwtpm.tpm12.commands.cryptography import GetRandom
from hwtpm.tpm12.commands.integrity import Extend, PcrRead
from hwtpm.tpm12.const import Capability, CapProperty, NvPermission
from hwtpm.tpm12.frame import ordinal_of
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types import Key, StoredData
from hwtpm.transport.base import Transport, Wrapper

__all__ = ["BENCHMARKS", "Benchmark", "Patient"]

OWNER: Final = Secret(b"o" * 20)
USAGE: Final = Secret(b"u" * 20)
_NV_INDEX: Final = 0x1000
_DIGEST: Final = bytes(20)


class Stopwatch(Wrapper):
    """Adds up the nanoseconds that the commands of interest take."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner)
        self.ordinals: frozenset[int] = frozenset()
        self.spent_ns = 0

    def execute(self, command: bytes) -> bytes:
        start = time.perf_counter_ns()
        response = self._inner.execute(command)
        spent = time.perf_counter_ns() - start
        if ordinal_of(command) in self.ordinals:
            self.spent_ns += spent
        return response


class Patient:
    """A running subject with an owner, a key, sealed data and an NV area."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.watch = Stopwatch(subject.connect())
        self.tpm = Tpm(self.watch)
        self.writes = 0
        self.signing: Key
        self.loaded: keys.KeyRef
        self.sealed: StoredData

    def provision(self) -> None:
        """Make it so; takes a second."""
        tpm, root = self.tpm, keys.srk()
        ek = owner.read_ek(tpm) if self.subject.has_ek else owner.create_ek(tpm)
        owner.take_ownership(tpm, OWNER, WELL_KNOWN, ek=ek)
        self.signing = keys.create(tpm, root, keys.signing_key(), USAGE)
        self.loaded = keys.load(tpm, root, self.signing, USAGE)
        self.sealed = seal.seal(tpm, root, Secret(bytes(32)), USAGE)
        nv.lock(tpm)
        permissions = NvPermission.OWNERREAD | NvPermission.OWNERWRITE
        nv.define(tpm, _NV_INDEX, 32, permissions, owner_auth=OWNER)

    def close(self) -> None:
        self.tpm.close()


def pcr_read(on: Patient) -> None:
    on.tpm.execute(PcrRead(0))


def extend(on: Patient) -> None:
    on.tpm.execute(Extend(10, _DIGEST))


def get_random(on: Patient) -> None:
    on.tpm.execute(GetRandom(20))


def get_capability(on: Patient) -> None:
    capability(on.tpm, Capability.PROPERTY, CapProperty.PCR.to_bytes(4, "big"))


def oiap_and_flush(on: Patient) -> None:
    on.tpm.oiap(OWNER).flush()


def seal_32_bytes(on: Patient) -> None:
    seal.seal(on.tpm, keys.srk(), Secret(bytes(32)), USAGE)


def unseal(on: Patient) -> None:
    seal.unseal(on.tpm, keys.srk(), on.sealed, USAGE)


def load_key(on: Patient) -> None:
    with keys.loaded(on.tpm, keys.srk(), on.signing, USAGE):
        pass


def quote_pcrs(on: Patient) -> None:
    quote.quote(on.tpm, on.loaded, _DIGEST, [0, 1, 2, 3])


def nv_write(on: Patient) -> None:
    # What is there already need not be stored again, so each write is another one.
    on.writes += 1
    nv.write(on.tpm, _NV_INDEX, on.writes.to_bytes(32, "big"), owner_auth=OWNER)


@dataclass(frozen=True)
class Benchmark:
    """`times` operations a round, of which the commands with these ordinals are timed."""

    name: str
    operation: Callable[[Patient], None]
    ordinals: frozenset[int]
    times: int


def _of(*names: str) -> frozenset[int]:
    return frozenset(TABLE[name].ordinal for name in names)


BENCHMARKS: Final = (
    Benchmark("PCRRead", pcr_read, _of("TPM_PcrRead"), 100),
    Benchmark("Extend", extend, _of("TPM_Extend"), 100),
    Benchmark("GetRandom(20)", get_random, _of("TPM_GetRandom"), 100),
    Benchmark("GetCapability", get_capability, _of("TPM_GetCapability"), 100),
    Benchmark("OIAP + FlushSpecific", oiap_and_flush, _of("TPM_OIAP", "TPM_FlushSpecific"), 50),
    Benchmark("Seal, 32 bytes", seal_32_bytes, _of("TPM_Seal"), 20),
    Benchmark("Unseal", unseal, _of("TPM_Unseal"), 10),
    Benchmark("LoadKey2", load_key, _of("TPM_LoadKey2"), 10),
    Benchmark("Quote", quote_pcrs, _of("TPM_Quote"), 10),
    Benchmark("NV_WriteValue, 32 bytes", nv_write, _of("TPM_NV_WriteValue"), 10),
)
