"""Sessions and their cleanup, against a TPM we did not write with an attacker in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwtpm.client import Tpm, keys, owner, pcr
from hwtpm.errors import BusError, ProtocolError, TpmError, UsageError, VerificationError
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.ownership import OwnerClear
from hwtpm.tpm12.const import KeyHandleValue, ResourceType
from hwtpm.tpm12.frame import build_response, error_response, ordinal_of, parse_response
from hwtpm.tpm12.rc import Rc
from hwtpm.transport import Transport, open_transport
from hwtpm.transport.base import Wrapper

OWNER = Secret.auth_from_text("owner")
READ_SRK = OwnerReadInternalPub(KeyHandleValue.SRK)
READ_SRK_ORDINAL = OwnerReadInternalPub.command.ordinal


class Attacker(Wrapper):
    """Changes the answers to one ordinal."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner)
        self.attack: Callable[[bytes], bytes] | None = None
        self.ordinal = READ_SRK_ORDINAL

    def execute(self, command: bytes) -> bytes:
        response = self._inner.execute(command)
        if self.attack is None or ordinal_of(command) != self.ordinal:
            return response
        return self.attack(response)


@pytest.fixture(scope="module")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacker]:
    transport = open_transport(f"swtpm:{tmp_path_factory.mktemp('tpm')}")
    with Tpm(transport) as tpm:
        owner.create_ek(tpm)
        owner.take_ownership(tpm, OWNER)
        yield Attacker(transport)


@pytest.fixture
def tpm(attacker: Attacker) -> Iterator[Tpm]:
    """The owned TPM; no test may leave a session behind."""
    attacker.attack, attacker.ordinal = None, READ_SRK_ORDINAL
    yield Tpm(attacker)
    attacker.attack = None
    assert keys.loaded_handles(Tpm(attacker), ResourceType.AUTH) == ()


def flip_a_key_byte(response: bytes) -> bytes:
    return response[:60] + bytes([response[60] ^ 1]) + response[61:]


def strip_the_proof(response: bytes) -> bytes:
    return build_response(parse_response(response).body)


def answer_with_success_only(response: bytes) -> bytes:
    return error_response(0)


@pytest.mark.parametrize("attack", [flip_a_key_byte, strip_the_proof, answer_with_success_only])
def test_changed_answer_is_a_verification_error(
    tpm: Tpm, attacker: Attacker, attack: Callable[[bytes], bytes]
) -> None:
    attacker.attack = attack
    with pytest.raises(VerificationError):
        owner.read_srk_as_owner(tpm, OWNER)


def test_answer_that_is_too_short_for_its_reply_is_a_protocol_error(
    tpm: Tpm, attacker: Attacker
) -> None:
    attacker.ordinal = 0x15
    attacker.attack = answer_with_success_only
    with pytest.raises(ProtocolError, match="TPM_PcrRead reply"):
        pcr.read(tpm, 0)


def test_old_answer_played_again_is_refused(tpm: Tpm, attacker: Attacker) -> None:
    kept: list[bytes] = []

    def repeat_the_first(response: bytes) -> bytes:
        kept.append(response)
        return kept[0]

    attacker.attack = repeat_the_first
    with tpm.oiap(OWNER) as session:
        tpm.execute(READ_SRK, session)
        with pytest.raises(VerificationError):
            tpm.execute(READ_SRK, session)


def test_wrong_password_ends_the_session_and_says_what_to_do(tpm: Tpm) -> None:
    with tpm.oiap(Secret.auth_from_text("wrong")) as session:
        with pytest.raises(TpmError) as failure:
            tpm.execute(READ_SRK, session)
        assert failure.value.rc == Rc.AUTHFAIL
        assert "password" in failure.value.hint
        assert not session.open
        with pytest.raises(UsageError, match="ended"):
            tpm.execute(READ_SRK, session)
    owner.reset_lock(tpm, OWNER)


def test_session_is_flushed_when_the_block_raises(tpm: Tpm) -> None:
    def fail() -> None:
        assert keys.loaded_handles(tpm, ResourceType.AUTH)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tpm.osap(2, KeyHandleValue.OWNER, OWNER):
        fail()


def test_failing_flush_does_not_hide_the_first_error(tpm: Tpm, attacker: Attacker) -> None:
    def lose_the_link(_: bytes) -> bytes:
        raise BusError("the link is lost")

    def fail() -> None:
        attacker.ordinal, attacker.attack = 0xBA, lose_the_link
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tpm.oiap(OWNER):
        fail()
    with pytest.raises(BusError), tpm.oiap(OWNER):
        pass


def test_number_of_authorisations_is_checked_before_anything_is_sent(tpm: Tpm) -> None:
    with pytest.raises(UsageError, match="TPM_OwnerClear takes"):
        tpm.execute(OwnerClear())


def test_authdata_of_another_length_is_refused_before_anything_is_sent(tpm: Tpm) -> None:
    with pytest.raises(UsageError, match="20 bytes"):
        tpm.oiap(Secret(b"short"))


def test_one_session_serves_two_owners_commands_by_rekeying(tpm: Tpm) -> None:
    with tpm.oiap(Secret(bytes(20))) as session:
        tpm.execute(READ_SRK, session.keyed(OWNER))
        assert session.open


def test_same_random_numbers_make_the_same_commands(tmp_path: Path) -> None:
    sent: list[bytes] = []

    class Spy(Wrapper):
        def execute(self, command: bytes) -> bytes:
            sent.append(command)
            return self._inner.execute(command)

    with Tpm(Spy(open_transport(f"swtpm:{tmp_path}")), random=bytes) as tpm:
        owner.create_ek(tpm)
        owner.read_ek(tpm)
    assert sent[0][10:30] == bytes(20)
    assert sent[1][10:30] == bytes(20)
