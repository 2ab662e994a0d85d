"""A permanent state between our engine and libtpms: nothing lost, nothing made up."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from busy_tpm import COUNTER_AUTH, DIR, NV_DATA, NV_INDEX, OPERATOR_AUTH, fill
from engine_rig import KEY_AUTH, OWNER_AUTH, Identity, Rig, owned_libtpms, template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwtpm.client import counters, nv
from hwtpm.errors import StateError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.state import (
    Counter,
    DelegateSlot,
    NvArea,
    Permanent,
    StoredKey,
    encode_permanent,
    fresh_permanent,
)
from hwtpm.softtpm.libtpms import LibtpmsTpm
from hwtpm.softtpm.migration import export_permanent, import_permanent
from hwtpm.tpm12.commands.counters import IncrementCounter
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.deprecated import DirRead
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import KeyUsage, Payload, StartupType
from hwtpm.tpm12.types import (
    CounterValue,
    NvAttributes,
    NvDataPublic,
    PcrInfoShort,
    PcrSelection,
    PermanentFlags,
    PubKey,
)
from hwtpm.tpm12.types.delegation import (
    DelegatePublic,
    DelegateTableRow,
    Delegations,
    FamilyTableEntry,
)


@pytest.fixture(scope="module")
def busy() -> tuple[bytes, int]:
    """What libtpms stores after many different commands, and its owner-evict key's handle."""
    storage = MemoryStorage()
    tpm = owned_libtpms(storage)
    try:
        handle = fill(Rig(tpm))
        return storage.blobs[StateName.PERMANENT], handle
    finally:
        tpm.close()


def no_random(size: int) -> bytes:
    return bytes(size)


def changed(blob: bytes, at: int, new: bytes) -> bytes:
    """The blob with other bytes and the right checksum."""
    body = blob[:at] + new + blob[at + len(new) : -20]
    return body + hashlib.sha1(body).digest()


# --- from libtpms and back -----------------------------------------------------------------------


def test_a_blob_survives_the_way_into_our_engine_and_back(busy: tuple[bytes, int]) -> None:
    blob, _ = busy
    assert export_permanent(import_permanent(blob, no_random)) == blob


def test_a_factory_new_blob_survives_it_too() -> None:
    storage = MemoryStorage()
    tpm = LibtpmsTpm(storage)
    tpm.power_on()
    tpm.close()
    blob = storage.blobs[StateName.PERMANENT]
    assert export_permanent(import_permanent(blob, no_random)) == blob


def test_secrets_that_libtpms_has_not_made_are_made() -> None:
    storage = MemoryStorage()
    tpm = LibtpmsTpm(storage)
    tpm.power_on()
    tpm.close()
    state = import_permanent(storage.blobs[StateName.PERMANENT], lambda size: b"\x5a" * size)
    assert (state.tpm_proof, state.daa_seed, state.daa_proof) == (b"\x5a" * 20,) * 3
    assert {state.context_key, state.delegate_key, state.daa_blob_key} == {b"\x5a" * 16}


def test_our_engine_goes_on_where_libtpms_was(busy: tuple[bytes, int]) -> None:
    blob, handle = busy
    storage = MemoryStorage()
    storage.store(StateName.PERMANENT, encode_permanent(import_permanent(blob, no_random)))
    engine = Engine(storage)
    engine.power_on()
    rig = Rig(engine)
    rig.run(Startup(StartupType.CLEAR))
    assert engine.permanent.operator_auth == OPERATOR_AUTH
    assert rig.run(DirRead(0)).dir_contents == DIR
    owner = Secret(OWNER_AUTH)
    assert nv.read(rig.client, NV_INDEX, len(NV_DATA), owner_auth=owner) == NV_DATA
    # The first counter's handle is 0, which must not pass for "none is active".
    assert counters.increment(rig.client, 0, Secret(COUNTER_AUTH)).value == 3
    assert rig.refusal(IncrementCounter(1), COUNTER_AUTH) != 0
    assert counters.create(rig.client, owner, Secret(COUNTER_AUTH), b"next").value == 4
    assert len(rig.run(Sign(handle, bytes(20)), KEY_AUTH).sig) == 256


def test_a_released_counter_keeps_counting_for_the_others() -> None:
    storage = MemoryStorage()
    tpm = owned_libtpms(storage)
    try:
        rig, owner, auth = Rig(tpm), Secret(OWNER_AUTH), Secret(COUNTER_AUTH)
        kept, gone = (
            counters.create(rig.client, owner, auth, label) for label in (b"kept", b"gone")
        )
        counters.release(rig.client, gone.handle, auth)
        state = import_permanent(storage.blobs[StateName.PERMANENT], no_random)
    finally:
        tpm.close()
    assert [counter.handle for counter in state.counters] == [kept.handle]
    assert state.next_counter == gone.value + 1
    assert import_permanent(export_permanent(state), no_random) == state


