"""What the TPM remembers: the permanent state, and what lives until the next power cycle.

Both are immutable values. A command makes a new value and puts it in place of the old one, so a
command that fails leaves nothing behind, and "did permanent state change?" is an identity test.

The permanent blob (`StateName.PERMANENT`) is a `Permanent` structure behind the eight byte magic
`HWTPM12\\0` and a u16 format version; see docs/engine-state.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Final

from hwtpm.errors import StateError
from hwtpm.tpm12.const import NUM_PCRS
from hwtpm.tpm12.types import (
    U8,
    U16,
    U32,
    AuthValue,
    Bool,
    CounterValue,
    Key,
    NvDataPublic,
    PermanentFlags,
    StclearFlags,
)
from hwtpm.wire import Array, Blob, Fixed, Nested, SizedNested, Struct, Uint, WireError, structure

__all__ = [
    "Counter",
    "NvArea",
    "Permanent",
    "RootKey",
    "Saved",
    "Stclear",
    "decode_permanent",
    "encode_permanent",
    "fresh_permanent",
]

_MAGIC: Final = b"HWTPM12\0"
_VERSION: Final = 1
_REF: Final = "docs/engine-state.md"

ZERO_DIGEST: Final = bytes(20)
ONES_DIGEST: Final = b"\xff" * 20


@structure("root key", ref=_REF)
class RootKey(Struct):
    """A key that lives in the TPM (EK, SRK): its TPM_KEY without encData, and one prime."""

    key: Key
    prime: Annotated[bytes, Blob(256, secret=True)]
    usage_auth: AuthValue


@structure("NV area", ref=_REF)
class NvArea(Struct):
    """An NV area: public description, AuthData, contents."""

    public: NvDataPublic
    auth: AuthValue
    data: Annotated[bytes, Blob(4096)]


@structure("monotonic counter", ref=_REF)
class Counter(Struct):
    """A monotonic counter with its handle and AuthData."""

    handle: U32
    auth: AuthValue
    value: CounterValue


@structure("permanent state", ref=_REF)
class Permanent(Struct):
    """TPM_PERMANENT_FLAGS and TPM_PERMANENT_DATA (Part 2 sections 7.1 and 7.4)."""

    flags: PermanentFlags
    tpm_proof: AuthValue
    owner_auth: AuthValue
    operator_auth: AuthValue
    ek: Annotated[RootKey | None, SizedNested(RootKey)]
    srk: Annotated[RootKey | None, SizedNested(RootKey)]
    counters: Annotated[tuple[Counter, ...], Array(Nested(Counter), 8)]
    next_counter: U32  # value that a new counter starts from
    nv_areas: Annotated[tuple[NvArea, ...], Array(Nested(NvArea), 256)]
    writes_without_owner: U8
    auth_failures: U16  # dictionary attack: failures since the last reset

    def nv_area(self, index: int) -> NvArea | None:
        """The NV area with that index."""
        for area in self.nv_areas:
            if area.public.nv_index == index:
                return area
        return None

    def with_nv_area(self, area: NvArea) -> Permanent:
        """The state with that area in place of the one with the same index, or added."""
        rest = tuple(a for a in self.nv_areas if a.public.nv_index != area.public.nv_index)
        return replace(self, nv_areas=(*rest, area))

    def without_nv_area(self, index: int) -> Permanent:
        """The state without that area."""
        return replace(self, nv_areas=tuple(a for a in self.nv_areas if a.public.nv_index != index))


def fresh_permanent(tpm_proof: bytes) -> Permanent:
    """The state of a TPM that leaves the factory, as PC Client parts do: enabled, activated,
    without EK and owner, NV not locked."""
    flags = PermanentFlags(
        disable=False,
        ownership=True,
        deactivated=False,
        read_pubek=True,
        disable_owner_clear=False,
        allow_maintenance=False,
        physical_presence_lifetime_lock=False,
        physical_presence_hw_enable=False,
        physical_presence_cmd_enable=True,
        cekp_used=False,
        tpm_post=False,
        tpm_post_lock=False,
        fips=False,
        operator=False,
        enable_revoke_ek=False,
        nv_locked=False,
        read_srk_pub=False,
        tpm_established=False,
        maintenance_done=False,
        disable_full_da_logic_info=False,
    )
    return Permanent(
        flags=flags,
        tpm_proof=tpm_proof,
        owner_auth=ZERO_DIGEST,
        operator_auth=ZERO_DIGEST,
        ek=None,
        srk=None,
        counters=(),
        next_counter=1,
        nv_areas=(),
        writes_without_owner=0,
        auth_failures=0,
    )


def encode_permanent(state: Permanent) -> bytes:
    """The permanent blob."""
    return _MAGIC + _VERSION.to_bytes(2, "big") + state.encode()


def decode_permanent(blob: bytes) -> Permanent:
    """The state in a permanent blob.

    Raises:
        StateError: the blob is not one, is damaged, or comes from a newer version.
    """
    if blob[:8] != _MAGIC:
        raise StateError("the permanent state is not one of this engine")
    version = int.from_bytes(blob[8:10], "big")
    if version != _VERSION:
        raise StateError(
            f"the permanent state has format {version}, this program knows format {_VERSION}",
            hint="use the program version that wrote it",
        )
    try:
        return Permanent.decode(blob[10:])
    except WireError as error:
        raise StateError(f"the permanent state is damaged: {error.message}") from error


@dataclass(frozen=True, slots=True)
class Stclear:
    """What TPM_Startup(ST_CLEAR) resets: STCLEAR flags and data, and the PCRs."""

    flags: StclearFlags
    pcrs: tuple[bytes, ...]
    active_counter: int = 0  # handle of the one counter that may be incremented this boot
    owner_reference: int = 0x40000001
    read_locked: frozenset[int] = frozenset()  # NV indices with bReadSTClear
    write_locked: frozenset[int] = frozenset()  # NV indices with bWriteSTClear
    disable_reset_lock: bool = False

    def with_pcr(self, index: int, value: bytes) -> Stclear:
        """The state with one PCR changed."""
        pcrs = self.pcrs
        return replace(self, pcrs=(*pcrs[:index], value, *pcrs[index + 1 :]))


@structure("saved state", ref=_REF)
class Saved(Struct):
    """What TPM_SaveState keeps for TPM_Startup(ST_STATE)."""

    flags: StclearFlags
    pcrs: Annotated[bytes, Fixed("TPM_PCRVALUE[24]", NUM_PCRS * 20)]
    active_counter: U32
    owner_reference: U32
    read_locked: Annotated[tuple[int, ...], Array(Uint("UINT32", 4), 256)]
    write_locked: Annotated[tuple[int, ...], Array(Uint("UINT32", 4), 256)]
    disable_reset_lock: Bool
