"""What happens to a TPM of our engine, recorded as steps that another engine can take again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from hwtpm.clock import FakeClock
from hwtpm.softtpm.base import SoftwareTpm, StateName, Storage
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.entropy import Entropy, RepeatableEntropy
from hwtpm.softtpm.engine.state import Permanent, encode_permanent, fresh_permanent
from hwtpm.tpm12.table import TABLE

__all__ = [
    "DURABLE",
    "Do",
    "Recorder",
    "Step",
    "changed_fields",
    "check_durable",
    "factory_new",
    "permanent_of",
    "take",
]

DURABLE: Final = frozenset(
    {
        "TPM_CMK_SetRestrictions",
        "TPM_ChangeAuthOwner",
        "TPM_CreateCounter",
        "TPM_CreateEndorsementKeyPair",
        "TPM_CreateMaintenanceArchive",
        "TPM_CreateRevocableEK",
        "TPM_Delegate_CreateOwnerDelegation",
        "TPM_Delegate_LoadOwnerDelegation",
        "TPM_Delegate_Manage",
        "TPM_Delegate_UpdateVerification",
        "TPM_DirWriteAuth",
        "TPM_DisableOwnerClear",
        "TPM_DisablePubekRead",
        "TPM_ForceClear",
        "TPM_IncrementCounter",
        "TPM_KeyControlOwner",
        "TPM_KillMaintenanceFeature",
        "TPM_LoadMaintenanceArchive",
        "TPM_LoadManuMaintPub",
        "TPM_NV_DefineSpace",
        "TPM_NV_WriteValue",
        "TPM_NV_WriteValueAuth",
        "TPM_OwnerClear",
        "TPM_OwnerSetDisable",
        "TPM_PhysicalDisable",
        "TPM_PhysicalEnable",
        "TPM_PhysicalSetDeactivated",
        "TPM_ReleaseCounter",
        "TPM_ReleaseCounterOwner",
        "TPM_ResetLockValue",
        "TPM_RevokeTrust",
        "TPM_SetCapability",
        "TPM_SetOperatorAuth",
        "TPM_SetOrdinalAuditStatus",
        "TPM_SetOwnerInstall",
        "TPM_TakeOwnership",
        "TSC_PhysicalPresence",
        "TSC_ResetEstablishmentBit",
    }
)
"""The commands that change permanent state, apart from the audit counter: every first audited
command after TPM_Startup counts that up. TPM_ExecuteTransport does what it wraps."""


class Do:
    """The kinds of steps, by the name of the engine's method."""

    COMMAND = "execute"
    POWER_ON = "power_on"
    HASH_START = "hash_start"
    HASH_DATA = "hash_data"
    HASH_END = "hash_end"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a TPM, and its answer if it was a command."""

    do: str
    data: bytes = b""
    locality: int = 0
    answer: bytes = b""

    @property
    def name(self) -> str:
        """The command's name; what else happened."""
        return _name_of(self.data) if self.do == Do.COMMAND else self.do

    @property
    def succeeded(self) -> bool:
        """True for a command that was carried out."""
        return self.answer[6:10] == bytes(4)


def _name_of(command: bytes) -> str:
    row = TABLE.get(int.from_bytes(command[6:10], "big"))
    return row.name if row else "no command"


def take(engine: Engine, step: Step) -> bytes:
    """Take a step; the answer if it is a command."""
    if step.do == Do.COMMAND:
        return engine.execute(step.data, step.locality)
    if step.do == Do.HASH_DATA:
        engine.hash_data(step.data)
    else:
        getattr(engine, step.do)()
    return b""


def factory_new(storage: Storage, entropy: Entropy | None = None) -> Engine:
    """A TPM with the maintenance feature, not yet powered on; its entropy and clock repeat."""
    entropy = entropy or RepeatableEntropy(b"a life")
    state = fresh_permanent(entropy.random, maintenance=True)
    storage.store(StateName.PERMANENT, encode_permanent(state))
    return Engine(storage, entropy=entropy, clock=FakeClock())


class Recorder:
    """A software TPM that keeps what happened to it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.description = engine.description
        self.steps: list[Step] = []

    def _take(self, step: Step) -> bytes:
        answer = take(self.engine, step)
        self.steps.append(replace(step, answer=answer))
        return answer

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        return self._take(Step(Do.COMMAND, command, locality))

    def power_on(self) -> None:
        self._take(Step(Do.POWER_ON))

    @property
    def established(self) -> bool:
        return self.engine.established

    def reset_established(self, locality: int) -> int:
        raise NotImplementedError("TSC_ResetEstablishmentBit does it")

    def hash_start(self) -> None:
        self._take(Step(Do.HASH_START))

    def hash_data(self, data: bytes) -> None:
        self._take(Step(Do.HASH_DATA, data))

    def hash_end(self) -> None:
        self._take(Step(Do.HASH_END))

    def close(self) -> None:
        self.engine.close()


# --- what is permanent ---------------------------------------------------------------------------


def changed_fields(before: Permanent, after: Permanent) -> set[str]:
    """The fields of the permanent state that differ."""
    names = Permanent.layout.codecs
    return {name for name in names if getattr(before, name) != getattr(after, name)}


def permanent_of(tpm: SoftwareTpm) -> Permanent | None:
    """The permanent state of a TPM of our engine."""
    return tpm.permanent if isinstance(tpm, Engine) else None


def check_durable(before: Permanent | None, tpm: SoftwareTpm, command: bytes, rc: int) -> None:
    """AssertionError if the command changed permanent state that it is not known to change."""
    after = permanent_of(tpm)
    if before is None or after is None or after is before:
        return
    name, changed = _name_of(command), changed_fields(before, after)
    if rc:
        assert changed <= {"auth_failures"}, (name, changed)
    elif name != "TPM_ExecuteTransport":
        assert name in DURABLE or changed <= {"audit_counter"}, (name, changed)
