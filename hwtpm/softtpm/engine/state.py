"""What the TPM remembers: the permanent state, and what lives until the next power cycle.

Both are immutable values. A command makes a new value and puts it in place of the old one, so a
command that fails leaves nothing behind, and "did permanent state change?" is an identity test.

The blobs that go to storage are these structures between a magic with a format version and a
checksum; docs/engine-state.md describes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, TypeVar

from hwtpm.errors import StateError
from hwtpm.tpm12.const import DIGEST_SIZE, KeyHandleValue
from hwtpm.tpm12.table import TABLE, Rule
from hwtpm.tpm12.types import (
    U8,
    U16,
    U32,
    AuthValue,
    Bool,
    CounterValue,
    Key,
    KeyParms,
    Nonce,
    NvDataPublic,
    PermanentFlags,
    PubKey,
    StclearFlags,
)
from hwtpm.tpm12.types.delegation import DelegateTableRow, FamilyTableEntry
from hwtpm.wire import Array, Blob, Fixed, Nested, SizedNested, Struct, Uint, WireError, structure

__all__ = [
    "AES_KEY_SIZE",
    "AUDITED_BY_DEFAULT",
    "MAINTENANCE_KEY_AWAITED",
    "MAX_AUDITED",
    "MAX_CONTEXTS",
    "MAX_COUNTERS",
    "MAX_DELEGATE_ROWS",
    "MAX_FAMILIES",
    "MAX_NV_AREAS",
    "MAX_NV_BYTES",
    "MAX_OWNER_EVICT",
    "NV_AREA_OVERHEAD",
    "Counter",
    "DelegateSlot",
    "NvArea",
    "Permanent",
    "RootKey",
    "Stclear",
    "StoredKey",
    "decode_permanent",
    "encode_permanent",
    "fresh_permanent",
    "open_blob",
    "seal_blob",
]

_MAGIC_PERMANENT: Final = b"HWTPM12\0"
_VERSION: Final = 2
_SUM_SIZE: Final = 32
_RESTORE: Final = "restore it from a backup; nothing was overwritten"
_REF: Final = "docs/engine-state.md"

ZERO_DIGEST: Final = bytes(20)
ONES_DIGEST: Final = b"\xff" * 20


MAX_COUNTERS: Final = 8
MAX_FAMILIES: Final = 16
MAX_DELEGATE_ROWS: Final = 4
MAX_AUDITED: Final = 128
AUDITED_BY_DEFAULT: Final = tuple(row.ordinal for row in TABLE if Rule.AUDITED in row.rules)
"""ordinalAuditStatus as manufactured: the audit column of Part 2 section 17."""
MAX_OWNER_EVICT: Final = 10
"""As libtpms: half the key slots stay free for everybody."""
MAX_CONTEXTS: Final = 128
"""Saved sessions that the TPM keeps count of, as libtpms; TPM_MIN_SESSION_LIST is 16."""
AES_KEY_SIZE: Final = 16
MAX_NV_AREAS: Final = 256
MAX_NV_BYTES: Final = 32768
"""What all NV areas may hold together, `NV_AREA_OVERHEAD` for each of them included."""
NV_AREA_OVERHEAD: Final = 96


_AesKey = Annotated[bytes, Fixed("AES key", AES_KEY_SIZE, secret=True)]


@structure("root key", ref=_REF)
class RootKey(Struct):
    """A key that lives in the TPM (EK, SRK): its TPM_KEY without encData, and one prime."""

    key: Key
    prime: Annotated[bytes, Blob(256, secret=True)]
    usage_auth: AuthValue


@structure("stored key", ref=_REF)
class StoredKey(Struct):
    """A loaded key at rest: owner-evict keys, saved contexts. `key` is without its encData."""

    handle: U32
    key: Key
    payload: U8
    usage_auth: AuthValue
    migration_auth: AuthValue
    prime: Annotated[bytes, Blob(256, secret=True)]
    parent_condition: Bool


@structure("delegation row", ref=_REF)
class DelegateSlot(Struct):
    """A row of the delegate table with its index."""

    index: U32
    row: DelegateTableRow


@structure("NV area", ref=_REF)
class NvArea(Struct):
    """An NV area: public description, AuthData, contents."""

    public: NvDataPublic
    auth: AuthValue
    data: Annotated[bytes, Blob(MAX_NV_BYTES, secret=True)]


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
    counters: Annotated[tuple[Counter, ...], Array(Nested(Counter), MAX_COUNTERS)]
    next_counter: U32  # value that a new counter starts from
    nv_areas: Annotated[tuple[NvArea, ...], Array(Nested(NvArea), MAX_NV_AREAS)]
    dir: Annotated[bytes, Fixed("TPM_DIRVALUE", 20)]  # authDIR[0], NV index 0x10000001
    writes_without_owner: U8
    auth_failures: U16  # dictionary attack: failures since the last reset
    ek_reset: Nonce  # proves TPM_RevokeTrust; meaningful if flags.enable_revoke_ek
    maintenance_key: Annotated[PubKey | None, SizedNested(PubKey)]  # None: no feature
    context_key: _AesKey  # these two are new for each owner
    delegate_key: _AesKey
    daa_blob_key: _AesKey  # these three are new with each EK
    daa_proof: AuthValue
    daa_seed: AuthValue  # tpmDAASeed
    restrict_delegate: U32  # TPM_CMK_DELEGATE bits
    audited: Annotated[tuple[int, ...], Array(Uint("UINT32", 4), MAX_AUDITED)]
    audit_counter: U32
    families: Annotated[tuple[FamilyTableEntry, ...], Array(Nested(FamilyTableEntry), MAX_FAMILIES)]
    delegations: Annotated[tuple[DelegateSlot, ...], Array(Nested(DelegateSlot), MAX_DELEGATE_ROWS)]
    last_family_id: U32
    owner_evict: Annotated[tuple[StoredKey, ...], Array(Nested(StoredKey), MAX_OWNER_EVICT)]

    def with_new_secrets(self, random: Callable[[int], bytes]) -> Permanent:
        """The state with new values in all that must change with the owner (Part 3 sections 6.1
        and 6.2): TPM_TakeOwnership makes them, a clear invalidates those that were."""
        return replace(
            self,
            tpm_proof=random(DIGEST_SIZE),
            context_key=random(AES_KEY_SIZE),
            delegate_key=random(AES_KEY_SIZE),
        )

    def with_new_daa_secrets(self, random: Callable[[int], bytes]) -> Permanent:
        """The state with new values in what DAA credentials of this TPM depend on; they live as
        long as the EK, whoever owns the TPM (Part 3 sections 14.1 and 6.2 action 4)."""
        return replace(
            self,
            daa_seed=random(DIGEST_SIZE),
            daa_proof=random(DIGEST_SIZE),
            daa_blob_key=random(AES_KEY_SIZE),
        )

    def nv_area(self, index: int) -> NvArea | None:
        """The NV area with that index."""
        for area in self.nv_areas:
            if area.public.nv_index == index:
                return area
        return None

    def with_nv_area(self, area: NvArea) -> Permanent:
        """The state with that area in place of the one with the same index, or added."""
        index = area.public.nv_index
        if self.nv_area(index) is None:
            return replace(self, nv_areas=(*self.nv_areas, area))
        areas = tuple(area if a.public.nv_index == index else a for a in self.nv_areas)
        return replace(self, nv_areas=areas)

    def without_nv_area(self, index: int) -> Permanent:
        """The state without that area."""
        return replace(self, nv_areas=tuple(a for a in self.nv_areas if a.public.nv_index != index))

    @property
    def nv_available(self) -> int:
        """How many bytes a new NV area can have; 0 when there is no room for one."""
        used = sum(NV_AREA_OVERHEAD + area.public.data_size for area in self.nv_areas)
        if len(self.nv_areas) >= MAX_NV_AREAS:
            return 0
        return max(0, MAX_NV_BYTES - NV_AREA_OVERHEAD - used)

    def counter(self, handle: int) -> Counter | None:
        """The monotonic counter with that handle."""
        for counter in self.counters:
            if counter.handle == handle:
                return counter
        return None

    def with_counter(self, counter: Counter) -> Permanent:
        """The state with that counter in place of the one with the same handle, or added."""
        handle = counter.handle
        if self.counter(handle) is None:
            return replace(self, counters=(*self.counters, counter))
        counters = tuple(counter if c.handle == handle else c for c in self.counters)
        return replace(self, counters=counters)

    def without_counter(self, handle: int) -> Permanent:
        """The state without that counter."""
        return replace(self, counters=tuple(c for c in self.counters if c.handle != handle))

    def keeps_key(self, handle: int) -> bool:
        """True if the owner has the loaded key with that handle stay (ownerEvict)."""
        return any(key.handle == handle for key in self.owner_evict)

    def without_key(self, handle: int) -> Permanent:
        """The state in which the owner does not have that key stay."""
        return replace(self, owner_evict=tuple(k for k in self.owner_evict if k.handle != handle))


MAINTENANCE_KEY_AWAITED: Final = PubKey(KeyParms(0, 0, 0, b""), b"")
"""manuMaintPub of a TPM with the maintenance feature until TPM_LoadManuMaintPub."""


def fresh_permanent(random: Callable[[int], bytes], *, maintenance: bool = False) -> Permanent:
    """The state of a TPM that leaves the factory, as PC Client parts do: enabled, activated,
    without EK and owner, NV not locked.

    Args:
        random: makes n random bytes.
        maintenance: with the maintenance feature (Part 3 section 12): TPM_LoadManuMaintPub takes
            one key, and allowMaintenance is TRUE until it is set to FALSE, and again after each
            clear. Without it nothing that the TPM is told later brings the feature back. Store
            such a state, by `encode_permanent`, before the TPM is first powered on.
    """
    flags = PermanentFlags(
        disable=False,
        ownership=True,
        deactivated=False,
        read_pubek=True,
        disable_owner_clear=False,
        allow_maintenance=maintenance,
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
    state = Permanent(
        flags=flags,
        tpm_proof=ZERO_DIGEST,
        owner_auth=ZERO_DIGEST,
        operator_auth=ZERO_DIGEST,
        ek=None,
        srk=None,
        counters=(),
        next_counter=1,
        nv_areas=(),
        dir=ZERO_DIGEST,
        writes_without_owner=0,
        auth_failures=0,
        ek_reset=ZERO_DIGEST,
        maintenance_key=MAINTENANCE_KEY_AWAITED if maintenance else None,
        restrict_delegate=0,
        audited=AUDITED_BY_DEFAULT,
        audit_counter=0,
        families=(),
        delegations=(),
        last_family_id=0,
        owner_evict=(),
        context_key=bytes(AES_KEY_SIZE),
        delegate_key=bytes(AES_KEY_SIZE),
        daa_blob_key=bytes(AES_KEY_SIZE),
        daa_proof=ZERO_DIGEST,
        daa_seed=ZERO_DIGEST,
    )
    return state.with_new_secrets(random).with_new_daa_secrets(random)


S = TypeVar("S", bound=Struct)


def seal_blob(magic: bytes, state: Struct) -> bytes:
    """A structure as a blob: magic, format version, body, checksum."""
    blob = magic + _VERSION.to_bytes(2, "big") + state.encode()
    return blob + hashlib.sha256(blob).digest()


def open_blob(magic: bytes, blob: bytes, kind: type[S], what: str) -> S:
    """What `seal_blob` was given; `what` names the state in errors.

    Raises:
        StateError: the blob is not one of that kind, is damaged, or comes from another version.
    """
    if blob[: len(magic)] != magic:
        raise StateError(
            f"the {what} state is not one of this engine; nothing was overwritten",
            hint="open it with the engine that wrote it, or use another directory",
        )
    start = len(magic) + 2
    version = int.from_bytes(blob[len(magic) : start], "big")
    if version != _VERSION:
        raise StateError(
            f"the {what} state has format {version}, this program knows format {_VERSION}",
            hint="use the program version that wrote it",
        )
    if hashlib.sha256(blob[:-_SUM_SIZE]).digest() != blob[-_SUM_SIZE:]:
        raise StateError(f"the {what} state is damaged: its checksum is wrong", hint=_RESTORE)
    try:
        return kind.decode(blob[start:-_SUM_SIZE])
    except WireError as error:
        raise StateError(f"the {what} state is damaged: {error.message}", hint=_RESTORE) from error


def encode_permanent(state: Permanent) -> bytes:
    """The permanent blob."""
    return seal_blob(_MAGIC_PERMANENT, state)


def decode_permanent(blob: bytes) -> Permanent:
    """The state in a permanent blob.

    Raises:
        StateError: the blob is not one, is damaged, or comes from another version.
    """
    state = open_blob(_MAGIC_PERMANENT, blob, Permanent, "permanent")
    for what, stored in (("EK", state.ek), ("SRK", state.srk), *_evicted(state)):
        if stored is not None and not _divides(stored.prime, stored.key.pub_key):
            raise StateError(
                f"the permanent state is damaged: prime and modulus of its {what} do not fit",
                hint=_RESTORE,
            )
    return state


def _evicted(state: Permanent) -> Iterator[tuple[str, StoredKey]]:
    for stored in state.owner_evict:
        yield f"owner-evict key {stored.handle:#010x}", stored


def _divides(prime: bytes, modulus: bytes) -> bool:
    p = int.from_bytes(prime, "big")
    return p > 1 and int.from_bytes(modulus, "big") % p == 0


@dataclass(frozen=True)
class Stclear:
    """What TPM_Startup(ST_CLEAR) resets: STCLEAR and STANY flags and data, the PCRs among them
    (Part 2 sections 7.2, 7.3, 7.5, 7.6).

    `tos_present` is TPM_STANY_FLAGS.TOSPresent: TPM_HASH_START has been seen since power-on.
    """

    flags: StclearFlags
    pcrs: tuple[bytes, ...]
    active_counter: int = 0  # handle of the one counter that may be incremented this boot
    owner_reference: int = KeyHandleValue.OWNER
    read_locked: frozenset[int] = frozenset()  # NV indices with bReadSTClear
    write_locked: frozenset[int] = frozenset()  # NV indices with bWriteSTClear
    tos_present: bool = False
    audit_digest: bytes = ZERO_DIGEST
    context_nonce_key: bytes = ZERO_DIGEST
    context_nonce_session: bytes = ZERO_DIGEST
    context_count: int = 0
    context_list: tuple[int, ...] = ()  # counts of the saved sessions that may come back
    deferred_presence: int = 0
    exclusive_transport: int = 0  # handle of the exclusive transport session
    # What the context commands of version 1.1 save ends with the power and with TPM_Reset.
    old_context_key: bytes = field(default=b"", repr=False)  # AES key, made at the first of them
    old_context_list: tuple[int, ...] = ()  # the entries of context_list that are theirs

    def without_old_contexts(self) -> Stclear:
        """The state in which nothing comes back that TPM_SaveKeyContext or TPM_SaveAuthContext
        saved."""
        kept = tuple(count for count in self.context_list if count not in self.old_context_list)
        return replace(self, context_list=kept, old_context_key=b"", old_context_list=())

    def with_pcr(self, index: int, value: bytes) -> Stclear:
        """The state with one PCR changed."""
        pcrs = list(self.pcrs)
        pcrs[index] = value
        # Not replace(), which sets the fields one by one: extending is what a TPM does most.
        state = object.__new__(Stclear)
        state.__dict__.update(self.__dict__, pcrs=tuple(pcrs))
        return state
