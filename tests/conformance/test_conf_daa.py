"""DAA commands (Part 3 section 26): a whole issuer, host and verifier outside the TPM, and wrong
inputs to every stage that takes any."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Final

import pytest
from conformance_rig import NO_HANDLE, OWNER, WRONG, Device
from daa_issuer import (
    Credential,
    Execute,
    Join,
    Sign,
    number,
    sha1,
    the_issuer,
    verifies,
    wide,
)
from samples import frame, tails

from hwtpm.client.keys import loaded_handles
from hwtpm.tpm12.commands.capability import GetCapability
from hwtpm.tpm12.commands.context import LoadContext, SaveContext
from hwtpm.tpm12.commands.daa import DaaJoin, DaaSign
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.const import Capability, CapProperty, ResourceType
from hwtpm.tpm12.rc import Rc

DIGEST: Final = sha1(b"message")
MESSAGE, AIK = 1, 0
MAX_SESSIONS: Final = 2

Change = Callable[[bytes, bytes], tuple[bytes, bytes]]


def owner_of(device: Device) -> Execute:
    return lambda request: device.run(request, OWNER).output_data


def join(device: Device, count: int = 0) -> Join:
    return Join(owner_of(device), the_issuer(), device.ek, count)


def sign(device: Device, credential: Credential, basename: bytes = b"verifier") -> Sign:
    key = the_issuer().key
    return Sign(owner_of(device), key, credential, MESSAGE, DIGEST, basename)


def end(device: Device, session: Join | Sign) -> None:
    """Give up a session: there is no stage 255, and any error ends it."""
    device.refusal(session.command(255, b"", b""), OWNER)


@pytest.fixture(scope="module")
def credentials() -> dict[str, tuple[Credential, Credential]]:
    """Two of each engine's TPM, which every test brings back to the same state."""
    return {}


@pytest.fixture
def joined(
    owned: Device, credentials: dict[str, tuple[Credential, Credential]]
) -> tuple[Credential, Credential]:
    if owned.engine not in credentials:
        credentials[owned.engine] = join(owned, 1).finish(), join(owned, 2).finish()
    return credentials[owned.engine]


# --- it works ----------------------------------------------------------------------------------


def test_a_signature_proves_a_credential_and_nothing_else(owned: Device) -> None:
    key = the_issuer().key
    signature = sign(owned, join(owned).finish()).finish()
    assert verifies(key, signature, DIGEST)
    assert not verifies(key, signature, sha1(b"another message"))
    assert not verifies(key, signature, DIGEST, nonce=b"n" * 20)
    assert not verifies(key, signature, DIGEST, basename=b"another verifier")
    assert not verifies(key, replace(signature, selector=AIK), DIGEST)
    assert not verifies(key, replace(signature, s0=signature.s0 + 1), DIGEST)
    assert not verifies(key, replace(signature, sv=signature.sv + 1), DIGEST)


def test_an_identity_key_is_signed_by_its_modulus(
    owned: Device, joined: tuple[Credential, Credential]
) -> None:
    handle = owned.load("identity").handle
    subject = handle.to_bytes(4, "big")
    key = the_issuer().key
    signature = Sign(owner_of(owned), key, joined[0], AIK, subject).finish()
    assert verifies(key, signature, owned.key("identity").pub_key)


def test_pseudonyms_follow_from_basename_and_count(
    owned: Device, joined: tuple[Credential, Credential]
) -> None:
    def pseudonym(credential: Credential, basename: bytes) -> int:
        signing = sign(owned, credential, basename)
        return signing.finish().pseudonym

    first, second = joined
    assert pseudonym(first, b"one") == pseudonym(first, b"one")
    assert pseudonym(first, b"one") != pseudonym(first, b"two")
    assert pseudonym(first, b"one") != pseudonym(second, b"one")


def test_joining_again_with_the_same_count_gives_the_same_pseudonym(owned: Device) -> None:
    joins = [join(owned, count) for count in (7, 7, 8)]
    for one in joins:
        one.until(16)
        end(owned, one)
    same, again, other = (one.proof.pseudonym for one in joins)
    assert same == again != other


def test_two_sessions_go_on_side_by_side_and_a_third_is_refused(owned: Device) -> None:
    joining = join(owned)
    joining.until(5)
    credential = join(owned, 3).finish()
    signing = sign(owned, credential)
    signing.until(5)
    assert len({joining.handle, signing.handle}) == MAX_SESSIONS
    assert owned.refusal(DaaJoin(0, 0, b"\0\0\0\1", b""), OWNER) == Rc.RESOURCES
    owned.run(PcrRead(0))  # any command may come in between
    assert verifies(the_issuer().key, signing.finish(), DIGEST)
    assert verifies(the_issuer().key, sign(owned, joining.finish()).finish(), DIGEST)


