"""The tpmif page byte by byte, and the ring's refusals."""

from __future__ import annotations

import pytest

from hwtpm.errors import Busy, ProtocolError, UsageError
from vstack.xen.ring import CAPACITY, PAGE_SIZE, BackRing, Cancelled, FrontRing, Request


@pytest.fixture
def page() -> bytearray:
    return bytearray(PAGE_SIZE)


def test_submitted_page_has_the_layout_of_linux_and_mini_os(page: bytearray) -> None:
    FrontRing(memoryview(page)).submit(b"\x00\xc1\x00\x00\x00\x0a\x00\x00\x00\xf1", locality=3)
    assert page[:8].hex() == "0a000000" + "01" + "03" + "00" + "00"
    assert page[8:19].hex() == "00c10000000a000000f1" + "00"


def test_answer_goes_behind_the_grant_references_of_a_front_end_with_extra_pages(
    page: bytearray,
) -> None:
    page[:8] = bytes.fromhex("0300000001000002")
    page[16:19] = b"cmd"
    back = BackRing(memoryview(page))
    assert back.poll() == Request(b"cmd", 0)
    back.finish(b"answer")
    assert page[:24].hex() == "0600000002000002" + "00" * 8 + b"answer".hex() + "0000"


@pytest.mark.parametrize("length", [0, 1, CAPACITY])
def test_command_and_answer_of_every_size_that_fits_cross_the_ring(
    page: bytearray, length: int
) -> None:
    front, back = FrontRing(memoryview(page)), BackRing(memoryview(page))
    front.submit(b"c" * length, 4)
    assert front.poll() is None
    assert back.poll() == Request(b"c" * length, 4)
    assert front.poll() is None
    back.finish(b"r" * length)
    assert front.poll() == b"r" * length


def test_oversize_response_is_an_error_of_the_caller_who_can_then_answer_shorter(
    page: bytearray,
) -> None:
    front, back = FrontRing(memoryview(page)), BackRing(memoryview(page))
    front.submit(b"list")
    back.poll()
    with pytest.raises(UsageError, match="4830 bytes; 4088 fit"):
        back.finish(bytes(4830))
    assert back.busy
    assert front.poll() is None
    back.finish(b"too big")
    assert front.poll() == b"too big"


def test_front_end_refuses_what_cannot_be_sent(page: bytearray) -> None:
    front = FrontRing(memoryview(page))
    with pytest.raises(UsageError, match="4089 bytes; 4088 fit"):
        front.submit(bytes(CAPACITY + 1))
    with pytest.raises(UsageError, match="locality 5"):
        front.submit(b"", 5)
    with pytest.raises(UsageError, match="no command"):
        front.poll()
    assert page == bytes(PAGE_SIZE)


def test_second_command_is_refused_until_the_first_is_answered(page: bytearray) -> None:
    front = FrontRing(memoryview(page))
    front.submit(b"one")
    with pytest.raises(UsageError, match="neither answered nor cancelled"):
        front.submit(b"two")
    assert page[8:11] == b"one"


def test_late_answer_to_a_cancelled_command_is_never_an_answer(page: bytearray) -> None:
    front, back = FrontRing(memoryview(page)), BackRing(memoryview(page))
    front.submit(b"one")
    back.poll()
    front.cancel()
    assert back.cancel_requested
    with pytest.raises(Busy):
        front.submit(b"two")
    back.finish(b"answer to one")
    front.submit(b"two")
    assert front.poll() is None
    assert back.poll() == Request(b"two", 0)
    back.finish(b"answer to two")
    assert front.poll() == b"answer to two"


def test_command_cancelled_before_it_was_taken_leaves_the_page_idle(page: bytearray) -> None:
    front, back = FrontRing(memoryview(page)), BackRing(memoryview(page))
    front.submit(b"one")
    front.cancel()
    assert not front.ready
    assert back.poll() == Cancelled()
    assert front.ready


@pytest.mark.parametrize("header", ["f90f000001000000", "ffffffff01000000", "f50f000001000001"])
def test_request_beyond_the_page_is_refused_and_shown_as_cancelled(
    page: bytearray, header: str
) -> None:
    page[:8] = bytes.fromhex(header)
    with pytest.raises(ProtocolError, match="the page holds 40"):
        BackRing(memoryview(page)).poll()
    assert page[4] == 0


def test_front_end_says_how_to_get_out_of_a_senseless_state(page: bytearray) -> None:
    front = FrontRing(memoryview(page))
    page[4] = 77
    with pytest.raises(ProtocolError, match="state 77") as caught:
        front.submit(b"one")
    assert "reset" in caught.value.hint
    front.reset()
    assert BackRing(memoryview(page)).poll() == Cancelled()
    front.submit(b"one")


@pytest.mark.parametrize("memory", [bytes(PAGE_SIZE), bytearray(PAGE_SIZE - 1)])
def test_ring_wants_one_writable_page(memory: bytes | bytearray) -> None:
    with pytest.raises(UsageError, match="writable page of 4096 bytes"):
        FrontRing(memoryview(memory))


def test_nothing_can_be_finished_that_was_not_taken(page: bytearray) -> None:
    with pytest.raises(UsageError, match="no request is open"):
        BackRing(memoryview(page)).finish(b"")
