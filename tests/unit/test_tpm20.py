"""The TPM 2.0 language: codes, times, frames, answers that cannot be any."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtpm.errors import HwtpmError, ProtocolError, TpmError, Unsupported, UsageError
from hwtpm.tpm12.commands import TABLE
from hwtpm.tpm20 import commands, rc
from hwtpm.tpm20.const import Code, StartupType, name_of
from hwtpm.tpm20.frame import build, error_response, split
from hwtpm.tpm20.timing import KEYS_S, MEDIUM_S, SHORT_S, UNBOUNDED_S, duration_s
from hwtpm.transport import Deadlines


@pytest.mark.parametrize(
    ("code", "name", "about"),
    [
        (0x000, "TPM_RC_SUCCESS", ""),
        (0x01E, "TPM_RC_BAD_TAG", ""),
        (0x084, "TPM_RC_VALUE", ""),
        (0x18B, "TPM_RC_HANDLE", "handle 1"),
        (0x98E, "TPM_RC_AUTH_FAIL", "session 1"),
        (0xA8E, "TPM_RC_AUTH_FAIL", "session 2"),
        (0x2C4, "TPM_RC_VALUE", "parameter 2"),
        (0x101, "TPM_RC_FAILURE", ""),
        (0x922, "TPM_RC_RETRY", ""),
        (0x57F, "TPM_RC 0x57f", ""),
    ],
)
def test_a_code_is_named_with_what_it_is_about(code: int, name: str, about: str) -> None:
    named, meaning, _ = rc.describe(code)
    assert named == name
    assert meaning.startswith(f"{about}: " if about else "")
    assert rc.error(code, "TPM2_X").rc == code


@given(st.integers(0, 0xFFFFFFFF))
def test_every_number_has_a_description(code: int) -> None:
    name, meaning, _ = rc.describe(code)
    assert name
    assert meaning


def test_durations_are_by_command_and_of_this_family_only() -> None:
    assert duration_s(Code.STARTUP) == SHORT_S
    assert duration_s(Code.GET_RANDOM) == MEDIUM_S
    assert duration_s(Code.CREATE_PRIMARY) == KEYS_S
    assert duration_s(Code.SIGN) == UNBOUNDED_S
    assert duration_s(0x20000001) == UNBOUNDED_S
    assert [row.ordinal for row in TABLE if duration_s(row.ordinal) is not None] == []


def test_deadlines_are_never_below_the_durations() -> None:
    for code in Code:
        bound_s = duration_s(code)
        assert bound_s is not None
        assert Deadlines().of(build(code)) >= bound_s
    hasty = Deadlines(short_s=0.1, medium_s=0.1, long_s=1)
    assert hasty.of(build(Code.STARTUP)) == SHORT_S
    assert hasty.of(build(Code.GET_RANDOM)) == MEDIUM_S
    assert hasty.of(build(Code.CREATE)) == 1


def test_names() -> None:
    assert name_of(0x17B) == "TPM2_GET_RANDOM"
    assert name_of(0x20000001) == "TPM2_CC 0x20000001"


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (b"", ProtocolError),
        (bytes.fromhex("8001 0000000b 00000000"), ProtocolError),
        (bytes.fromhex("8005 0000000a 00000000"), ProtocolError),
        (bytes.fromhex("00c4 0000000a 0000001e"), Unsupported),
    ],
)
def test_what_is_no_response_of_a_tpm_20(frame: bytes, error: type[HwtpmError]) -> None:
    with pytest.raises(error):
        split(frame)


def test_startup_tells_whether_it_was_needed() -> None:
    assert commands.startup(lambda _: error_response(0), StartupType.CLEAR)
    assert not commands.startup(lambda _: error_response(rc.Rc.INITIALIZE), StartupType.CLEAR)
    with pytest.raises(TpmError, match="TPM_RC_FAILURE"):
        commands.startup(lambda _: error_response(rc.Rc.FAILURE), StartupType.CLEAR)


def test_a_chip_that_says_more_for_ever_is_not_asked_for_ever() -> None:
    body = struct.pack(">BIII", 1, 1, 1, 0x80000000)
    response = struct.pack(">HII", 0x8001, 10 + len(body), 0) + body
    asked: list[bytes] = []

    def execute(command: bytes) -> bytes:
        asked.append(command)
        return response

    assert commands.open_handles(execute)
    assert len(asked) < 200


READERS: list[Callable[[commands.Execute], object]] = [
    commands.info,
    commands.read_pcrs,
    commands.open_handles,
    commands.test_result,
    lambda execute: commands.get_random(execute, 40),
]


@pytest.mark.parametrize("read", READERS)
@given(body=st.binary(max_size=80))
def test_a_garbled_answer_is_an_error_of_ours(
    read: Callable[[commands.Execute], object], body: bytes
) -> None:
    response = struct.pack(">HII", 0x8001, 10 + len(body), 0) + body
    try:
        read(lambda _: response)
    except ProtocolError:
        return
    assert body


@pytest.mark.parametrize("count", [0, -1, commands.MAX_RANDOM + 1])
def test_random_numbers_have_a_limit(count: int) -> None:
    with pytest.raises(UsageError):
        commands.get_random(lambda _: b"", count)


def test_pcrs_have_a_limit() -> None:
    with pytest.raises(UsageError, match="no PCR 24"):
        commands.read_pcrs(lambda _: b"", [24])
