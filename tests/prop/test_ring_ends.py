"""The two ends of the tpmif ring against each other, in any order, and against hostile peers."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hwtpm.errors import Busy, HwtpmError, ProtocolError, UsageError
from vstack.xen.ring import CAPACITY, PAGE_SIZE, BackRing, Cancelled, FrontRing, Request

LENGTHS = st.integers(0, CAPACITY) | st.sampled_from([0, 10, 30, CAPACITY])


class BothEnds(RuleBasedStateMachine):
    """No lost, doubled or swapped command or answer, whatever the order of steps and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.page = bytearray(PAGE_SIZE)
        self.front = FrontRing(memoryview(self.page))
        self.back = BackRing(memoryview(self.page))
        self.number = 0
        self.submitted: bytes | None = None  # what the front end waits for
        self.taken: bytes | None = None  # what the back end works on

    @rule(length=LENGTHS, locality=st.integers(0, 4))
    def submit(self, length: int, locality: int) -> None:
        self.number += 1
        command = (self.number.to_bytes(4, "big") * (length // 4 + 1))[:length]
        if self.submitted is not None or self.taken is not None:
            try:
                self.front.submit(command, locality)
            except (Busy, UsageError):
                return
            raise AssertionError("a command was accepted on top of another one")
        if not self.front.ready:
            return  # a cancelled command that the back end has not seen yet
        self.front.submit(command, locality)
        self.submitted, self.locality = command, locality

    @rule()
    def take(self) -> None:
        event = self.back.poll()
        if self.taken is not None:
            assert event is None
        elif self.submitted is not None and not self.answered():
            assert event == Request(self.submitted, self.locality)
            self.taken = self.submitted
        else:
            assert event is None or event == Cancelled()

    def answered(self) -> bool:
        return self.page[4] == 2

    @precondition(lambda self: self.taken is not None)
    @rule()
    def finish(self) -> None:
        assert self.taken is not None
        assert self.back.cancel_requested == (self.submitted is None)
        self.back.finish(self.taken[::-1])
        self.taken = None

    @precondition(lambda self: self.submitted is not None)
    @rule()
    def poll(self) -> None:
        assert self.submitted is not None
        answer = self.front.poll()
        if self.answered():
            assert answer == self.submitted[::-1]
            self.submitted = None
        else:
            assert answer is None

    @rule(restart=st.booleans())
    def give_up(self, restart: bool) -> None:
        if restart:
            self.front = FrontRing(memoryview(self.page))
            self.front.reset()
        else:
            self.front.cancel()
        self.submitted = None

    @precondition(lambda self: self.taken is None)
    @rule()
    def back_restarts_idle(self) -> None:
        self.back = BackRing(memoryview(self.page))

    @precondition(lambda self: self.taken is not None and self.submitted is not None)
    @rule()
    def back_restarts_in_the_middle(self) -> None:
        self.back = BackRing(memoryview(self.page))
        self.taken = None  # and must be able to take it again

    @invariant()
    def never_stuck(self) -> None:
        if self.submitted is None and self.taken is None and not self.front.ready:
            assert self.back.poll() == Cancelled()
            assert self.front.ready


BothEnds.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBothEnds = BothEnds.TestCase

HEADERS = st.builds(
    struct.Struct("<IBBBB").pack,
    st.sampled_from([0, 10, CAPACITY, CAPACITY + 1, PAGE_SIZE, 2**31, 2**32 - 1])
    | st.integers(0, 2**32 - 1),
    st.integers(0, 5) | st.integers(0, 255),
    st.integers(0, 5) | st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 255),
)


@given(HEADERS, st.lists(HEADERS, min_size=1, max_size=4), st.binary(max_size=CAPACITY))
def test_back_end_stays_in_the_page_whatever_the_front_end_writes(
    first: bytes, later: list[bytes], response: bytes
) -> None:
    memory = bytearray(b"\xaa" * PAGE_SIZE * 3)
    page = memoryview(memory)[PAGE_SIZE : 2 * PAGE_SIZE]
    back = BackRing(page)
    for header in (first, *later):
        page[:8] = header
        try:
            event = back.poll()
        except ProtocolError:
            assert page[4] == 0, "a refused request is shown to the front end as cancelled"
            assert not back.busy
            continue
        if isinstance(event, Request):
            length, state, locality, _, extra = struct.unpack("<IBBBB", header)
            assert (state, locality, len(event.command)) == (1, event.locality, length)
            assert length + 8 + 4 * extra <= PAGE_SIZE
    if back.busy:
        page[:8] = first  # flips after the request was taken
        try:
            back.finish(response)
        except HwtpmError:
            assert back.busy
            back.finish(b"")
        assert page[4] == 2
    assert not back.busy
    page[:8] = struct.pack("<IBBBB", 3, 1, 0, 0, 0)
    assert back.poll() == Request(bytes(page[8:11]), 0), "the ring goes on"
    assert set(memory[:PAGE_SIZE]) == set(memory[2 * PAGE_SIZE :]) == {0xAA}


@given(st.lists(HEADERS, min_size=1, max_size=4))
def test_front_end_stays_in_the_page_whatever_the_back_end_writes(headers: list[bytes]) -> None:
    memory = bytearray(b"\xaa" * PAGE_SIZE * 3)
    page = memoryview(memory)[PAGE_SIZE : 2 * PAGE_SIZE]
    page[4] = 0
    front = FrontRing(page)
    front.submit(b"\x00\xc1", 2)
    for header in headers:
        length, state, *_ = struct.unpack("<IBBBB", header)
        page[:8] = header
        try:
            answer = front.poll()
        except ProtocolError:
            assert state > 3 or length > CAPACITY
            break
        if answer is None:
            assert state in (1, 3)
            continue
        assert answer == (Cancelled() if state == 0 else bytes(page[8 : 8 + length]))
        break
    front.reset()
    assert page[4] in (0, 2, 3)
    page[4] = 2
    front.submit(b"next", 0)
    assert bytes(page[:12]) == b"\x04\0\0\0\x01\0" + page[6:7] + b"\0next"
    assert set(memory[:PAGE_SIZE]) == set(memory[2 * PAGE_SIZE :]) == {0xAA}
