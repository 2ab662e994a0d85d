"""A TPM's permanent state from libtpms to our engine and back.

Everything is carried or the move is refused with what stands in its way: keys and proofs, AuthData,
counters, NV areas, the delegation and audit tables, flags, owner-evict keys. Not permanent, and so
not in either state: PCRs, sessions, loaded keys, locks that hold until the next start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Final, NoReturn, TypeVar

from hwtpm.errors import StateError
from hwtpm.softtpm.engine import state as engine
from hwtpm.softtpm.engine.state import Counter, DelegateSlot, NvArea, Permanent, RootKey, StoredKey
from hwtpm.softtpm.migration import libtpms_format as theirs
from hwtpm.tpm12.const import (
    DIGEST_SIZE,
    EVERY_LOCALITY,
    KEY_CONTROL_OWNER_EVICT,
    EncScheme,
    Payload,
    SigScheme,
)
from hwtpm.tpm12.types import (
    LEGACY_FORM,
    CounterValue,
    Key,
    KeyParms,
    PcrInfoShort,
    PcrSelection,
    PermanentFlags,
    PubKey,
    StoreAsymKey,
)
from hwtpm.tpm12.types.delegation import (
    DelegatePublic,
    DelegateTableRow,
    Delegations,
    FamilyTableEntry,
)
from hwtpm.wire import Struct, WireError

__all__ = ["export_permanent", "import_permanent"]

S = TypeVar("S", bound=Struct)

_ZERO: Final = bytes(DIGEST_SIZE)
_NO_LABEL: Final = bytes(4)
_DELEGATE_KEY: Final = 2  # TPM_DEL_KEY_BITS: what libtpms writes into an empty row
_FLAGS_94: Final = 1
_FLAGS_103: Final = 2
_TSC_ORDINALS: Final = (0x4000000A, 0x4000000B)  # bit 0, bit 1 of tscOrdinalAuditStatus
_ORDINALS: Final = 256

_NO_PARMS: Final = KeyParms(0, EncScheme.NONE, SigScheme.NONE, b"")
_NO_EK: Final = theirs.EkInClear(LEGACY_FORM, 0, 0, 0, _NO_PARMS, b"", b"")
_NO_SRK: Final = theirs.KeyInClear(LEGACY_FORM, 0, 0, 0, _NO_PARMS, b"", b"", b"")
_NO_PUBLIC: Final = PubKey(_NO_PARMS, b"")
_NO_ROW: Final = DelegateTableRow(
    DelegatePublic(
        0,
        PcrInfoShort(PcrSelection(bytes(3)), EVERY_LOCALITY, _ZERO),
        Delegations(_DELEGATE_KEY, 0, 0),
        0,
        0,
    ),
    _ZERO,
)
_NO_COUNTER: Final = theirs.CounterSlot(CounterValue(_NO_LABEL, 0), _ZERO, False)
_NO_FAMILY: Final = theirs.FamilySlot(0, 0, 0, 0, False)


def _refuse(what: str, hint: str) -> NoReturn:
    raise StateError(what, hint=f"{hint}; nothing was changed")


# --- libtpms to ours -----------------------------------------------------------------------------


def import_permanent(blob: bytes, random: Callable[[int], bytes]) -> Permanent:
    """The permanent state in a `permall` blob of libtpms.

    Args:
        blob: what libtpms stored, its SHA-1 included; without swtpm's file header.
        random: makes n random bytes. libtpms has no tpmProof and no secret keys before there is an
            owner; our engine always has, so what is missing is made here.

    Raises:
        StateError: it is damaged, or holds what this engine cannot.
    """
    state = theirs.decode(blob)
    maintenance_key = None if state.manu_maint_pub == _NO_PUBLIC else state.manu_maint_pub
    if state.allow_load_maint_pub != (maintenance_key is None):
        _refuse("what it says of its maintenance key is contradictory", "restore it from a backup")
    srk = _srk_in(state)
    if state.owner_installed != (srk is not None):
        _refuse("it has an owner and no SRK, or an SRK and no owner", "restore it from a backup")

    def made(secret: bytes) -> bytes:
        return secret if any(secret) else random(len(secret))

    permanent = Permanent(
        flags=_flags_in(state.flags),
        tpm_proof=made(state.tpm_proof),
        owner_auth=state.owner_auth,
        operator_auth=state.operator_auth,
        ek=_ek_in(state.ek),
        srk=srk,
        counters=tuple(
            Counter(handle, slot.auth, slot.value)
            for handle, slot in enumerate(state.counters)
            if slot.valid
        ),
        next_counter=_next_counter(slot.value.counter for slot in state.counters),
        nv_areas=tuple(map(_nv_in, state.nv_areas)),
        dir=state.auth_dir,
        writes_without_owner=state.no_owner_nv_write,
        auth_failures=0,
        ek_reset=state.ek_reset,
        maintenance_key=maintenance_key,
        context_key=made(state.context_key.key),
        delegate_key=made(state.delegate_key.key),
        daa_blob_key=made(state.daa_blob_key.key),
        daa_proof=made(state.daa_proof),
        daa_seed=made(state.daa_seed),
        restrict_delegate=state.restrict_delegate,
        audited=_audited_in(state.audit_status, state.tsc_audit_status),
        audit_counter=state.audit_counter.value.counter,
        families=tuple(
            FamilyTableEntry(row.family_label, row.family_id, row.verification_count, row.flags)
            for row in state.families
            if row.valid
        ),
        delegations=tuple(
            DelegateSlot(index, slot.row)
            for index, slot in enumerate(state.delegate_rows)
            if slot.valid
        ),
        last_family_id=state.last_family_id,
        owner_evict=_evict_in(state.owner_evict),
    )
    try:
        permanent.encode()
    except WireError as error:
        raise StateError(
            f"this engine cannot hold this state: {error.message}", hint="nothing was changed"
        ) from error
    return permanent


def _flags_in(packed: theirs.FlagBits) -> PermanentFlags:
    names = [field.name for field in fields(PermanentFlags)]
    if packed.tag == _FLAGS_94:
        names.pop()
    if packed.bits >> len(names):
        _refuse(f"it has flags of unknown meaning: {packed.bits:#x}", "use a newer program")
    values = {name: bool(packed.bits >> bit & 1) for bit, name in enumerate(names)}
    return PermanentFlags(**({"disable_full_da_logic_info": False} | values))


def _ek_in(stored: theirs.EkInClear) -> RootKey | None:
    if not stored.private:
        return None
    private = _decoded(theirs.EkPrivate, stored.private, "endorsement key")
    key = _public_in(stored, b"")
    _check_private(key, private.pub_data_digest, private.prime, "endorsement key")
    return RootKey(key, private.prime, _ZERO)


def _srk_in(state: theirs.State) -> RootKey | None:
    if not state.srk.private:
        return None
    key, private = _key_in(state.srk, "storage root key")
    if private.payload != Payload.ASYM or private.migration_auth != state.tpm_proof:
        _refuse("the storage root key is not one that TPM_TakeOwnership makes", "use a backup")
    return RootKey(key, private.priv_key, private.usage_auth)


def _key_in(stored: theirs.KeyInClear, what: str) -> tuple[Key, StoreAsymKey]:
    private = _decoded(StoreAsymKey, stored.private, what)
    key = _public_in(stored, stored.pcr_info)
    _check_private(key, private.pub_data_digest, private.priv_key, what)
    return key, private


def _public_in(stored: theirs.EkInClear | theirs.KeyInClear, pcr_info: bytes) -> Key:
    return Key(
        stored.form,
        stored.key_usage,
        stored.key_flags,
        stored.auth_data_usage,
        stored.algorithm_parms,
        pcr_info,
        stored.pub_key,
        b"",
    )


def _decoded(of: type[S], data: bytes, what: str) -> S:
    try:
        return of.decode(data)
    except WireError as error:
        raise StateError(f"the {what} is damaged: {error.message}", hint="use a backup") from error


def _check_private(key: Key, digest: bytes, prime: bytes, what: str) -> None:
    p = int.from_bytes(prime, "big")
    n = int.from_bytes(key.pub_key, "big")
    if digest != _public_digest(key) or not 1 < p < n or n % p:
        _refuse(f"the {what}'s private part does not belong to its public part", "use a backup")


def _public_digest(key: Key) -> bytes:
    return hashlib.sha1(key.public_part()).digest()


def _next_counter(values: Iterator[int]) -> int:
    return max(values) + 1


def _nv_in(area: NvArea) -> NvArea:
    # Read and write locks hold until the next start: our engine keeps them elsewhere.
    public = replace(area.public, read_st_clear=False, write_st_clear=False)
    return NvArea(public, area.auth, area.data or bytes(public.data_size))


def _audited_in(bits: bytes, tsc_bits: int) -> tuple[int, ...]:
    plain = (o for o in range(_ORDINALS) if bits[o // 8] >> o % 8 & 1)
    tsc = (o for bit, o in enumerate(_TSC_ORDINALS) if tsc_bits >> bit & 1)
    return (*plain, *tsc)


def _evict_in(keys: Sequence[theirs.EvictKey]) -> tuple[StoredKey, ...]:
    if len(keys) > engine.MAX_OWNER_EVICT:
        _refuse(
            f"it has {len(keys)} owner-evict keys, this engine holds {engine.MAX_OWNER_EVICT}",
            "let the guest's owner release some of them (TPM_KeyControlOwner)",
        )
    stored = []
    for entry in keys:
        if entry.key_control != KEY_CONTROL_OWNER_EVICT:
            _refuse(
                f"key {entry.handle:#x} has control bits {entry.key_control:#x}", "use a backup"
            )
        key, private = _key_in(entry.key, f"owner-evict key {entry.handle:#x}")
        stored.append(
            StoredKey(
                entry.handle,
                key,
                private.payload,
                private.usage_auth,
                private.migration_auth,
                private.priv_key,
                entry.parent_pcr_status,
            )
        )
    return tuple(stored)


# --- ours to libtpms -----------------------------------------------------------------------------


def export_permanent(permanent: Permanent) -> bytes:
    """The `permall` blob from which libtpms starts as this TPM.

    Raises:
        StateError: the state holds what libtpms 0.9 cannot; says what and what to do.
    """
    if permanent.auth_failures:
        _refuse(
            f"{permanent.auth_failures} failed authorisations are counted, and libtpms would"
            " forget them",
            "let the owner reset the count (TPM_ResetLockValue)",
        )
    maintenance_key = permanent.maintenance_key
    if maintenance_key is not None and not maintenance_key.pub_key:
        _refuse(
            "it has the maintenance feature and waits for a key",
            "libtpms has no maintenance commands",
        )
    secrets = (permanent.context_key, permanent.delegate_key, permanent.daa_blob_key)
    context_key, delegate_key, daa_blob_key = (theirs.AesKey(any(k), 0, k) for k in secrets)
    audit_status, tsc_audit_status = _audited_out(permanent.audited)
    state = theirs.State(
        tpm_proof=permanent.tpm_proof,
        ek_reset=permanent.ek_reset,
        owner_auth=permanent.owner_auth,
        operator_auth=permanent.operator_auth,
        auth_dir=permanent.dir,
        has_manu_maint_pub=1,
        manu_maint_pub=maintenance_key or _NO_PUBLIC,
        ek=_ek_out(permanent.ek),
        srk=_srk_out(permanent),
        context_key=context_key,
        delegate_key=delegate_key,
        audit_counter=replace(_NO_COUNTER, value=CounterValue(_NO_LABEL, permanent.audit_counter)),
        counters=_counters_out(permanent),
        audit_status=audit_status,
        families=_families_out(permanent.families),
        delegate_rows=_rows_out(permanent.delegations),
        last_family_id=permanent.last_family_id,
        no_owner_nv_write=permanent.writes_without_owner,
        restrict_delegate=permanent.restrict_delegate,
        daa_seed=permanent.daa_seed,
        owner_installed=permanent.srk is not None,
        tsc_audit_status=tsc_audit_status,
        allow_load_maint_pub=maintenance_key is None,
        daa_proof=permanent.daa_proof,
        daa_blob_key=daa_blob_key,
        flags=_flags_out(permanent.flags),
        owner_evict_tag=1,
        owner_evict=tuple(map(_evict_out, permanent.owner_evict)),
        nv_tag=2,
        nv_areas=tuple(map(_nv_out, permanent.nv_areas)),
    )
    try:
        blob = theirs.encode(state)
    except WireError as error:
        raise StateError(
            f"libtpms cannot hold this state: {error.message}", hint="nothing was written"
        ) from error
    if len(blob) > theirs.MAX_STATE_SIZE:
        _refuse(
            f"the state has {len(blob)} bytes, libtpms holds {theirs.MAX_STATE_SIZE}",
            "let the guest's owner delete NV areas",
        )
    return blob


def _flags_out(flags: PermanentFlags) -> theirs.FlagBits:
    names = [field.name for field in fields(PermanentFlags)]
    bits = sum(getattr(flags, name) << bit for bit, name in enumerate(names))
    return theirs.FlagBits(_FLAGS_103, bits)


def _ek_out(ek: RootKey | None) -> theirs.EkInClear:
    if ek is None:
        return _NO_EK
    key = ek.key
    if any(ek.usage_auth) or key.pcr_info:
        _refuse("the endorsement key has AuthData or PCRs", "libtpms has no place for them")
    return theirs.EkInClear(
        key.form,
        key.key_usage,
        key.key_flags,
        key.auth_data_usage,
        key.algorithm_parms,
        key.pub_key,
        theirs.EkPrivate(_public_digest(key), ek.prime).encode(),
    )


def _srk_out(permanent: Permanent) -> theirs.KeyInClear:
    srk = permanent.srk
    if srk is None:
        return _NO_SRK
    proof = permanent.tpm_proof
    return _key_out(
        srk.key,
        StoreAsymKey(Payload.ASYM, srk.usage_auth, proof, _public_digest(srk.key), srk.prime),
    )


def _key_out(key: Key, private: StoreAsymKey) -> theirs.KeyInClear:
    return theirs.KeyInClear(
        key.form,
        key.key_usage,
        key.key_flags,
        key.auth_data_usage,
        key.algorithm_parms,
        key.pcr_info,
        key.pub_key,
        private.encode(),
    )


def _counters_out(permanent: Permanent) -> tuple[theirs.CounterSlot, ...]:
    slots = [_NO_COUNTER] * theirs.COUNTERS
    for counter in permanent.counters:
        if counter.handle >= theirs.COUNTERS:
            _refuse(
                f"counter {counter.handle} cannot keep its handle: libtpms has 0 to"
                f" {theirs.COUNTERS - 1}",
                "let the guest release that counter",
            )
        slots[counter.handle] = theirs.CounterSlot(counter.value, counter.auth, True)
    last = permanent.next_counter - 1
    if last > max(slot.value.counter for slot in slots):
        # A released slot remembers how far counting has come.
        if _NO_COUNTER not in slots:
            _refuse("all counters are in use and lower than one that was released", "release one")
        slots[slots.index(_NO_COUNTER)] = replace(_NO_COUNTER, value=CounterValue(_NO_LABEL, last))
    if _next_counter(slot.value.counter for slot in slots) != permanent.next_counter:
        _refuse("its counters are higher than the next one would be", "restore it from a backup")
    return tuple(slots)


def _audited_out(audited: Sequence[int]) -> tuple[bytes, int]:
    plain = tsc = 0
    for ordinal in audited:
        if ordinal < _ORDINALS:
            plain |= 1 << ordinal
        elif ordinal in _TSC_ORDINALS:
            tsc |= 1 << _TSC_ORDINALS.index(ordinal)
        else:
            _refuse(f"ordinal {ordinal:#x} is audited", "libtpms has no place for it")
    return plain.to_bytes(_ORDINALS // 8, "little"), tsc


def _families_out(families: Sequence[FamilyTableEntry]) -> tuple[theirs.FamilySlot, ...]:
    slots = [
        theirs.FamilySlot(f.family_label, f.family_id, f.verification_count, f.flags, True)
        for f in families
    ]
    return (*slots, *[_NO_FAMILY] * (theirs.FAMILIES - len(slots)))


def _rows_out(delegations: Sequence[DelegateSlot]) -> tuple[theirs.DelegateRowSlot, ...]:
    rows = [theirs.DelegateRowSlot(_NO_ROW, False)] * theirs.DELEGATE_ROWS
    for slot in delegations:
        if slot.index >= theirs.DELEGATE_ROWS:
            _refuse(
                f"delegation row {slot.index} has no place: libtpms has {theirs.DELEGATE_ROWS}",
                "let the owner delete that delegation",
            )
        rows[slot.index] = theirs.DelegateRowSlot(slot.row, True)
    return tuple(rows)


def _evict_out(stored: StoredKey) -> theirs.EvictKey:
    private = StoreAsymKey(
        stored.payload,
        stored.usage_auth,
        stored.migration_auth,
        _public_digest(stored.key),
        stored.prime,
    )
    return theirs.EvictKey(
        stored.handle,
        _key_out(stored.key, private),
        stored.parent_condition,
        KEY_CONTROL_OWNER_EVICT,
    )


def _nv_out(area: NvArea) -> NvArea:
    public = area.public
    for info in (public.pcr_info_read, public.pcr_info_write):
        if not any(info.pcr_selection.select) and any(info.digest_at_release):
            _refuse(
                f"NV area {public.nv_index:#x} has a PCR digest and no PCRs",
                "libtpms has no place for it",
            )
    if theirs.is_gpio(public.nv_index):
        if any(area.data):
            _refuse(f"NV area {public.nv_index:#x} has contents", "libtpms keeps none for GPIO")
        return replace(area, data=b"")
    return area
