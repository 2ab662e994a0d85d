"""Saved contexts and owner-evict keys (Part 3 section 21); what 1.1 had instead (27.2, 27.5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conformance_rig import NO_HANDLE, OWNER, SRK, SRK_HANDLE, USAGE, WRONG, ZEROS, Device

from hwtpm.client import counters, keys, nv, transport
from hwtpm.tpm12.commands.capability import GetCapability
from hwtpm.tpm12.commands.context import KeyControlOwner, LoadContext, SaveContext
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.deprecated import (
    EvictKey,
    LoadAuthContext,
    LoadKeyContext,
    Reset,
    SaveAuthContext,
    SaveKeyContext,
)
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.ownership import OwnerClear
from hwtpm.tpm12.commands.startup import SaveState
from hwtpm.tpm12.commands.storage import LoadKey2
from hwtpm.tpm12.const import (
    Capability,
    CapProperty,
    EntityType,
    KeyFlag,
    NvPermission,
    ResourceType,
    StartupType,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PubKey
from hwtpm.tpm12.types.context import ContextBlob

LABEL = b"the label is the"
KEYS, SESSIONS = ResourceType.KEY, ResourceType.AUTH
MAX_KEYS, MAX_OWNER_EVICT, MAX_CONTEXTS = 20, 10, 128  # what all three engines have


def save(device: Device, handle: int, kind: int = SESSIONS) -> ContextBlob:
    blob = device.run(SaveContext(handle, kind, LABEL)).context_blob
    assert blob is not None
    assert (blob.resource_type, blob.handle, blob.label) == (kind, handle, LABEL)
    return blob


def load(device: Device, blob: ContextBlob, entity: int = 0, *, keep: bool = False) -> int:
    return device.run(LoadContext(entity, keep, blob)).handle


def load_refusal(device: Device, blob: ContextBlob, entity: int = 0, *, keep: bool = False) -> int:
    return device.refusal(LoadContext(entity, keep, blob))


def handles(device: Device, kind: ResourceType = KEYS) -> tuple[int, ...]:
    return keys.loaded_handles(device.client, kind)


def sign(handle: int) -> Sign:
    return Sign(handle, ZEROS)


def oiap(device: Device) -> int:
    return device.client.oiap(USAGE).handle


# --- keys --------------------------------------------------------------------------------------


def test_a_saved_key_stays_loaded_and_comes_back_under_its_handle(owned: Device) -> None:
    key = owned.load("signing")
    blob = save(owned, key.handle, KEYS)
    assert blob.context_count == 0  # 21.2 action 9
    assert handles(owned) == (key.handle,)
    for keep in (True, False, True):
        owned.run(FlushSpecific(key.handle, KEYS))
        assert load(owned, blob, keep=keep) == key.handle
        assert owned.refusal(sign(key.handle), USAGE) == Rc.SUCCESS
        assert owned.refusal(sign(key.handle), WRONG) == Rc.AUTHFAIL


def test_a_key_whose_handle_is_taken_has_to_take_another(owned: Device) -> None:
    """21.3 actions 7 and 8."""
    key = owned.load("signing")
    blob = save(owned, key.handle, KEYS)
    assert load_refusal(owned, blob, keep=True) == Rc.BAD_HANDLE
    assert owned.expected("keys left by a refused TPM_LoadContext", 1) == len(handles(owned))
    copies = [load(owned, blob) for _ in range(2)]
    assert owned.refusal(sign(copies[1]), USAGE) == Rc.SUCCESS


@pytest.mark.alters
def test_saved_keys_outlive_every_startup(owned: Device) -> None:
    """21.3 action 5.b.i: nothing binds a key that depends on no PCRs to the time of its saving."""
    key = owned.load("signing")
    blob = save(owned, key.handle, KEYS)
    owned.restart()
    assert load(owned, blob) == key.handle
    assert owned.refusal(sign(key.handle), USAGE) == Rc.SUCCESS


def test_keys_fill_the_slots_and_no_more(owned: Device) -> None:
    blob = save(owned, owned.load("signing").handle, KEYS)
    keys.flush_all(owned.client)
    answers = [load_refusal(owned, blob) for _ in range(MAX_KEYS + 1)]
    assert answers == [Rc.SUCCESS] * MAX_KEYS + [Rc.NOSPACE]


def test_the_root_keys_cannot_be_saved(owned: Device) -> None:
    for handle in (SRK_HANDLE, 0x40000006, NO_HANDLE):
        assert owned.refusal(SaveContext(handle, KEYS, LABEL)) == Rc.INVALID_RESOURCE
        assert owned.refusal(SaveKeyContext(handle)) == Rc.INVALID_KEYHANDLE


def test_the_resource_type_has_to_be_that_of_the_handle(owned: Device) -> None:
    """21.2 actions 2 and 3."""
    key, session = owned.load("signing").handle, oiap(owned)
    for handle, kind in ((key, SESSIONS), (session, KEYS), (session, ResourceType.TRANS)):
        assert owned.refusal(SaveContext(handle, kind, LABEL)) == Rc.INVALID_RESOURCE
    for kind in (0, 3, 4, 5, 6, 7, 8, 9, 99):
        assert owned.refusal(SaveContext(NO_HANDLE, kind, LABEL)) == Rc.INVALID_RESOURCE


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field", ["handle", "label", "context_count", "integrity_digest", "sensitive_data"]
)
def test_a_changed_context_is_refused(owned: Device, field: str) -> None:
    """21.3 action 6."""
    key = owned.load("signing")
    blob = save(owned, key.handle, KEYS)
    value = getattr(blob, field)
    changed = value ^ 1 if isinstance(value, int) else value[:-1] + bytes([value[-1] ^ 1])
    expected = int(Rc.BADCONTEXT)
    if field == "sensitive_data":
        expected = owned.expected("damaged secret part of a context", expected)
    assert load_refusal(owned, replace(blob, **{field: changed})) == expected
    assert load_refusal(owned, replace(blob, sensitive_data=b"")) == owned.expected(
        "damaged secret part of a context", Rc.BADCONTEXT
    )
    assert owned.refusal(LoadContext(0, False, None)) == Rc.BAD_PARAM_SIZE
    assert owned.refusal(sign(key.handle), USAGE) == Rc.SUCCESS


def test_a_context_is_no_context_of_another_type(owned: Device) -> None:
    blob = save(owned, owned.load("signing").handle, KEYS)
    for kind, what in ((SESSIONS, "key context as a session"), (99, "context of no type")):
        rc = owned.expected(what, Rc.BADCONTEXT)
        assert load_refusal(owned, replace(blob, resource_type=kind)) == rc


# --- sessions ----------------------------------------------------------------------------------


def test_a_saved_session_leaves_and_comes_back_once(owned: Device) -> None:
    key = owned.load("signing")
    session = owned.client.oiap(USAGE)
    assert owned.refusal_in(sign(key.handle), session) == Rc.SUCCESS
    blob = save(owned, session.handle)
    assert handles(owned, SESSIONS) == ()
    assert owned.refusal(SaveContext(session.handle, SESSIONS, LABEL)) == Rc.INVALID_RESOURCE
    assert load(owned, blob, NO_HANDLE) == session.handle
    assert load_refusal(owned, blob) == Rc.BADCONTEXT
    assert owned.refusal_in(sign(key.handle), session) == Rc.SUCCESS
    assert load_refusal(owned, blob) == Rc.BADCONTEXT


def test_counts_rise_and_a_flushed_context_does_not_come_back(owned: Device) -> None:
    blobs = [save(owned, oiap(owned)) for _ in range(3)]
    first = blobs[0].context_count
    assert [blob.context_count for blob in blobs] == [first, first + 1, first + 2]
    assert handles(owned, ResourceType.CONTEXT)[-3:] == (first, first + 1, first + 2)
    context_property = CapProperty.CONTEXT.to_bytes(4, "big")
    free = owned.run(GetCapability(Capability.PROPERTY, context_property)).resp
    assert int.from_bytes(free, "big") == MAX_CONTEXTS - len(handles(owned, ResourceType.CONTEXT))
    flush = FlushSpecific(first + 1, ResourceType.CONTEXT)
    assert owned.refusal(flush) == Rc.SUCCESS
    assert owned.refusal(flush) == Rc.BAD_PARAMETER
    assert [load_refusal(owned, blob) for blob in reversed(blobs)] == [0, Rc.BADCONTEXT, 0]
    assert owned.refusal(FlushSpecific(0, ResourceType.CONTEXT)) == Rc.BAD_PARAMETER


def test_a_session_of_a_key_comes_back_with_that_key_only(owned: Device) -> None:
    """21.3 action 5.a.ii."""
    key = owned.load("signing")
    session = owned.client.osap(EntityType.KEYHANDLE, key.handle, USAGE)
    blob = save(owned, session.handle)
    owned.run(FlushSpecific(key.handle, KEYS))
    assert load_refusal(owned, blob, key.handle) == Rc.BAD_HANDLE
    other = owned.load("bind")
    assert load_refusal(owned, blob, other.handle) == Rc.RESOURCEMISSING
    assert load_refusal(owned, blob, SRK_HANDLE) == Rc.RESOURCEMISSING
    key = owned.load("signing")
    assert load_refusal(owned, blob, other.handle) == Rc.RESOURCEMISSING
    assert load(owned, blob, key.handle) == session.handle
    assert owned.refusal_in(sign(key.handle), session) == Rc.SUCCESS


def test_sessions_of_owner_and_srk_need_no_handle(owned: Device) -> None:
    for session in (owned.osap_owner(), owned.osap_srk()):
        blob = save(owned, session.handle)
        assert load(owned, blob, NO_HANDLE, keep=True) == session.handle


@pytest.mark.alters
def test_a_session_of_something_with_another_secret_does_not_come_back(owned: Device) -> None:
    permissions = NvPermission.AUTHREAD | NvPermission.AUTHWRITE
    nv.lock(owned.client)
    nv.define(owned.client, 0x1000, 4, permissions, owner_auth=OWNER, area_auth=USAGE)
    blob = save(owned, owned.client.osap(EntityType.NV, 0x1000, USAGE).handle)
    nv.delete(owned.client, 0x1000, owner_auth=OWNER)
    nv.define(owned.client, 0x1000, 4, permissions, owner_auth=OWNER, area_auth=WRONG)
    assert load_refusal(owned, blob) == Rc.RESOURCEMISSING


@pytest.mark.alters
def test_a_session_of_a_counter_comes_back_while_it_exists(owned: Device) -> None:
    made = counters.create(owned.client, OWNER, USAGE, b"here")
    session, other = (owned.client.osap(EntityType.COUNTER, made.handle, USAGE) for _ in "12")
    comes_back = owned.expected("session of a counter in a context", Rc.SUCCESS)
    assert load_refusal(owned, save(owned, session.handle), NO_HANDLE) == comes_back
    blob = save(owned, other.handle)
    counters.release_as_owner(owned.client, made.handle, OWNER)
    assert load_refusal(owned, blob) == Rc.RESOURCEMISSING


def test_a_transport_session_leaves_and_comes_back_once(owned: Device) -> None:
    session = transport.establish_clear(owned.client)
    assert session.tpm.execute_with(PcrRead(0)).out_digest == ZEROS
    blob = save(owned, session.handle, ResourceType.TRANS)
    assert handles(owned, ResourceType.TRANS) == ()
    assert load(owned, blob, NO_HANDLE) == session.handle
    assert load_refusal(owned, blob) == Rc.BADCONTEXT
    assert session.tpm.execute_with(PcrRead(0)).out_digest == ZEROS


def test_a_session_finds_no_slot_when_all_are_taken(owned: Device) -> None:
    blob = save(owned, oiap(owned))
    while len(handles(owned, SESSIONS)) < 16:
        oiap(owned)
    assert load_refusal(owned, blob) == Rc.RESOURCES
    owned.refusal(FlushSpecific(blob.context_count, ResourceType.CONTEXT))


def test_more_sessions_than_the_list_holds_are_not_saved(owned: Device) -> None:
    """21.2 action 10.b.ii; the distance of the counts is no limit (10.b.i)."""
    blobs = [save(owned, oiap(owned)) for _ in range(MAX_CONTEXTS)]
    session = oiap(owned)
    assert owned.refusal(SaveContext(session, SESSIONS, LABEL)) == Rc.NOCONTEXTSPACE
    assert handles(owned, SESSIONS) == (session,)
    assert load_refusal(owned, blobs[0]) == Rc.SUCCESS
    assert owned.refusal(SaveContext(session, SESSIONS, LABEL)) == Rc.SUCCESS
    for blob in blobs[1:]:
        owned.run(FlushSpecific(blob.context_count, ResourceType.CONTEXT))
    owned.run(FlushSpecific(blobs[-1].context_count + 1, ResourceType.CONTEXT))


def test_many_keys_and_sessions_take_turns(owned: Device) -> None:
    """As a resource manager does it: each use loads what it needs and saves it again."""
    parent = owned.load("storage")
    swapped = {name: owned.load(name) for name in ("signing", "signing DER", "bind")}
    blobs = {name: save(owned, key.handle, KEYS) for name, key in swapped.items()}
    sessions = {name: key.osap(owned.client) for name, key in swapped.items()}
    contexts = {name: save(owned, session.handle) for name, session in sessions.items()}
    keys.flush(owned.client, parent.handle)
    for key in swapped.values():
        owned.run(FlushSpecific(key.handle, KEYS))
    for name in ("signing", "signing DER", "signing", "signing DER") * 3:
        handle = load(owned, blobs[name])
        load(owned, contexts[name], handle)
        assert owned.refusal_in(sign(handle), sessions[name]) == Rc.SUCCESS
        contexts[name] = save(owned, sessions[name].handle)
        owned.run(EvictKey(handle))
    assert handles(owned) == handles(owned, SESSIONS) == ()


# --- contexts and power --------------------------------------------------------------------------


@pytest.mark.alters
def test_a_resume_brings_back_what_was_loaded_and_what_was_saved(owned: Device) -> None:
    """3.2 action 3: open in the specification; client software knows it from libtpms."""
    key = owned.load("signing")
    kept = owned.client.oiap(USAGE)
    saved = owned.client.oiap(USAGE)
    blob, key_blob = save(owned, saved.handle), save(owned, key.handle, KEYS)
    owned.run(SaveState())
    owned.restart(StartupType.STATE)
    assert handles(owned) == (key.handle,)
    assert handles(owned, SESSIONS) == (kept.handle,)
    assert owned.refusal_in(sign(key.handle), kept) == Rc.SUCCESS
    assert load(owned, blob) == saved.handle
    assert owned.refusal_in(sign(key.handle), saved) == Rc.SUCCESS
    assert load_refusal(owned, key_blob) == Rc.SUCCESS


@pytest.mark.alters
@pytest.mark.parametrize("change", ["open a session", "use a session", "load a key"])
def test_what_is_loaded_later_invalidates_the_saved_state(owned: Device, change: str) -> None:
    """3.3 description 4."""
    key = owned.load("signing")
    session = owned.client.oiap(USAGE)
    owned.run(SaveState())
    if change == "open a session":
        oiap(owned)
    elif change == "use a session":
        assert owned.refusal_in(sign(key.handle), session) == Rc.SUCCESS
    else:
        owned.load("bind")
    owned.restart(startup=None)
    assert owned.refusal(LoadKey2(SRK_HANDLE, owned.key("bind"))) == Rc.INVALID_POSTINIT
    with pytest.raises(AssertionError):
        owned.restart(StartupType.STATE)


@pytest.mark.alters
def test_a_clear_start_forgets_saved_sessions(owned: Device) -> None:
    blob = save(owned, oiap(owned))
    owned.restart()
    assert load_refusal(owned, blob) == Rc.BADCONTEXT


@pytest.mark.alters
def test_contexts_end_with_the_owner(owned: Device) -> None:
    blob, key = save(owned, oiap(owned)), save(owned, owned.load("signing").handle, KEYS)
    owned.run(OwnerClear(), OWNER)
    assert load_refusal(owned, blob) == load_refusal(owned, key) != Rc.SUCCESS


# --- 21.1 TPM_KeyControlOwner --------------------------------------------------------------------


def stay(device: Device, handle: int, pub: PubKey, value: bool = True, bit: int = 1) -> int:
    return device.refusal(KeyControlOwner(handle, pub, bit, value), OWNER)


@pytest.mark.alters
def test_an_owner_evict_key_survives_power_cycles_until_the_owner_lets_it_go(
    owned: Device,
) -> None:
    key = owned.load("signing")
    pub = keys.get_pub(owned.client, key)
    assert stay(owned, key.handle, pub) == stay(owned, key.handle, pub) == Rc.SUCCESS
    for startup in (StartupType.CLEAR, StartupType.CLEAR, StartupType.STATE):
        if startup == StartupType.STATE:
            owned.run(SaveState())
        owned.restart(startup)
        assert handles(owned) == (key.handle,)
        assert owned.refusal(sign(key.handle), USAGE) == Rc.SUCCESS
    assert owned.refusal(FlushSpecific(key.handle, KEYS)) == Rc.KEY_OWNER_CONTROL
    assert owned.refusal(EvictKey(key.handle)) == Rc.KEY_OWNER_CONTROL
    assert owned.refusal(SaveContext(key.handle, KEYS, LABEL)) == Rc.OWNER_CONTROL
    assert stay(owned, key.handle, pub, False) == Rc.SUCCESS
    assert handles(owned) == (key.handle,)
    assert owned.refusal(FlushSpecific(key.handle, KEYS)) == Rc.SUCCESS
    owned.restart()
    assert handles(owned) == ()


@pytest.mark.alters
def test_an_owner_evict_key_is_not_for_others_to_move_out(owned: Device) -> None:
    key = owned.load("signing")
    stay(owned, key.handle, keys.get_pub(owned.client, key))
    moved = owned.expected("moving out an owner-evict key", Rc.OWNER_CONTROL)
    assert owned.refusal(SaveKeyContext(key.handle)) == moved


@pytest.mark.alters
def test_half_of_the_slots_stay_free_for_everybody(owned: Device) -> None:
    """21.1 action 5.a.i asks for two of them."""
    pub = keys.get_pub(owned.client, owned.load("signing"))
    answers = [stay(owned, owned.load("signing").handle, pub) for _ in range(MAX_OWNER_EVICT + 1)]
    assert answers == [Rc.SUCCESS] * MAX_OWNER_EVICT + [Rc.NOSPACE]
    owned.restart()
    assert len(handles(owned)) == MAX_OWNER_EVICT


@pytest.mark.alters
def test_owner_evict_keys_end_with_the_owner(owned: Device) -> None:
    key = owned.load("signing")
    assert stay(owned, key.handle, keys.get_pub(owned.client, key)) == Rc.SUCCESS
    owned.run(OwnerClear(), OWNER)
    assert handles(owned) == ()
    owned.restart()
    assert handles(owned) == ()


def test_key_control_checks_handle_key_and_bit(owned: Device) -> None:
    """21.1 actions 1 to 4."""
    key = owned.load("signing")
    pub = keys.get_pub(owned.client, key)
    other = replace(pub, pub_key=bytes(128))
    assert owned.refusal(KeyControlOwner(key.handle, pub, 1, True), WRONG) == Rc.AUTHFAIL
    assert stay(owned, NO_HANDLE, other, bit=2) == Rc.INVALID_KEYHANDLE
    for root, root_pub in ((SRK_HANDLE, owned.prepared.srk), (0x40000006, owned.ek)):
        assert root_pub is not None
        assert stay(owned, root, root_pub) == Rc.INVALID_KEYHANDLE
    assert stay(owned, key.handle, other, bit=2) == Rc.BAD_PARAMETER
    for bit in (0, 2, 3):
        assert stay(owned, key.handle, pub, bit=bit) == Rc.BAD_MODE
    assert stay(owned, key.handle, pub, False) == Rc.SUCCESS


@pytest.mark.alters
def test_a_key_that_is_lost_with_the_power_is_bound_to_the_time_of_its_saving(
    owned: Device,
) -> None:
    """21.3 action 5.b.ii; contextNonceKey is restored (3.3, informative)."""
    template = replace(keys.signing_key(bits=1024), key_flags=KeyFlag.VOLATILE)
    root = keys.srk(SRK)
    key = keys.load(owned.client, root, keys.create(owned.client, root, template, USAGE), USAGE)
    assert stay(owned, key.handle, keys.get_pub(owned.client, key)) == Rc.BAD_PARAMETER
    blob = save(owned, key.handle, KEYS)
    owned.run(FlushSpecific(key.handle, KEYS))
    owned.run(SaveState())
    owned.restart(StartupType.STATE)
    assert load_refusal(owned, blob) == Rc.SUCCESS
    owned.restart()
    assert load_refusal(owned, blob) == Rc.BADCONTEXT


# --- contexts of version 1.1 -------------------------------------------------------------------


def test_a_key_is_moved_out_and_back_with_the_old_commands(owned: Device) -> None:
    key = owned.load("signing")
    session = key.osap(owned.client)
    blob = owned.run(SaveKeyContext(key.handle)).key_context_blob
    assert handles(owned) == ()
    assert owned.run(LoadKeyContext(blob)).key_handle == key.handle
    assert owned.refusal_in(sign(key.handle), session) == Rc.SUCCESS
    assert owned.run(LoadKeyContext(blob)).key_handle != key.handle
    assert len(handles(owned)) == 2


def test_a_session_is_moved_out_and_back_with_the_old_commands(owned: Device) -> None:
    key = owned.load("signing")
    session = key.osap(owned.client)
    blob = owned.run(SaveAuthContext(session.handle)).auth_context_blob
    assert owned.refusal(SaveAuthContext(session.handle)) == Rc.INVALID_AUTHHANDLE
    owned.run(FlushSpecific(key.handle, KEYS))
    assert owned.refusal(LoadAuthContext(blob)) == Rc.RESOURCEMISSING
    key = owned.load("signing")
    assert owned.run(LoadAuthContext(blob)).auth_handle == session.handle
    assert owned.refusal(LoadAuthContext(blob)) == Rc.BADCONTEXT
    assert owned.refusal_in(sign(key.handle), session) == Rc.SUCCESS


def test_damaged_contexts_of_the_old_form(owned: Device) -> None:
    key = owned.run(SaveKeyContext(owned.load("signing").handle)).key_context_blob
    session = owned.run(SaveAuthContext(oiap(owned))).auth_context_blob
    assert owned.refusal(LoadKeyContext(session)) == Rc.BAD_PARAMETER
    assert owned.refusal(LoadAuthContext(key)) == Rc.BAD_PARAMETER
    for blob in (b"", key[:-1], key + b"\0"):
        assert owned.refusal(LoadKeyContext(blob)) == Rc.BAD_PARAM_SIZE
    assert owned.refusal(LoadKeyContext(b"x" * 50)) == Rc.INVALID_STRUCTURE
    assert owned.refusal(LoadKeyContext(key[:15] + b"x" + key[16:])) == Rc.BADCONTEXT


@pytest.mark.alters
def test_contexts_of_the_old_form_end_with_the_power(owned: Device) -> None:
    """27.2.1 and 27.2.3: rendered invalid if power to the TPM is interrupted."""
    key = owned.run(SaveKeyContext(owned.load("signing").handle)).key_context_blob
    session = owned.run(SaveAuthContext(oiap(owned))).auth_context_blob
    owned.run(SaveState())
    owned.restart(StartupType.STATE)
    after = owned.expected("context of 1.1 after a resume", Rc.BADCONTEXT)
    assert owned.refusal(LoadKeyContext(key)) == after
    assert owned.refusal(LoadAuthContext(session)) == after


def test_reset_ends_sessions_and_what_the_old_commands_saved(owned: Device) -> None:
    """27.5 action 1."""
    key = owned.load("signing")
    old_key = owned.run(SaveKeyContext(owned.load("bind").handle)).key_context_blob
    old = owned.run(SaveAuthContext(oiap(owned))).auth_context_blob
    blob = save(owned, oiap(owned))
    oiap(owned)
    assert owned.refusal(Reset()) == Rc.SUCCESS
    assert handles(owned, SESSIONS) == ()
    assert handles(owned) == (key.handle,)
    rc = owned.expected("key context of 1.1 after TPM_Reset", Rc.BADCONTEXT)
    assert owned.refusal(LoadKeyContext(old_key)) == rc
    assert owned.refusal(LoadAuthContext(old)) == Rc.BADCONTEXT
    assert load_refusal(owned, blob) == owned.expected("context after TPM_Reset", Rc.SUCCESS)
