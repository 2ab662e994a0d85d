"""The manager's wire protocol, both sides, against frames written out by hand."""

from __future__ import annotations

import pytest

from hwtpm.errors import (
    HwtpmError,
    ProtocolError,
    Refused,
    StateError,
    TpmError,
    Unsupported,
    UsageError,
)
from hwtpm.tpm12.types import PcrSelection
from vstack.vtpmmgr.protocol import (
    GetBootHash,
    LoadHashKey,
    ManagerClient,
    PassPcrRead,
    PassRandom,
    QuoteFlag,
    QuoteRequest,
    Refusal,
    SaveHashKey,
    decode_request,
    encode_hash_key,
    encode_request,
)


def frame(tag: int, code: int, body: bytes = b"") -> bytes:
    return (
        tag.to_bytes(2, "big") + (10 + len(body)).to_bytes(4, "big") + code.to_bytes(4, "big")
    ) + body


NONCE = bytes(range(20))
QUOTE_BODY = NONCE + bytes.fromhex("0003 010080") + bytes.fromhex("00000005")

REQUESTS = [
    (frame(0x1C1, 1, b"k" * 64), SaveHashKey(b"k" * 64)),
    (frame(0x1C1, 1, b"k" * 52), SaveHashKey(b"k" * 52)),
    (frame(0x1C1, 2), LoadHashKey()),
    (frame(0x1C1, 3), GetBootHash()),
    (frame(0x1C1, 4, QUOTE_BODY), QuoteRequest(NONCE, PcrSelection.of([0, 23]), QuoteFlag(5))),
    (frame(0xC1, 70, bytes.fromhex("00000014")), PassRandom(20)),
    (frame(0xC1, 21, bytes.fromhex("00000011")), PassPcrRead(17)),
]


@pytest.mark.parametrize(("wire", "request_"), REQUESTS)
def test_requests_decode_and_encode(wire: bytes, request_: object) -> None:
    assert decode_request(wire) == request_
    assert encode_request(request_) == wire  # type: ignore[arg-type]


REFUSED = {
    "empty": (b"", 0xC4, 3),
    "nine bytes": (frame(0x1C1, 2)[:9], 0xC4, 3),
    "size field too large": (b"\x01\xc1\x00\x00\x00\x0b\x00\x00\x00\x02", 0x1C4, 3),
    "51 byte secret": (frame(0x1C1, 1, bytes(51)), 0x1C4, 3),
    "65 byte secret": (frame(0x1C1, 1, bytes(65)), 0x1C4, 3),
    "load with a body": (frame(0x1C1, 2, b"x"), 0x1C4, 3),
    "boot hash with a body": (frame(0x1C1, 3, b"x"), 0x1C4, 3),
    "quote cut off": (frame(0x1C1, 4, QUOTE_BODY[:-1]), 0x1C4, 3),
    "quote with unknown flag": (frame(0x1C1, 4, QUOTE_BODY[:-1] + b"\x10"), 0x1C4, 5),
    "quote of PCR 24": (
        frame(0x1C1, 4, NONCE + bytes.fromhex("0004 00000001 00000000")),
        0x1C4,
        16,
    ),
    "unknown ordinal": (frame(0x1C1, 5), 0x1C4, 10),
    "management": (frame(0x1C2, 0x02000101), 0x1C5, 1),
    "pass-through of extend": (frame(0xC1, 20, bytes(24)), 0xC4, 8),
    "pass-through of PCR reset": (frame(0xC1, 200, bytes(5)), 0xC4, 8),
    "authorised pass-through": (frame(0xC2, 22, bytes(60)), 0xC5, 8),
    "random of 15 bytes": (frame(0xC1, 70, bytes(5)), 0xC4, 3),
    "unknown tag": (frame(0x777, 1), 0x77A, 30),
    "largest tag": (frame(0xFFFF, 1), 2, 30),
}


@pytest.mark.parametrize(("wire", "tag", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_requests_get_the_reference_status_and_tag(wire: bytes, tag: int, status: int) -> None:
    refusal = decode_request(wire)
    assert isinstance(refusal, Refusal)
    assert refusal.encode() == frame(tag, status)


def test_a_quote_selection_has_one_form_whatever_its_size() -> None:
    short = decode_request(frame(0x1C1, 4, NONCE + bytes.fromhex("0001 01 00000000")))
    long = decode_request(frame(0x1C1, 4, NONCE + bytes.fromhex("0005 0100000000 00000000")))
    assert isinstance(short, QuoteRequest)
    assert short == long
    assert short.selection.encode() == bytes.fromhex("0003 010000")


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        (b"a" * 52, b"a" * 52),
        (b"a" * 60, b"a" * 60 + bytes(4)),
        (b"a" * 64, b"a" * 64),
        (b"a" * 52 + bytes(12), b"a" * 52),
    ],
)
def test_load_answers_64_bytes_only_if_the_tail_is_not_zero(saved: bytes, loaded: bytes) -> None:
    assert encode_hash_key(saved) == frame(0x1C4, 0, loaded)


def answering(answer: bytes) -> ManagerClient:
    return ManagerClient(lambda request: answer)


def test_only_status_3_means_that_the_manager_knows_no_such_vtpm() -> None:
    assert answering(frame(0x1C4, 3)).load_hash_key() is None
    for status in (1, 2, 5, 7, 8, 9, 10, 0x800):
        with pytest.raises(HwtpmError):
            answering(frame(0x1C4, status)).load_hash_key()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (1, Refused),
        (3, UsageError),
        (7, Refused),
        (8, Unsupported),
        (9, StateError),
        (10, Unsupported),
        (28, TpmError),
    ],
)
def test_each_status_of_a_save_is_an_error_of_its_own_kind(
    status: int, error: type[HwtpmError]
) -> None:
    with pytest.raises(error, match=rf"SAVEHASHKEY.*\({status}\)|SAVEHASHKEY.*{status:#x}"):
        answering(frame(0x1C4, status)).save_hash_key(bytes(64))


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x01", frame(0x1C4, 0, b"x"), frame(0xC4, 0), frame(0x1C4, 9, b"x"), frame(0x1C5, 3)],
)
def test_malformed_answers_are_protocol_errors(answer: bytes) -> None:
    client = answering(answer)
    with pytest.raises(ProtocolError):
        client.load_hash_key()
    with pytest.raises(ProtocolError):
        client.get_quote(bytes(20))
    with pytest.raises(ProtocolError):
        client.random(4)


def test_random_goes_on_until_it_has_all_bytes() -> None:
    def give_three(request: bytes) -> bytes:
        count = min(3, int.from_bytes(request[10:], "big"))
        return frame(0xC4, 0, count.to_bytes(4, "big") + b"r" * count)

    assert ManagerClient(give_three).random(8) == b"r" * 8


def test_a_secret_of_the_wrong_size_is_not_sent() -> None:
    def never(request: bytes) -> bytes:
        raise AssertionError

    with pytest.raises(UsageError):
        ManagerClient(never).save_hash_key(bytes(51))
    with pytest.raises(UsageError):
        ManagerClient(never).get_quote(bytes(19))
    with pytest.raises(UsageError):
        ManagerClient(never).get_quote(bytes(20), [24])