@pytest.mark.parametrize("at", [0, 2, 30, 200, 700, 1000, -1])
def test_damage_is_told(busy: tuple[bytes, int], at: int) -> None:
    blob, _ = busy
    damaged = bytearray(blob)
    damaged[at] ^= 1
    with pytest.raises(StateError, match="damaged"):
        import_permanent(bytes(damaged), no_random)


@given(data=st.binary(max_size=400))
def test_anything_else_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(StateError):
        import_permanent(data + hashlib.sha1(data).digest(), no_random)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 2000), new=st.binary(min_size=1, max_size=4))
def test_a_changed_blob_is_refused_or_carried_exactly(
    busy: tuple[bytes, int], at: int, new: bytes
) -> None:
    """Whoever recomputes the checksum gets the state that he wrote, or a refusal."""
    blob = changed(busy[0], at, new)
    try:
        state = import_permanent(blob, no_random)
        again = export_permanent(state)
    except StateError:
        return
    assert import_permanent(again, no_random) == state


def test_a_key_that_does_not_fit_its_public_part_is_refused(busy: tuple[bytes, int]) -> None:
    """libtpms itself crashes on a pubDataDigest that is wrong."""
    blob, _ = busy
    state = import_permanent(blob, no_random)
    assert state.ek is not None
    at = blob.index(state.ek.prime)
    for offset in (at, at - 24, blob.index(state.ek.key.pub_key)):
        with pytest.raises(StateError, match="does not belong"):
            import_permanent(changed(blob, offset, bytes((blob[offset] ^ 2,))), no_random)


# --- from our engine and back --------------------------------------------------------------------


def made_states(identity: Identity) -> st.SearchStrategy[Permanent]:
    """States that libtpms can hold, with anything in every field."""
    flag = st.booleans()
    u8, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFFFFFF)
    digest, secret16 = st.binary(min_size=20, max_size=20), st.binary(min_size=16, max_size=16)
    selection = st.binary(min_size=1, max_size=3).map(PcrSelection)

    @st.composite
    def pcr_info(draw: st.DrawFn) -> PcrInfoShort:
        select = draw(selection)
        value = draw(digest) if any(select.select) else bytes(20)
        return PcrInfoShort(select, draw(st.integers(1, 31)), value)

    @st.composite
    def nv_area(draw: st.DrawFn) -> NvArea:
        data = draw(st.binary(max_size=300))
        index = draw(u32.filter(lambda n: not 0x11600 <= n <= 0x116FF))
        access = draw(pcr_info()), draw(pcr_info()), NvAttributes(draw(u32))
        public = NvDataPublic(index, *access, False, False, draw(flag), len(data))
        return NvArea(public, draw(digest), data)

    values = st.builds(CounterValue, st.binary(min_size=4, max_size=4), st.integers(1, 0xFFFFFF00))
    handles = st.lists(st.integers(0, 7), unique=True, max_size=7)
    # TPM_DelegatePublic keeps digestAtRelease in any case, so any will do.
    publics = st.builds(
        DelegatePublic,
        u8,
        st.builds(PcrInfoShort, selection, st.integers(1, 31), digest),
        st.builds(Delegations, st.sampled_from((1, 2)), u32, u32),
        u32,
        u32,
    )
    root = replace(identity.srk, key=replace(identity.srk.key, enc_data=b""))
    public = PubKey(root.key.algorithm_parms, root.key.pub_key)

    @st.composite
    def state(draw: st.DrawFn) -> Permanent:
        made = tuple(
            Counter(handle, draw(digest), draw(values)) for handle in sorted(draw(handles))
        )
        highest = max((counter.value.counter for counter in made), default=0)
        rows = sorted(draw(st.lists(st.integers(0, 3), unique=True, max_size=4)))
        evict = [
            StoredKey(
                draw(u32),
                replace(template(KeyUsage.SIGNING), pub_key=root.key.pub_key),
                Payload.ASYM,
                draw(digest),
                draw(digest),
                root.prime,
                draw(flag),
            )
            for _ in range(draw(st.integers(0, 4)))
        ]
        return Permanent(
            flags=PermanentFlags(*(draw(flag) for _ in PermanentFlags.layout.codecs)),
            tpm_proof=draw(digest),
            owner_auth=draw(digest),
            operator_auth=draw(digest),
            ek=draw(st.sampled_from((None, identity.ek))),
            srk=draw(st.one_of(st.none(), digest.map(lambda auth: replace(root, usage_auth=auth)))),
            counters=made,
            next_counter=highest + draw(st.integers(1, 9)),
            nv_areas=tuple(draw(st.lists(nv_area(), max_size=5))),
            dir=draw(digest),
            writes_without_owner=draw(u8),
            auth_failures=0,
            ek_reset=draw(digest),
            maintenance_key=draw(st.sampled_from((None, public))),
            context_key=draw(secret16),
            delegate_key=draw(secret16),
            daa_blob_key=draw(secret16),
            daa_proof=draw(digest),
            daa_seed=draw(digest),
            restrict_delegate=draw(u32),
            audited=(
                *sorted(draw(st.sets(u8, max_size=128 - 2))),
                *sorted(draw(st.sets(st.sampled_from((0x4000000A, 0x4000000B))))),
            ),
            audit_counter=draw(u32),
            families=tuple(
                draw(st.lists(st.builds(FamilyTableEntry, u8, u32, u32, u32), max_size=16))
            ),
            delegations=tuple(
                DelegateSlot(row, DelegateTableRow(draw(publics), draw(digest))) for row in rows
            ),
            last_family_id=draw(u32),
            owner_evict=tuple(evict),
        )

    return state()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_state_survives_the_way_to_libtpms_and_back(
    tpm_identity: Identity, data: st.DataObject
) -> None:
    state = data.draw(made_states(tpm_identity))
    assert import_permanent(export_permanent(state), no_random) == state


