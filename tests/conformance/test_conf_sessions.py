"""Authorization sessions (Part 3 section 18; Part 1 section 13): OIAP, OSAP and their rules."""

from __future__ import annotations

import os
import struct

import pytest
from conformance_rig import NO_HANDLE, OWNER, SRK, SRK_HANDLE, USAGE, WRONG, ZEROS, Device

from hwtpm.client import keys, seal
from hwtpm.client.info import capability
from hwtpm.secret import Secret
from hwtpm.tpm12.auth import request_digest, session_hmac
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.sessions import OIAP, OSAP
from hwtpm.tpm12.commands.storage import Seal, Unseal
from hwtpm.tpm12.const import Capability, CapProperty, EntityType, KeyHandleValue, ResourceType
from hwtpm.tpm12.frame import AuthRequest, build_request, parse_response
from hwtpm.tpm12.rc import Rc

READ_SRK = OwnerReadInternalPub(KeyHandleValue.SRK)
ORDINAL = READ_SRK.command.ordinal


def open_handles(device: Device) -> tuple[int, ...]:
    return keys.loaded_handles(device.client, ResourceType.AUTH)


def authorised(nonce_even: bytes, handle: int, nonce: bytes, **changes: object) -> bytes:
    """A TPM_OwnerReadInternalPub frame; `changes` spoil its tail after it was computed."""
    going_on = bool(changes.pop("continue_session", True))
    body = READ_SRK.encode()
    digest = request_digest(ORDINAL, body)
    mac = session_hmac(OWNER.reveal(), digest, nonce_even, nonce, going_on)
    fields = {"handle": handle, "nonce_odd": nonce, "continue_session": going_on, "hmac": mac}
    tail = AuthRequest(**{**fields, **changes})  # type: ignore[arg-type]
    return build_request(ORDINAL, body, (tail,))


def test_an_oiap_session_rolls_its_nonce_and_serves_many_commands(owned: Device) -> None:
    opened = owned.run(OIAP())
    nonce_even, seen = opened.nonce_even, {opened.nonce_even}
    for _ in range(3):
        nonce_odd = os.urandom(20)
        frame = parse_response(owned.send(authorised(nonce_even, opened.auth_handle, nonce_odd)))
        assert frame.rc == Rc.SUCCESS
        nonce_even = frame.auths[0].nonce_even
        assert nonce_even not in seen
        seen.add(nonce_even)
        assert frame.auths[0].continue_session


def test_a_request_cannot_be_replayed(owned: Device) -> None:
    opened = owned.run(OIAP())
    request = authorised(opened.nonce_even, opened.auth_handle, ZEROS)
    assert owned.rc(request) == Rc.SUCCESS
    assert owned.rc(request) == Rc.AUTHFAIL
    assert opened.auth_handle not in open_handles(owned)


def test_a_session_that_shall_not_continue_ends(owned: Device) -> None:
    opened = owned.run(OIAP())
    request = authorised(opened.nonce_even, opened.auth_handle, ZEROS, continue_session=False)
    answer = parse_response(owned.send(request))
    assert answer.rc == Rc.SUCCESS
    assert not answer.auths[0].continue_session
    assert open_handles(owned) == ()
    assert owned.rc(request) == Rc.INVALID_AUTHHANDLE


@pytest.mark.parametrize(
    "spoilt",
    [{"hmac": ZEROS}, {"nonce_odd": b"\1" * 20}],
    ids=["hmac", "nonce"],
)
def test_a_wrong_tail_fails_and_ends_the_session(owned: Device, spoilt: dict[str, bytes]) -> None:
    opened = owned.run(OIAP())
    bad = authorised(opened.nonce_even, opened.auth_handle, ZEROS, **spoilt)
    assert owned.rc(bad) == Rc.AUTHFAIL
    assert open_handles(owned) == ()
    good = authorised(opened.nonce_even, opened.auth_handle, ZEROS)
    assert owned.rc(good) == Rc.INVALID_AUTHHANDLE


def test_continue_flags_other_than_0_and_1_are_refused(owned: Device) -> None:
    opened = owned.run(OIAP())
    request = bytearray(authorised(opened.nonce_even, opened.auth_handle, ZEROS))
    request[-21] = 2
    assert owned.rc(bytes(request)) == Rc.BAD_PARAMETER


def test_a_session_that_does_not_exist_is_named(owned: Device) -> None:
    assert owned.rc(authorised(ZEROS, NO_HANDLE, ZEROS)) == Rc.INVALID_AUTHHANDLE