def test_the_last_stage_ends_the_session(
    owned: Device, joined: tuple[Credential, Credential]
) -> None:
    joining, signing = join(owned), sign(owned, joined[0])
    joining.finish()
    signing.finish()
    assert owned.refusal(joining.command(24, b"", b""), OWNER) == Rc.BAD_HANDLE
    assert owned.refusal(signing.command(15, joined[0].v1, b""), OWNER) == Rc.BAD_HANDLE


def test_a_saved_session_goes_on_where_it_was(
    owned: Device, joined: tuple[Credential, Credential]
) -> None:
    joining, signing = join(owned), sign(owned, joined[0])
    for session, position in ((joining, 18), (signing, 11)):
        session.until(position)
        saved = owned.run(SaveContext(session.handle, ResourceType.DAA_TPM, bytes(16)))
        assert loaded_handles(owned.client, ResourceType.DAA_TPM) == ()
        session.handle = owned.run(LoadContext(0, False, saved.context_blob)).handle
        session.finish()
    assert verifies(the_issuer().key, signing.finish(), DIGEST)


def test_capabilities_tell_of_sessions(owned: Device) -> None:
    def number_of(prop: CapProperty) -> int:
        sub_cap = prop.to_bytes(4, "big")
        return number(owned.run(GetCapability(Capability.PROPERTY, sub_cap)).resp)

    joining = join(owned)
    assert number_of(CapProperty.MAX_DAASESS) == number_of(CapProperty.DAASESS) == MAX_SESSIONS
    joining.step()
    assert number_of(CapProperty.DAASESS) == MAX_SESSIONS - 1
    assert loaded_handles(owned.client, ResourceType.DAA_TPM) == (joining.handle,)
    end(owned, joining)
    assert number_of(CapProperty.DAASESS) == MAX_SESSIONS


@pytest.mark.alters
def test_a_start_ends_sessions_and_leaves_credentials(owned: Device) -> None:
    credential, joining = join(owned).finish(), join(owned)
    joining.until(4)
    owned.restart()
    assert owned.refusal(joining.command(3, *joining.inputs(3)), OWNER) == Rc.BAD_HANDLE
    assert verifies(the_issuer().key, sign(owned, credential).finish(), DIGEST)


# --- wrong inputs ------------------------------------------------------------------------------


def data0(value: bytes) -> Change:
    return lambda _, right: (value, right)


def data1(value: bytes) -> Change:
    return lambda right, _: (right, value)


def shorter0(left: bytes, right: bytes) -> tuple[bytes, bytes]:
    return left[:-1], right


def shorter1(left: bytes, right: bytes) -> tuple[bytes, bytes]:
    return left, right[:-1]


def longer0(left: bytes, right: bytes) -> tuple[bytes, bytes]:
    return left + b"\0", right


def flipped0(left: bytes, right: bytes) -> tuple[bytes, bytes]:
    return left[:-1] + bytes([left[-1] ^ 1]), right


def flipped1(left: bytes, right: bytes) -> tuple[bytes, bytes]:
    return left, right[:-1] + bytes([right[-1] ^ 1])


def another_tag(left: bytes, right: bytes) -> tuple[bytes, bytes]:
    return b"\0\0" + left[2:], right


IN0, IN1 = Rc.DAA_INPUT_DATA0, Rc.DAA_INPUT_DATA1
Fault = tuple[int, Change, Rc]  # position of the stage, what is wrong, return code
_BASE_AND_N: Final = ((flipped0, IN0), (flipped1, IN1))
_GAMMA_AND_W: Final = (
    (flipped0, IN0),
    (shorter1, IN1),
    (data1(wide(2)), Rc.DAA_WRONG_W),
)

JOIN_FAULTS: Final[tuple[Fault, ...]] = (
    (1, shorter0, IN0),
    (2, shorter0, IN0),
    (2, shorter1, IN1),
    (2, flipped1, Rc.DAA_ISSUER_VALIDITY),
    (2, flipped0, Rc.DAA_ISSUER_VALIDITY),
    (3, shorter0, IN0),
    (3, longer0, IN0),
    (3, another_tag, IN0),
    (3, shorter1, IN1),
    (3, flipped1, Rc.DAA_ISSUER_VALIDITY),
    (3, flipped0, Rc.DAA_ISSUER_VALIDITY),
    (4, shorter0, IN0),
    (4, longer0, IN0),
    *((position, *fault) for position in (5, 6, 7, 8, 10, 11, 12, 13) for fault in _BASE_AND_N),
    (9, shorter0, IN0),
    (9, data0(bytes(256)), Rc.DECRYPT_ERROR),
    *((14, *fault) for fault in _GAMMA_AND_W),
    (15, flipped0, IN0),
    (16, flipped0, IN0),
    (17, shorter0, IN0),
    (17, longer0, IN0),
    (23, shorter0, IN0),
    (24, shorter0, IN0),
)