@pytest.fixture
def plain(tpm_identity: Identity) -> Permanent:
    fresh = fresh_permanent(lambda size: b"\x11" * size)
    return replace(fresh, ek=tpm_identity.ek, srk=tpm_identity.srk, owner_auth=OWNER_AUTH)


def refused(state: Permanent, **changes: Any) -> str:
    with pytest.raises(StateError) as caught:
        export_permanent(replace(state, **changes))
    assert caught.value.hint
    return caught.value.message


def test_what_libtpms_has_no_place_for_is_refused_by_name(plain: Permanent) -> None:
    counter = Counter(8, bytes(20), CounterValue(b"test", 1))
    public = NvDataPublic(
        0x11601,
        PcrInfoShort(PcrSelection(bytes(3)), 1, bytes(20)),
        PcrInfoShort(PcrSelection(bytes(3)), 1, b"x" * 20),
        NvAttributes(1),
        False,
        False,
        False,
        4,
    )
    area = NvArea(public, bytes(20), b"data")
    no_digest = replace(public, pcr_info_write=public.pcr_info_read)
    big = replace(no_digest, nv_index=0x10100, data_size=30000)
    row = DelegateTableRow(
        DelegatePublic(0, public.pcr_info_read, Delegations(1, 0, 0), 1, 1), bytes(20)
    )
    assert plain.ek is not None
    assert "failed authorisations" in refused(plain, auth_failures=3)
    assert "counter 8" in refused(plain, counters=(counter,), next_counter=2)
    full = tuple(replace(counter, handle=handle) for handle in range(8))
    assert "all counters" in refused(plain, counters=full, next_counter=9)
    assert "higher than the next" in refused(plain, counters=full[:1], next_counter=1)
    assert "PCR digest and no PCRs" in refused(plain, nv_areas=(area,))
    assert "has contents" in refused(plain, nv_areas=(replace(area, public=no_digest),))
    large = NvArea(big, bytes(20), bytes(30000))
    assert "libtpms holds 29835" in refused(plain, nv_areas=(large,))
    assert "ordinal" in refused(plain, audited=(0x12345,))
    assert "delegation row 9" in refused(plain, delegations=(DelegateSlot(9, row),))
    awaited = PubKey(plain.ek.key.algorithm_parms, b"")
    assert "maintenance" in refused(plain, maintenance_key=awaited)
    with_auth = replace(plain.ek, usage_auth=b"x" * 20)
    assert "endorsement key" in refused(plain, ek=with_auth)
    wrong_size = replace(area, public=replace(no_digest, nv_index=0x10100, data_size=5))
    assert "cannot hold" in refused(plain, nv_areas=(wrong_size,))


def test_libtpms_starts_from_our_state(plain: Permanent) -> None:
    storage = MemoryStorage()
    storage.store(StateName.PERMANENT, export_permanent(plain))
    tpm = LibtpmsTpm(storage)
    try:
        tpm.power_on()
        rig = Rig(tpm)
        rig.run(Startup(StartupType.CLEAR))
        made = rig.make_key(template(KeyUsage.SIGNING, 512))
        assert len(rig.run(Sign(made.handle, bytes(20)), KEY_AUTH).sig) == 64
    finally:
        tpm.close()
