"""What a TPM is, can do and is set to: capabilities, flags, dictionary-attack state.

Source: TPM Main 1.2, Part 2 section 21 (capability areas), Part 3 section 7.1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from hwtpm.client.owner import read_ek
from hwtpm.client.session import Tpm
from hwtpm.errors import TpmError
from hwtpm.tpm12.commands.capability import GetCapability
from hwtpm.tpm12.const import Capability, CapFlag, CapProperty, EntityType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import (
    CapVersionInfo,
    DaInfo,
    DaInfoLimited,
    PermanentFlags,
    StclearFlags,
)
from hwtpm.wire import Struct

__all__ = [
    "DaState",
    "Info",
    "Limits",
    "Timing",
    "capability",
    "da_state",
    "info",
    "limits",
    "permanent_flags",
    "property_value",
    "stclear_flags",
    "timing",
    "version",
]

_MANUFACTURER_SIZE: Final = 4


@dataclass(frozen=True, slots=True)
class Timing:
    """TIS timeouts and command durations that the TPM asks for, in microseconds."""

    a_us: int
    b_us: int
    c_us: int
    d_us: int
    short_us: int
    medium_us: int
    long_us: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How many of each there can be; None where the TPM does not say."""

    pcrs: int | None
    key_slots: int | None
    key_slots_free: int | None
    sessions: int | None
    sessions_free: int | None
    counters: int | None
    nv_bytes_free: int | None
    input_buffer: int | None


@dataclass(frozen=True, slots=True)
class DaState:
    """The dictionary-attack logic; the counts are None where the TPM keeps them to itself."""

    locked_out: bool
    failures: int | None
    threshold: int | None
    action_value: int | None


@dataclass(frozen=True, slots=True)
class Info:
    """All that a TPM says about itself without authorisation."""

    manufacturer: str
    spec_version: str
    spec_level: int
    errata: int
    firmware: str
    vendor_specific: bytes
    enabled: bool
    active: bool
    owned: bool
    has_endorsement_key: bool | None
    permanent: PermanentFlags
    stclear: StclearFlags
    limits: Limits
    timing: Timing | None
    da: DaState | None


def capability(tpm: Tpm, area: int, sub: bytes = b"") -> bytes:
    """The raw answer of TPM_GetCapability."""
    return tpm.execute(GetCapability(area, sub)).resp


def property_value(tpm: Tpm, name: CapProperty) -> int | None:
    """A property that is one number; None where the TPM does not know it."""
    raw = _optional(tpm, Capability.PROPERTY, name.to_bytes(4, "big"))
    return None if raw is None else int.from_bytes(raw, "big")


def version(tpm: Tpm) -> CapVersionInfo:
    """Specification level, firmware version and vendor."""
    return CapVersionInfo.decode(capability(tpm, Capability.VERSION_VAL))


def permanent_flags(tpm: Tpm) -> PermanentFlags:
    """The flags that survive power cycles."""
    raw = capability(tpm, Capability.FLAG, CapFlag.PERMANENT.to_bytes(4, "big"))
    return PermanentFlags.decode(_fit(raw, PermanentFlags))


def stclear_flags(tpm: Tpm) -> StclearFlags:
    """The flags that TPM_Startup(ST_CLEAR) resets."""
    raw = capability(tpm, Capability.FLAG, CapFlag.VOLATILE.to_bytes(4, "big"))
    return StclearFlags.decode(_fit(raw, StclearFlags))


def timing(tpm: Tpm) -> Timing | None:
    """Timeouts and durations; None where the TPM has none to say."""
    raw = [
        _optional(tpm, Capability.PROPERTY, name.to_bytes(4, "big"))
        for name in (CapProperty.TIS_TIMEOUT, CapProperty.DURATION)
    ]
    values = b"".join(part or b"" for part in raw)
    if len(values) != 4 * len(fields(Timing)):
        return None
    return Timing(*(int.from_bytes(values[i : i + 4], "big") for i in range(0, len(values), 4)))


def limits(tpm: Tpm) -> Limits:
    """The TPM's capacities."""
    return Limits(
        pcrs=property_value(tpm, CapProperty.PCR),
        key_slots=property_value(tpm, CapProperty.MAX_KEYS),
        key_slots_free=property_value(tpm, CapProperty.KEYS),
        sessions=property_value(tpm, CapProperty.MAX_AUTHSESS),
        sessions_free=property_value(tpm, CapProperty.AUTHSESS),
        counters=property_value(tpm, CapProperty.MAX_COUNTERS),
        nv_bytes_free=property_value(tpm, CapProperty.MAX_NV_AVAILABLE),
        input_buffer=property_value(tpm, CapProperty.INPUT_BUFFER),
    )


def da_state(tpm: Tpm, entity: EntityType = EntityType.OWNER) -> DaState | None:
    """The dictionary-attack state for one entity type; None where the TPM does not tell."""
    raw = _optional(tpm, Capability.DA_LOGIC, entity.to_bytes(2, "big"))
    if raw is None:
        return None
    if raw[:2] == DaInfoLimited.layout.head:
        return DaState(bool(DaInfoLimited.decode(raw).state), None, None, None)
    full = DaInfo.decode(raw)
    return DaState(
        bool(full.state), full.current_count, full.threshold_count, full.action_depend_value
    )


def info(tpm: Tpm) -> Info:
    """Everything that a TPM says about itself without authorisation; changes nothing."""
    what = version(tpm)
    permanent = permanent_flags(tpm)
    volatile = stclear_flags(tpm)
    return Info(
        manufacturer=_manufacturer(tpm),
        spec_version=f"{what.version.major}.{what.version.minor}",
        spec_level=what.spec_level,
        errata=what.errata_rev,
        firmware=f"{what.version.rev_major}.{what.version.rev_minor}",
        vendor_specific=what.vendor_specific,
        enabled=not permanent.disable,
        active=not (permanent.deactivated or volatile.deactivated),
        owned=bool(property_value(tpm, CapProperty.OWNER)),
        has_endorsement_key=_has_endorsement_key(tpm),
        permanent=permanent,
        stclear=volatile,
        limits=limits(tpm),
        timing=timing(tpm),
        da=da_state(tpm),
    )


def _has_endorsement_key(tpm: Tpm) -> bool | None:
    """Part 3 section 14.4 names the code of each case; other refusals leave it open."""
    verdicts: dict[int, bool] = {Rc.NO_ENDORSEMENT: False, Rc.DISABLED_CMD: True}
    try:
        read_ek(tpm)
    except TpmError as error:
        return verdicts.get(error.rc)
    return True


def _manufacturer(tpm: Tpm) -> str:
    """The vendor's four letters, or their hex where they are none."""
    raw = capability(tpm, Capability.PROPERTY, CapProperty.MANUFACTURER.to_bytes(4, "big"))
    text = raw[:_MANUFACTURER_SIZE].rstrip(b"\0 ")
    return text.decode("ascii") if text.isascii() and text.isalnum() else raw.hex()


def _optional(tpm: Tpm, area: int, sub: bytes) -> bytes | None:
    try:
        return capability(tpm, area, sub)
    except TpmError as error:
        # BAD_MODE is what the specification asks for; chips also answer the other two.
        if error.rc in (Rc.BAD_MODE, Rc.BAD_PARAMETER, Rc.WRONG_ENTITYTYPE):
            return None
        raise


def _fit(raw: bytes, flags: type[Struct]) -> bytes:
    """Earlier revisions of the specification end the flag structures earlier, later ones later."""
    size = len(flags.layout.head) + len(flags.layout.codecs)
    return raw[:size].ljust(size, b"\0")
