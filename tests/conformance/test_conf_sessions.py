"""Authorization sessions (Part 3 section 18; Part 1 section 13): OIAP, OSAP and their rules."""

from __future__ import annotations

import hashlib
import os
import struct

import pytest
from conformance_rig import NO_HANDLE, OWNER, SRK, SRK_HANDLE, USAGE, WRONG, ZEROS, Device

from hwtpm.client import counters, keys, seal
from hwtpm.client.info import capability
from hwtpm.client.session import AuthSession
from hwtpm.secret import Secret
from hwtpm.tpm12.aes import aes128_ctr
from hwtpm.tpm12.auth import adip_aes128_ctr, request_digest, session_hmac
from hwtpm.tpm12.commands.counters import ReleaseCounter
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.sessions import OIAP, OSAP
from hwtpm.tpm12.commands.storage import CreateWrapKey, LoadKey2, Seal, Sealx, Unseal
from hwtpm.tpm12.const import (
    ET_AES128_CTR,
    Capability,
    CapProperty,
    EntityType,
    KeyAlgorithm,
    KeyHandleValue,
    ResourceType,
    Tag,
)
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


@pytest.mark.parametrize(
    ("handle", "what"),
    [
        (KeyHandleValue.OWNER, "OSAP session for a reserved handle"),
        (KeyHandleValue.REVOKETRUST, "OSAP session for a reserved handle"),
        (KeyHandleValue.TRANSPORT, "OSAP session for a reserved handle"),
        (KeyHandleValue.ADMIN, "OSAP session for a reserved handle"),
        (KeyHandleValue.EK, "OSAP session for the EK"),
    ],
)
def test_reserved_handles_are_no_keys(owned: Device, handle: KeyHandleValue, what: str) -> None:
    request = OSAP(EntityType.KEYHANDLE, handle, ZEROS)
    assert owned.refusal(request) == owned.expected(what, Rc.INVALID_KEYHANDLE)


def test_the_operator_is_no_key(owned: Device) -> None:
    """18.2 action 6.b."""
    request = OSAP(EntityType.KEYHANDLE, KeyHandleValue.OPERATOR, ZEROS)
    assert owned.refusal(request) == Rc.BAD_HANDLE


def test_the_srk_is_a_key_with_a_handle(owned: Device) -> None:
    """18.2 description 6."""
    session = owned.client.osap(EntityType.KEYHANDLE, SRK_HANDLE, SRK)
    request = Seal(SRK_HANDLE, session.encrypt_auth(USAGE), b"", b"x")
    assert owned.refusal_in(request, session) == Rc.SUCCESS


def test_counters_and_nv_areas_have_sessions_of_their_own(owned: Device) -> None:
    counter = counters.create(owned.client, OWNER, USAGE, b"test")
    other = counters.create(owned.client, OWNER, USAGE, b"othr")
    session = owned.client.osap(EntityType.COUNTER, counter.handle, USAGE)
    assert owned.refusal_in(ReleaseCounter(other.handle), session) == Rc.AUTHFAIL
    session = owned.client.osap(EntityType.COUNTER, counter.handle, USAGE)
    assert owned.refusal_in(ReleaseCounter(counter.handle), session) == Rc.SUCCESS
    owned.run(ReleaseCounter(other.handle), USAGE)


# --- ADIP: how a session encrypts new AuthData (Part 1 13.5) ------------------------------------


def aes_session(device: Device, kind: int, value: int, secret: Secret) -> AuthSession:
    return device.client.osap(ET_AES128_CTR << 8 | kind, value, secret)


def encrypted(session: AuthSession, nonce: bytes, auth: Secret) -> bytes:
    return adip_aes128_ctr(session.state.key.reveal(), nonce, auth.reveal())


def test_new_secrets_come_encrypted_with_aes(owned: Device) -> None:
    session = aes_session(owned, EntityType.SRK, SRK_HANDLE, SRK)
    enc_auth = encrypted(session, session.state.nonce_even, USAGE)
    blob = owned.client.execute(Seal(SRK_HANDLE, enc_auth, b"", b"x"), session).sealed_data
    assert open_handles(owned) == ()
    assert owned.run(Unseal(SRK_HANDLE, blob), SRK, USAGE).secret == b"x"
    assert owned.refusal(Unseal(SRK_HANDLE, blob), SRK, WRONG) == Rc.AUTH2FAIL


def test_a_key_gets_its_two_secrets_encrypted_with_aes(owned: Device) -> None:
    session = aes_session(owned, EntityType.SRK, SRK_HANDLE, SRK)
    nonce_odd = session.sign(ZEROS, last=False).nonce_odd
    request = CreateWrapKey(
        SRK_HANDLE,
        encrypted(session, session.state.nonce_even, USAGE),
        encrypted(session, nonce_odd, WRONG),
        keys.signing_key(bits=1024),
    )
    key = owned.client.execute(request, session).wrapped_key
    handle = owned.run(LoadKey2(SRK_HANDLE, key), SRK).inkey_handle
    assert owned.refusal(Sign(handle, bytes(20)), USAGE) == Rc.SUCCESS
    assert owned.refusal(Sign(handle, bytes(20)), WRONG) == Rc.AUTHFAIL


def test_sealed_data_travels_encrypted_with_aes(owned: Device) -> None:
    """10.7 actions 11.b and 14, 10.2 action 9.d."""
    session = aes_session(owned, EntityType.SRK, SRK_HANDLE, SRK)
    enc_auth = encrypted(session, session.state.nonce_even, USAGE)
    request = Sealx(SRK_HANDLE, enc_auth, b"", data_crypted(session, b"secret" * 20))
    blob = owned.client.execute(request, session).sealed_data
    assert blob.form == Tag.STORED_DATA12 << 16 | ET_AES128_CTR << 8
    session = owned.osap_srk()  # the blob decides, not the session
    mask = data_crypted(session, bytes(120))
    with owned.client.oiap(USAGE) as auth:
        data = owned.client.execute(Unseal(SRK_HANDLE, blob), session, auth).secret
    assert bytes(x ^ y for x, y in zip(data, mask, strict=True)) == b"secret" * 20


def data_crypted(session: AuthSession, data: bytes) -> bytes:
    """Encrypted or decrypted by 10.7 action 14, as with the session's next command."""
    nonce_odd = session.sign(ZEROS, last=False).nonce_odd
    counter = hashlib.sha1(session.state.nonce_even + nonce_odd).digest()[:16]
    return aes128_ctr(session.state.key.reveal()[:16], counter, data)


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.XOR, KeyAlgorithm.AES128])
def test_both_schemes_are_announced(owned: Device, algorithm: KeyAlgorithm) -> None:
    sub_cap = int(algorithm).to_bytes(4, "big")
    assert capability(owned.client, Capability.AUTH_ENCRYPT, sub_cap) == b"\1"


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