SIGN_FAULTS: Final[tuple[Fault, ...]] = (
    (1, shorter0, IN0),
    (1, longer0, IN0),
    (1, flipped0, IN0),
    (1, another_tag, IN0),
    (1, data0(b""), IN0),
    *((position, *fault) for position in (2, 3, 4, 5) for fault in _BASE_AND_N),
    *((6, *fault) for fault in _GAMMA_AND_W),
    (7, flipped0, IN0),
    (8, flipped0, IN0),
    (9, shorter0, IN0),
    (10, data0(b""), IN0),
    (10, data0(b"\1\0"), IN0),
    (10, data0(b"\2"), IN0),
    (10, shorter1, IN1),
    (13, flipped0, IN0),
    (14, shorter0, IN0),
    (15, longer0, IN0),
)


def by_position(faults: tuple[Fault, ...]) -> list[int]:
    return sorted({position for position, _, _ in faults})


def expect_the_end(device: Device, session: Join | Sign, stage: int, rc: int, *data: bytes) -> None:
    """The command is refused with that code, and with it its session ends."""
    assert device.refusal(session.command(stage, *data), OWNER) == rc
    assert device.refusal(session.command(stage, *data), OWNER) == Rc.BAD_HANDLE


@pytest.mark.parametrize("position", by_position(JOIN_FAULTS))
def test_wrong_inputs_end_a_join(owned: Device, position: int) -> None:
    for at, change, rc in JOIN_FAULTS:
        if at == position:
            joining = join(owned)
            joining.until(position)
            stage = max(1, position - 1)
            expect_the_end(owned, joining, stage, rc, *change(*joining.inputs(stage)))


@pytest.mark.parametrize("position", by_position(SIGN_FAULTS))
def test_wrong_inputs_end_a_signature(
    owned: Device, joined: tuple[Credential, Credential], position: int
) -> None:
    for at, change, rc in SIGN_FAULTS:
        if at == position:
            signing = sign(owned, joined[0])
            signing.until(position)
            expect_the_end(owned, signing, position, rc, *change(*signing.inputs(position)))


@pytest.mark.parametrize("wrong", [b"", b"\0\0\1", bytes(5), bytes(4)])
def test_a_join_begins_with_the_length_of_a_key_chain(owned: Device, wrong: bytes) -> None:
    assert owned.refusal(DaaJoin(0, 0, wrong, b""), OWNER) == IN0


@pytest.mark.parametrize("change", [shorter0, longer0, another_tag, data0(b"")])
def test_a_signature_begins_with_an_issuers_settings(owned: Device, change: Change) -> None:
    settings = the_issuer().key.settings.encode()
    assert owned.refusal(DaaSign(0, 0, *change(settings, b"")), OWNER) == IN0


def test_blobs_are_taken_for_what_they_are(
    owned: Device, joined: tuple[Credential, Credential]
) -> None:
    mine, other = joined
    for stage, blob in (
        (1, mine.v0),
        (1, mine.v1),
        (13, mine.v1),
        (13, mine.tpm),
        (13, other.v0),
        (14, other.v0),
        (15, mine.v0),
        (15, other.v1),
    ):
        signing = sign(owned, mine)
        signing.until(stage)
        expect_the_end(owned, signing, stage, IN0, blob, b"")


def test_only_identity_keys_are_signed(
    owned: Device, joined: tuple[Credential, Credential]
) -> None:
    signing_key, srk = owned.load("signing").handle, 0x40000000
    for subject in (
        signing_key.to_bytes(4, "big"),
        srk.to_bytes(4, "big"),
        NO_HANDLE.to_bytes(4, "big"),
        b"\0\0\1",
    ):
        signing = sign(owned, joined[0])
        signing.until(10)
        expect_the_end(owned, signing, 10, IN1, bytes([AIK]), subject)


def test_stages_come_in_order(owned: Device, joined: tuple[Credential, Credential]) -> None:
    for position, stage in ((1, 2), (1, 255), (2, 2), (4, 4), (5, 3), (5, 25), (18, 18), (22, 24)):
        joining = join(owned)
        joining.until(position)
        expect_the_end(owned, joining, stage, Rc.DAA_STAGE, *joining.inputs(stage % 25))
    for position, stage in ((1, 2), (3, 1), (4, 16), (12, 11), (12, 13)):
        signing = sign(owned, joined[0])
        signing.until(position)
        expect_the_end(owned, signing, stage, Rc.DAA_STAGE, *signing.inputs(stage))