def test_any_failed_command_ends_its_session(owned: Device) -> None:
    key = owned.load("signing")
    session = owned.client.oiap(USAGE)
    assert owned.refusal_in(Sign(key.handle, bytes(19)), session) == Rc.BAD_PARAMETER
    assert open_handles(owned) == ()


def test_sessions_are_opened_until_the_room_is_used_up(owned: Device) -> None:
    raw = capability(owned.client, Capability.PROPERTY, CapProperty.AUTHSESS.to_bytes(4, "big"))
    (room,) = struct.unpack(">I", raw)
    opened = {owned.run(OIAP()).auth_handle for _ in range(min(room, 16))}
    assert len(opened) == min(room, 16)
    if room <= 16:
        assert owned.refusal(OIAP()) == Rc.RESOURCES
    assert set(open_handles(owned)) == opened


# --- 18.2 TPM_OSAP -----------------------------------------------------------------------------


def test_an_osap_session_authorises_its_entity_only(owned: Device) -> None:
    owner_session = owned.osap_owner()
    assert owned.refusal_in(READ_SRK, owner_session) == Rc.SUCCESS
    assert owned.refusal_in(READ_SRK, owner_session) == Rc.SUCCESS
    assert owned.refusal_in(READ_SRK, owned.osap_srk()) == Rc.AUTHFAIL
    key, other = owned.load("signing"), owned.load("signing DER")
    bound = owned.client.osap(EntityType.KEYHANDLE, key.handle, USAGE)
    assert owned.refusal_in(Sign(key.handle, bytes(20)), bound) == Rc.SUCCESS
    assert owned.refusal_in(Sign(other.handle, bytes(20)), bound) == Rc.AUTHFAIL


def test_a_wrong_secret_shows_when_the_session_is_used(owned: Device) -> None:
    session = owned.osap_owner(WRONG)
    assert owned.refusal_in(READ_SRK, session) == Rc.AUTHFAIL


@pytest.mark.parametrize(
    ("kind", "value", "rc"),
    [
        (EntityType.KEYHANDLE, NO_HANDLE, Rc.INVALID_KEYHANDLE),
        (EntityType.COUNTER, NO_HANDLE, Rc.BAD_COUNTER),
        (EntityType.NV, 0x00BADBAD, Rc.BADINDEX),
        (0x77, 0, Rc.BAD_PARAMETER),
        (EntityType.DATA, 0, Rc.BAD_PARAMETER),
        (0x7704, SRK_HANDLE, Rc.INAPPROPRIATE_ENC),
    ],
)
def test_entities_that_are_not_there(owned: Device, kind: int, value: int, rc: int) -> None:
    assert owned.refusal(OSAP(kind, value, ZEROS)) == rc


@pytest.mark.parametrize("kind", [EntityType.OWNER, EntityType.SRK])
def test_the_value_of_owner_and_srk_entities_is_ignored(owned: Device, kind: EntityType) -> None:
    """18.2 actions 7 and 8."""
    assert owned.refusal(OSAP(kind, 0x12345678, ZEROS)) == Rc.SUCCESS


def test_without_an_owner_there_is_no_entity(endorsed: Device) -> None:
    for kind in (EntityType.OWNER, EntityType.SRK):
        assert endorsed.refusal(OSAP(kind, SRK_HANDLE, ZEROS)) == Rc.NOSRK


def test_unloading_a_key_ends_the_sessions_bound_to_it(owned: Device) -> None:
    key = owned.load("signing")
    session = owned.client.osap(EntityType.KEYHANDLE, key.handle, USAGE)
    keys.flush(owned.client, key.handle)
    again = owned.load("signing")
    rc = owned.refusal_in(Sign(again.handle, bytes(20)), session)
    assert rc == Rc.INVALID_AUTHHANDLE


def test_a_session_that_carried_a_new_secret_ends(owned: Device) -> None:
    """Part 1 13.5: an OSAP session that transported AuthData is closed by the TPM."""
    session = owned.osap_srk(SRK)
    request = Seal(SRK_HANDLE, session.encrypt_auth(USAGE), b"", b"x")
    owned.client.execute(request, session)
    assert open_handles(owned) == ()


def test_two_authorisations_need_two_sessions(owned: Device) -> None:
    blob = seal.seal(owned.client, keys.srk(SRK), Secret(b"x"), SRK)
    session = owned.client.oiap(SRK)
    rc = owned.refusal_in(Unseal(SRK_HANDLE, blob), session, session)
    assert rc == owned.expected("one session twice", Rc.AUTHFAIL)
