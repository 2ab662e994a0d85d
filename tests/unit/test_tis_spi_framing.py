"""SPI framing: headers as published, wait states, what a capture decodes to, bad wiring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtpm.errors import ProtocolError, UsageError
from hwtpm.tis.registers import (
    ACCESS,
    DATA_FIFO,
    DID_VID,
    HASH_START,
    LOCALITIES,
    REGISTERS,
    STS,
    Register,
    address_of,
)
from hwtpm.tis_spi.framing import (
    HEADER_SIZE,
    MAX_TRANSFER,
    Header,
    Transaction,
    data_start,
    decode_header,
    decode_transaction,
    read_data,
    transfer_limit,
)
from hwtpm.tis_spi.quirks import IDENTITIES
from hwtpm.tis_spi.wiring import (
    ALL_ONES,
    ALL_ZEROS,
    EARLY_DESELECT,
    HALVES_SWAPPED,
    ONE_BIT_EARLY,
    ONE_BIT_LATE,
    WORDS_SWAPPED,
    Wiring,
    diagnose,
)

headers = st.builds(
    Header,
    st.booleans(),
    st.integers(0, LOCALITIES * 0x1000 - 1),
    st.integers(1, MAX_TRANSFER),
)
SLB9670 = bytes.fromhex("d1 15 1b 00")


@pytest.mark.parametrize(
    ("header", "wire"),
    [
        (Header(True, address_of(DID_VID, 0), 4), "83 d4 0f 00"),
        (Header(True, address_of(ACCESS, 0), 1), "80 d4 00 00"),
        (Header(False, address_of(ACCESS, 2), 1), "00 d4 20 00"),
        (Header(True, address_of(STS, 0), 4), "83 d4 00 18"),
        (Header(False, address_of(DATA_FIFO, 0), 64), "3f d4 00 24"),
        (Header(False, address_of(HASH_START, 4), 1), "00 d4 40 28"),
    ],
)
def test_headers_are_those_of_the_bit_protocol(header: Header, wire: str) -> None:
    assert header.encode() == bytes.fromhex(wire)
    assert decode_header(bytes.fromhex(wire)) == header


@given(headers)
def test_headers_survive_the_wire_and_never_set_bit_6(header: Header) -> None:
    wire = header.encode()
    assert len(wire) == HEADER_SIZE
    assert not wire[0] & 0x40
    assert decode_header(wire) == header


@given(st.binary(max_size=6))
def test_whatever_decodes_encodes_to_the_same_bytes(raw: bytes) -> None:
    try:
        header = decode_header(raw)
    except ProtocolError:
        return
    assert header.encode() == raw


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param("c3 d4 0f 00", id="bit 6, as coreboot's first driver set it"),
        pytest.param("83 d5 0f 00", id="not the TPM's address space"),
        pytest.param("83 d4 50 00", id="locality 5"),
        pytest.param("83 01 00 00", id="0x010000"),
        pytest.param("83 d4 0f", id="three bytes"),
    ],
)
def test_what_a_tpm_ignores_is_no_header(wire: str) -> None:
    with pytest.raises(ProtocolError, match="SPI header"):
        decode_header(bytes.fromhex(wire))


@pytest.mark.parametrize(("address", "size"), [(0, 0), (0, 65), (LOCALITIES * 0x1000, 1), (-1, 1)])
def test_no_header_says_that(address: int, size: int) -> None:
    with pytest.raises(UsageError):
        Header(True, address, size)


def test_a_host_stays_within_the_chips_limit() -> None:
    fifo = address_of(DATA_FIFO, 0)
    assert Header.within(False, fifo, 32, limit=32).size == 32
    with pytest.raises(UsageError, match="33 bytes: the chip takes 32"):
        Header.within(False, fifo, 33, limit=32)


@pytest.mark.parametrize("register", [r for r in REGISTERS if not r.is_fifo], ids=lambda r: r.name)
def test_a_host_never_crosses_a_registers_end(register: Register) -> None:
    address = address_of(register, register.locality or 0)
    assert Header.within(True, address, register.size).register is register
    with pytest.raises(UsageError, match=register.name):
        Header.within(True, address, register.size + 1)


@pytest.mark.parametrize(("announced", "limit"), [(0, 4), (8, 8), (32, 32), (64, 64)])
def test_transfer_limit_of_what_a_chip_announces(announced: int, limit: int) -> None:
    assert transfer_limit(announced) == limit


@given(st.binary(min_size=1, max_size=64), st.lists(st.integers(0, 127), max_size=9), st.binary())
def test_data_follow_the_first_ready_byte(data: bytes, waits: list[int], after: bytes) -> None:
    captured = bytes(2 * wait for wait in waits) + b"\x01" + data + after
    assert data_start(captured) == len(waits) + 1
    assert read_data(captured, len(data)) == data


@given(st.binary(min_size=1, max_size=8))
def test_a_header_that_lies_is_not_believed(data: bytes) -> None:
    captured = b"\x01" + b"\x00\x00\x01" + data
    assert read_data(captured, len(data), trust_header=False) == data


@pytest.mark.parametrize("captured", [b"", bytes(5), b"\x01\xd1\x15\x1b", b"\x00\x00\x01\xd1"])
def test_a_capture_that_is_too_short_has_no_data(captured: bytes) -> None:
    assert read_data(captured, 4) is None


def test_a_captured_read_decodes() -> None:
    mosi = bytes.fromhex("83 d4 0f 00  00 00  00 00 00 00")
    miso = bytes.fromhex("00 00 00 00  00 01  d1 15 1b 00")
    decoded = decode_transaction(mosi, miso)
    assert decoded == Transaction(Header(True, address_of(DID_VID, 0), 4), 2, SLB9670)
    assert decoded.complete


def test_a_captured_write_decodes_whatever_was_sent_meanwhile() -> None:
    miso = bytes.fromhex("00 00 00 00  01  ff")
    for meanwhile in ("00", "40"):
        mosi = bytes.fromhex(f"00 d4 00 18  {meanwhile}  40")
        assert decode_transaction(mosi, miso).data == b"\x40"


def test_a_transaction_that_ended_early_decodes_as_far_as_it_went() -> None:
    mosi, miso = bytes.fromhex("83 d4 0f 00 00 00"), bytes.fromhex("00 00 00 01 d1 15")
    decoded = decode_transaction(mosi, miso)
    assert (decoded.data, decoded.complete) == (b"\xd1\x15", False)
    never_ready = decode_transaction(mosi, bytes(6))
    assert (never_ready.waits, never_ready.data) == (2, b"")


def test_lines_of_different_length_are_no_capture() -> None:
    with pytest.raises(ProtocolError, match="4 bytes on MOSI, 3 on MISO"):
        decode_transaction(bytes(4), bytes(3))


def moved(data: bytes, shift: int, filler: int) -> bytes:
    """`data` as it is seen `shift` bits late (or early, if negative)."""
    bits = "".join(f"{byte:08b}" for byte in data)
    bits = f"{filler}{bits[:-1]}" if shift > 0 else f"{bits[1:]}{filler}"
    return int(bits, 2).to_bytes(len(data), "big")


identities = st.sampled_from([identity for identity in IDENTITIES if len(identity) == 4])


@pytest.mark.parametrize(
    ("seen", "wiring"),
    [
        ("ff ff ff ff", ALL_ONES),
        ("ff ff ff ff ff ff ff ff", ALL_ONES),
        ("00 00 00 00", ALL_ZEROS),
        ("00 00 00 01", EARLY_DESELECT),
        ("00 00 00 01 00 00 00 01", EARLY_DESELECT),
        ("00 00 00 ff", EARLY_DESELECT),
        ("d1 15 1b 00", None),
        ("00 00 00 00 00 01 d1 15 1b 00", None),
        ("00 1b 15 d1", WORDS_SWAPPED),
        ("15 d1 00 1b", HALVES_SWAPPED),
        ("12 34 56 78", None),
    ],
)
def test_what_a_read_of_did_vid_shows(seen: str, wiring: Wiring | None) -> None:
    assert diagnose(bytes.fromhex(seen)) is wiring


@given(
    identities,
    st.sampled_from([(1, ONE_BIT_LATE), (-1, ONE_BIT_EARLY)]),
    st.integers(0, 1),
    st.integers(0, 4),
)
def test_a_shifted_identity_is_recognised(
    identity: bytes, fault: tuple[int, Wiring], filler: int, waits: int
) -> None:
    shift, wiring = fault
    assert diagnose(moved(identity, shift, filler)) is wiring
    whole = bytes(3 + waits) + b"\x01" + identity
    assert diagnose(moved(whole, shift, filler)) is wiring


@given(st.sampled_from(IDENTITIES), st.binary(min_size=2, max_size=2), st.integers(0, 4))
def test_no_chip_that_is_known_has_bad_wiring(identity: bytes, device: bytes, waits: int) -> None:
    register = (identity + device)[:4]
    assert diagnose(register) is None
    assert diagnose(bytes(3 + waits) + b"\x01" + register) is None


def test_too_little_is_not_judged() -> None:
    with pytest.raises(UsageError):
        diagnose(b"\xff")