def test_a_session_serves_the_command_that_began_it(
    owned: Device, joined: tuple[Credential, Credential]
) -> None:
    for stage in (1, 2, 5):
        signing, joining = sign(owned, joined[0]), join(owned)
        signing.until(stage)
        command = DaaJoin(signing.handle, stage, *joining.inputs(stage))
        assert owned.refusal(command, OWNER) == Rc.DAA_TPM_SETTINGS
        assert owned.refusal(signing.command(stage, b"", b""), OWNER) == Rc.BAD_HANDLE
    joining = join(owned)
    joining.until(6)
    assert owned.refusal(DaaSign(joining.handle, 5, b"", b""), OWNER) == Rc.DAA_TPM_SETTINGS
    joining = join(owned)
    joining.until(3)
    before_settings = owned.expected("signing in a join without settings", Rc.DAA_ISSUER_SETTINGS)
    assert owned.refusal(DaaSign(joining.handle, 2, b"", b""), OWNER) == before_settings


def test_unknown_handles(owned: Device) -> None:
    for stage in (1, 24, 255):
        assert owned.refusal(DaaJoin(NO_HANDLE, stage, b"", b""), OWNER) == Rc.BAD_HANDLE
        assert owned.refusal(DaaSign(NO_HANDLE, stage, b"", b""), OWNER) == Rc.BAD_HANDLE


def test_a_wrong_owner_ends_the_session(
    owned: Device, joined: tuple[Credential, Credential]
) -> None:
    joining, signing = join(owned), sign(owned, joined[0])
    joining.until(4)
    signing.until(4)
    for session, stage in ((joining, 3), (signing, 4)):
        command = session.command(stage, *session.inputs(stage))
        assert owned.refusal(command, WRONG) == Rc.AUTHFAIL
        assert owned.refusal(command, OWNER) == Rc.BAD_HANDLE


def test_a_command_that_is_not_valid_leaves_the_session(owned: Device) -> None:
    joining = join(owned)
    joining.until(4)
    command = joining.command(3, *joining.inputs(3))
    without_session = frame(command.command.ordinal, command.encode() + tails(1), tag=0x00C2)
    assert owned.rc(without_session) == Rc.INVALID_AUTHHANDLE
    after = owned.expected("DAA session after a command in no session", Rc.SUCCESS)
    assert owned.refusal(command, OWNER) == after
    end(owned, joining)


def test_credentials_are_bound_to_their_issuers_settings(
    owned: Device, joined: tuple[Credential, Credential]
) -> None:
    key = the_issuer().key
    strange = replace(key, r0=key.r1)
    signing = Sign(owner_of(owned), strange, joined[0], MESSAGE, DIGEST)
    signing.until(1)
    at_once = owned.expected("DAA secrets of another issuer", Rc.DAA_ISSUER_SETTINGS)
    assert owned.refusal(signing.command(1, *signing.inputs(1)), OWNER) == at_once
    later = Rc.BAD_HANDLE if at_once else Rc.DAA_ISSUER_SETTINGS
    assert owned.refusal(signing.command(2, *signing.inputs(2)), OWNER) == later


@pytest.mark.parametrize(
    ("position", "nothing", "rc"),
    [
        (3, {"generic_q": bytes(26)}, IN0),
        (5, {"digest_n": sha1(wide(0))}, IN1),
        (14, {"digest_gamma": sha1(wide(0))}, IN0),
    ],
    ids=["q", "n", "gamma"],
)
def test_nobody_calculates_modulo_zero(
    owned: Device, position: int, nothing: dict[str, bytes], rc: Rc
) -> None:
    issuer = copy(the_issuer())
    issuer.settings = replace(issuer.settings, **nothing)
    joining = Join(owner_of(owned), issuer, owned.ek)
    joining.until(position)
    inputs = {
        3: joining.inputs(2),
        5: (wide(issuer.key.r0), wide(0)),
        14: (wide(0), wide(joining.proof.base)),
    }[position]
    expected = owned.expected(f"DAA with {next(iter(nothing))} of zero", rc)
    assert owned.refusal(joining.command(position - 1, *inputs), OWNER) == expected
    end(owned, joining)


@pytest.mark.alters  # libtpms goes into failure mode
def test_a_v1_that_is_too_long(owned: Device) -> None:
    joining = join(owned)
    joining.until(24)
    expected = owned.expected("DAA v1 of 193 bytes", IN0)
    assert owned.refusal(joining.command(23, b"\xff" * 192, b""), OWNER) == expected


def test_outputs_have_the_sizes_of_part_2(owned: Device) -> None:
    joining = join(owned)
    joining.finish()
    out = joining.outputs
    assert {stage for stage, data in out.items() if not data} == {1, 2, 3, 4, 5, 6, 9, 10, 11, 13}
    sizes = {0: 4, 7: 256, 8: 20, 12: 256, 16: 20, 19: 128, 20: 20}
    assert {stage: len(out[stage]) for stage in sizes} == sizes
