"""Wrappers: retry, trace with redaction, record and replay."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtpm.client import Tpm, keys, nv, owner, pcr, seal
from hwtpm.clock import FakeClock
from hwtpm.errors import BusError, DeviceNotFound, StateError, Timeout, UsageError
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.identity import ActivateIdentityReply
from hwtpm.tpm12.const import NvPermission
from hwtpm.tpm12.frame import build_request, build_response, error_response
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import SymmetricKey
from hwtpm.transport import Attached, open_transport
from hwtpm.transport.redact import command_text, response_text
from hwtpm.transport.replay import Record, Replay
from hwtpm.transport.retry import Retry
from hwtpm.transport.trace import LOGGER, TRAFFIC, Trace

READ_PCR = build_request(0x15, bytes(4))
SELF_TEST = build_request(0x53, b"")
ANSWER = build_response(bytes(20))


class Scripted:
    """Answers from a list and keeps what was sent."""

    attached = Attached("dev:/dev/tpm0", "dev", True, "a chip")

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []
        self.closed = 0

    def execute(self, command: bytes) -> bytes:
        self.sent.append(command)
        return self.answers.pop(0)

    def close(self) -> None:
        self.closed += 1


# --- retry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [Rc.RETRY, Rc.DOING_SELFTEST])
def test_busy_tpm_is_asked_again_with_growing_pauses(busy: Rc) -> None:
    inner, clock = Scripted(*[error_response(busy)] * 3, ANSWER), FakeClock()
    assert Retry(inner, clock=clock).execute(READ_PCR) == ANSWER
    assert inner.sent == [READ_PCR] * 4
    assert clock.slept_s == sorted(set(clock.slept_s))


def test_tpm_that_needs_its_self_test_is_told_to_run_it() -> None:
    inner = Scripted(error_response(Rc.NEEDS_SELFTEST), error_response(Rc.FAIL), ANSWER)
    assert Retry(inner, clock=FakeClock()).execute(READ_PCR) == ANSWER
    assert inner.sent == [READ_PCR, SELF_TEST, READ_PCR]


def test_tpm_that_stays_busy_is_a_timeout_within_the_limit() -> None:
    class Busy(Scripted):
        def execute(self, command: bytes) -> bytes:
            return error_response(Rc.RETRY)

    clock = FakeClock()
    with pytest.raises(Timeout, match="still answers TPM_PcrRead with TPM_RETRY after 3 s"):
        Retry(Busy(), limit_s=3, clock=clock).execute(READ_PCR)
    assert clock.now() <= 3


@pytest.mark.parametrize("final", [Rc.AUTHFAIL, Rc.DEFEND_LOCK_RUNNING, Rc.FAIL, Rc.RESOURCES])
def test_other_refusals_are_never_repeated(final: Rc) -> None:
    inner = Scripted(error_response(final))
    assert Retry(inner, clock=FakeClock()).execute(READ_PCR) == error_response(final)
    assert inner.sent == [READ_PCR]


def test_wrappers_pass_identity_and_close_through() -> None:
    inner = Scripted()
    wrapped = Retry(Trace(inner))
    assert wrapped.attached is inner.attached
    wrapped.close()
    assert inner.closed == 1


# --- trace and redaction ---------------------------------------------------------------------


def test_trace_names_times_and_shows_both_directions(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(TRAFFIC, LOGGER)
    Trace(Scripted(ANSWER), clock=FakeClock()).execute(READ_PCR)
    sent, answered = [record.getMessage() for record in caplog.records]
    assert sent == "dev:/dev/tpm0 > TPM_PcrRead: " + READ_PCR.hex(" ")
    assert answered == ("dev:/dev/tpm0 < TPM_PcrRead TPM_SUCCESS in 0.000 ms: " + ANSWER.hex(" "))


def test_trace_notes_that_there_was_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    class Lost(Scripted):
        def execute(self, command: bytes) -> bytes:
            raise BusError("lost")

    caplog.set_level(TRAFFIC, LOGGER)
    with pytest.raises(BusError):
        Trace(Lost()).execute(READ_PCR)
    assert caplog.records[-1].getMessage().endswith("no answer (bus)")


def test_trace_says_nothing_above_its_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    Trace(Scripted(ANSWER)).execute(READ_PCR)
    assert not caplog.records


def test_fields_declared_secret_are_masked_and_their_neighbours_are_not() -> None:
    reply = ActivateIdentityReply(SymmetricKey(6, 4, b"\xabKEY-KEY-KEY\xcd"))
    text = response_text(build_request(0x7A, b""), build_response(reply.encode()))
    head = build_response(reply.encode())[:16].hex(" ")
    assert text == head + " xx" * (len(reply.encode()) - 6)


def test_bodies_without_declaration_are_masked_whole() -> None:
    operator_auth = build_request(0x74, b"OPERATOR-AUTHORISATI")
    assert command_text(operator_auth) == operator_auth[:10].hex(" ") + " xx" * 20
    unknown = build_request(0x7FFFFFFF, b"who knows")
    assert command_text(unknown) == unknown[:10].hex(" ") + " xx" * 9


def test_bodies_that_do_not_decode_are_masked_whole() -> None:
    broken = build_request(0x15, b"abc")
    assert command_text(broken) == broken[:10].hex(" ") + " xx" * 3
    trailing = build_request(0x15, bytes(5))
    assert command_text(trailing) == trailing[:10].hex(" ") + " xx" * 5


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_redaction_takes_any_bytes_and_keeps_their_number(command: bytes, response: bytes) -> None:
    assert len(command_text(command).split()) == len(command)
    assert len(response_text(command, response).split()) == len(response)


# --- record and replay -----------------------------------------------------------------------


def counting() -> Callable[[int], bytes]:
    state = iter(range(1 << 20))
    return lambda count: bytes(next(state) % 256 for _ in range(count))


def life(tpm: Tpm) -> list[object]:
    """Authorised commands, so that replaying needs the same nonces."""
    auth = Secret.auth_from_text("owner")
    ek = owner.create_ek(tpm)
    srk = owner.read_ek(tpm)
    value = pcr.extend(tpm, 3, bytes(20))
    with tpm.oiap(auth) as session:
        return [ek, srk, value, session.handle, keys.loaded_handles(tpm, 2)]


def test_recording_plays_again_without_the_tpm(tmp_path: Path) -> None:
    path = tmp_path / "life.jsonl"
    recorder = Record(open_transport("libtpms:"), path)
    with Tpm(recorder, random=counting()) as tpm:
        recorded = life(tpm)
    assert path.stat().st_mode & 0o777 == 0o600
    with Tpm(open_transport(f"replay:{path}"), random=counting()) as tpm:
        assert life(tpm) == recorded
        assert tpm.attached == Attached(
            f"replay:{path}", "replay", False, "a recording of libtpms:"
        )


def test_recording_keeps_what_led_to_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    recorder = Record(Scripted(ANSWER), path)
    recorder.execute(READ_PCR)
    head, exchange = [json.loads(line) for line in path.read_text().splitlines()]
    recorder.close()
    assert head == {
        "schema": "hwtpm.record/1",
        "on": "dev:/dev/tpm0",
        "backend": "dev",
        "real_hardware": True,
        "detail": "a chip",
    }
    assert exchange == {"command": READ_PCR.hex(), "response": ANSWER.hex()}


def recording(tmp_path: Path, *commands: bytes) -> Replay:
    path = tmp_path / "r.jsonl"
    recorder = Record(Scripted(*[ANSWER] * len(commands)), path)
    for command in commands:
        recorder.execute(command)
    recorder.close()
    return Replay(f"replay:{path}", path)


def test_replay_refuses_another_order_other_bytes_and_more(tmp_path: Path) -> None:
    other = build_request(0x15, bytes(3) + b"\1")
    replay = recording(tmp_path, READ_PCR, other)
    with pytest.raises(UsageError, match=r"command 1 is TPM_PcrRead .* differ from byte 13 on"):
        replay.execute(other)
    assert replay.execute(READ_PCR) == ANSWER
    assert replay.remaining == 1
    assert replay.execute(other) == ANSWER
    with pytest.raises(UsageError, match="ends after 2 commands, then came TPM_PcrRead"):
        replay.execute(READ_PCR)


def test_recording_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("precious")
    with pytest.raises(UsageError, match="there already"):
        Record(Scripted(), tmp_path / "r.jsonl")
    assert (tmp_path / "r.jsonl").read_text() == "precious"


HEAD = '{"schema":"hwtpm.record/1","on":"x","backend":"x","real_hardware":false,"detail":""}'


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "line 1"),
        ("garbage", "line 1"),
        ("[]", "line 1"),
        ("\xff", "line 1"),
        (HEAD.replace("record/1", "record/2"), "hwtpm.record/2"),
        (HEAD + '\n{"command":"00"}', "line 2"),
        (HEAD + '\n{"command":"00c1","response":"00c4"}', "line 2"),
        (HEAD + f'\n{{"command":"{READ_PCR.hex()}","response":"zz"}}', "line 2"),
        (HEAD + "\n\n", "line 2"),
    ],
)
def test_what_is_no_recording_is_a_state_error_that_says_where(
    tmp_path: Path, text: str, where: str
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(StateError, match=where) as failure:
        open_transport(f"replay:{path}")
    assert str(path) in failure.value.message


def test_missing_recording_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFound, match="no recording"):
        open_transport(f"replay:{tmp_path / 'none'}")


def test_no_secret_of_a_whole_run_is_in_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(TRAFFIC, LOGGER)
    secret, auth = Secret(b"the disk encryption key"), Secret.auth_from_text("owner")
    area_auth = Secret.auth_from_text("area")
    with Tpm(Trace(open_transport("libtpms:"))) as tpm:
        nv.define(tpm, 0x1000, len(secret), NvPermission.OWNERWRITE, area_auth=area_auth)
        nv.write(tpm, 0x1000, secret.reveal())
        owner.create_ek(tpm)
        owner.take_ownership(tpm, auth)
        blob = seal.seal(tpm, keys.srk(), secret, auth)
        assert seal.unseal(tpm, keys.srk(), blob, auth) == secret
    assert len(caplog.records) > 10
    for value in (secret, auth, area_auth):
        assert value.reveal().hex(" ") not in caplog.text
