"""MPSSE programs byte by byte, and what is made of their answers."""

from __future__ import annotations

import re

import pytest

from hwtpm.errors import BusError
from hwtpm.tis_spi.bus import AwaitIrq, Captured, Pause, Step, Transfer
from hwtpm.tis_spi.mpsse import Encoder, Wires, marked, results, unmarked

GET_ID = Transfer(bytes.fromhex("83d40f00"), size=4)
PUT = Transfer(bytes.fromhex("01d40024"), b"\x12\x34")
PLAIN = Encoder(Wires(irq=5), 16, 10e6)


def spaced(code: bytes) -> str:
    return code.hex(" ")


@pytest.mark.parametrize(
    ("steps", "code", "answers", "clocks"),
    [
        ([GET_ID], "80000b 110200 83d40f 310000 00 200300 80080b", 5, 64),
        ([PUT], "80000b 110200 01d400 310000 24 110100 1234 80080b", 1, 48),
        ([Transfer(GET_ID.header)], "80000b 110200 83d40f 310000 00 80080b", 1, 32),
        ([Pause(0.0)], "", 0, 0),
        ([Pause(1e-6)], "8f0100", 0, 16),
        ([Pause(0.0001)], "8f7c00", 0, 1000),
        ([Pause(0.065536)], "8fffff 8fff3f", 0, 655360),
        ([AwaitIrq(0.5)], "89", 0, 0),
    ],
)
def test_batches(steps: list[Step], code: str, answers: int, clocks: int) -> None:
    program = PLAIN.batch(steps)
    assert spaced(program.code) == spaced(bytes.fromhex(code))
    assert program.answers == answers
    assert program.duration_s == pytest.approx(clocks / 10e6)
    assert program.awaits_s == sum(step.timeout_s for step in steps if isinstance(step, AwaitIrq))
    twice = PLAIN.batch([*steps, *steps])
    assert (twice.code, twice.answers) == (2 * program.code, 2 * answers)


def test_one_select_in_pieces() -> None:
    opening = PLAIN.opening(GET_ID.header, bytes(4))
    assert spaced(opening.code) == spaced(
        bytes.fromhex("80000b 110200 83d40f 310000 00 310300 00000000")
    )
    assert (opening.answers, opening.duration_s) == (5, pytest.approx(64 / 10e6))
    more = PLAIN.more(b"\x01\x02")
    assert (spaced(more.code), more.answers) == ("31 01 00 01 02", 2)
    assert spaced(PLAIN.closing(b"\x05").code) == "11 00 00 05 80 08 0b"
    assert spaced(PLAIN.closing(b"").code) == "80 08 0b"


@pytest.mark.parametrize(
    ("wires", "width", "idle", "select", "reset"),
    [
        (Wires(), 8, "80 08 0b", "80 00 0b", ""),
        (Wires(), 16, "80 08 0b 82 00 00", "80 00 0b", ""),
        (Wires(cs=7, reset=4), 8, "80 80 83", "80 00 83", "80 80 93"),
        (Wires(reset=9), 16, "80 08 0b 82 00 00", "80 00 0b", "80 08 0b 82 00 02"),
        (Wires(cs=15), 16, "80 00 03 82 80 80", "82 00 80", ""),
    ],
)
def test_pins(wires: Wires, width: int, idle: str, select: str, reset: str) -> None:
    encoder = Encoder(wires, width, 30e6)
    assert spaced(encoder.setup) == f"8a 8d 97 85 86 00 00 {idle}"
    assert spaced(encoder.select) == select
    assert spaced(encoder.hold_reset) == reset
    assert spaced(encoder.free_reset) == (idle if reset else "")
    assert spaced(encoder.let_go) == ("80 00 00" if width == 8 else "80 00 00 82 00 00")


@pytest.mark.parametrize(
    ("hz", "divisor"), [(30e6, 0), (99e6, 0), (29.9e6, 1), (10e6, 2), (1e6, 29), (458, 65502)]
)
def test_divisors(hz: float, divisor: int) -> None:
    encoder = Encoder(Wires(), 8, hz)
    assert encoder.setup[5:7] == divisor.to_bytes(2, "little")
    assert encoder.sck_hz == 30e6 / (divisor + 1)


def test_answers_belong_to_their_transfers() -> None:
    steps = [PUT, Pause(0.1), GET_ID, PUT, AwaitIrq(1.0), GET_ID]
    assert results(steps, bytes(range(12))) == [
        Captured(0, b""),
        Captured(1, b"\x02\x03\x04\x05"),
        Captured(6, b""),
        Captured(7, b"\x08\x09\x0a\x0b"),
    ]


def test_a_mark_ends_the_answers() -> None:
    assert marked(b"\x81", 0xAB) == b"\x81\xab\x87"
    assert unmarked(b"\x01\x02\xfa\xab", 2, 0xAB) == b"\x01\x02"
    assert unmarked(b"\xfa\xab", 0, 0xAB) == b""


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        ("", "4 bytes: 0 came"),
        ("0102fa", "4 bytes: 3 came"),
        ("0102faaa", r"must; it may have refused a command \(fa aa\)"),
        ("01fa2502", r"refused a command \(fa 25\)"),
        ("01020304", "ending as they must$"),
        ("0102faab00", "5 came"),
    ],
)
def test_other_answers_are_not_believed(reply: str, complaint: str) -> None:
    with pytest.raises(BusError) as caught:
        unmarked(bytes.fromhex(reply), 2, 0xAB)
    assert re.search(complaint, caught.value.message)
