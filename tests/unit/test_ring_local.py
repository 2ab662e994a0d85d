"""The local platform: a ring between two real processes, and ends that die, stall or cheat."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hwtpm.clock import FakeClock
from hwtpm.errors import Busy, ProtocolError, Timeout, UsageError
from vstack.xen.local import BackEnd, FrontEnd, LocalRing, RingFds, receive_fds, send_fds
from vstack.xen.ring import PAGE_SIZE, Request

DEADLINE_S = 20.0


@pytest.fixture
def ring() -> Iterator[LocalRing]:
    with LocalRing.create() as ring:
        yield ring


@pytest.fixture
def front(ring: LocalRing) -> Iterator[FrontEnd]:
    with FrontEnd(ring.fds) as front:
        yield front


def wait_for(back: BackEnd) -> Request:
    while True:
        readable, _, _ = select.select([back], [], [], DEADLINE_S)
        assert readable, "the doorbell did not ring"
        if request := back.take():
            return request


@contextmanager
def serving(fds: RingFds, answer: Callable[[Request], bytes], count: int) -> Iterator[None]:
    """A back end in a thread that answers `count` requests."""

    def serve() -> None:
        with BackEnd(fds) as back:
            for _ in range(count):
                back.finish(answer(wait_for(back)))

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


ECHO_SERVER = """
import select, sys
from vstack.xen.local import BackEnd, RingFds
back = BackEnd(RingFds(*map(int, sys.argv[1:4])))
mode = sys.argv[4]
while select.select([back], [], [], 60)[0]:
    if request := back.take():
        if mode == "die":
            sys.exit(7)
        back.finish(bytes([request.locality]) + request.command)
"""


@contextmanager
def echo_process(fds: RingFds, mode: str = "echo") -> Iterator[subprocess.Popen[bytes]]:
    arguments = [sys.executable, "-c", ECHO_SERVER, *map(str, fds), mode]
    with subprocess.Popen(arguments, pass_fds=fds) as process:
        try:
            yield process
        finally:
            process.kill()


def test_two_processes_exchange_commands_of_all_sizes(ring: LocalRing, front: FrontEnd) -> None:
    with echo_process(ring.fds):
        for number, length in enumerate((0, 1, 10, 4087, *range(0, 4000, 40))):
            command = os.urandom(length)
            answer = front.execute(command, number % 5, timeout_s=DEADLINE_S)
            assert answer == bytes([number % 5]) + command


def test_restarted_back_end_answers_the_command_its_predecessor_died_on(
    ring: LocalRing, front: FrontEnd
) -> None:
    answers: list[bytes] = []
    thread = threading.Thread(
        target=lambda: answers.append(front.execute(b"survives", timeout_s=DEADLINE_S))
    )
    with echo_process(ring.fds, "die") as first:
        thread.start()
        assert first.wait(DEADLINE_S) == 7
    with echo_process(ring.fds):
        thread.join(DEADLINE_S)
    assert answers == [b"\0survives"]


def test_restarted_front_end_resets_what_its_predecessor_left(ring: LocalRing) -> None:
    with FrontEnd(ring.fds) as first, pytest.raises(Timeout):
        first.execute(b"nobody listens", timeout_s=0)
    with BackEnd(ring.fds) as back, FrontEnd(ring.fds) as second:
        second.reset()
        assert back.take() is None
        with serving(ring.fds, lambda request: request.command.upper(), 1):
            assert second.execute(b"next", timeout_s=DEADLINE_S) == b"NEXT"


def test_command_given_up_before_it_was_taken_is_never_taken(
    ring: LocalRing, front: FrontEnd
) -> None:
    with BackEnd(ring.fds) as back:
        with pytest.raises(Timeout, match="cancelled it"):
            front.execute(b"slow", timeout_s=0)
        assert back.take() is None
        assert back.take() is None


def test_late_answer_is_not_the_answer_to_the_next_command(ring: LocalRing) -> None:
    clock = FakeClock()
    errors: list[BaseException] = []

    def execute() -> None:
        try:
            front.execute(b"slow", timeout_s=DEADLINE_S)
        except Timeout as error:
            errors.append(error)

    with FrontEnd(ring.fds, clock=clock) as front:
        with BackEnd(ring.fds) as back:
            thread = threading.Thread(target=execute)
            thread.start()
            assert wait_for(back).command == b"slow"
            clock.time_s += 2 * DEADLINE_S
            os.write(ring.fds.to_front, b"!")
            thread.join(DEADLINE_S)
            assert len(errors) == 1
            assert back.cancel_requested
            with pytest.raises(Busy, match="restart it"):
                front.execute(b"too early", timeout_s=0)
            back.finish(b"late answer")
        with serving(ring.fds, lambda request: request.command[::-1], 1):
            assert front.execute(b"abc", timeout_s=DEADLINE_S) == b"cba"


def test_refused_request_does_not_stop_the_back_end(ring: LocalRing, front: FrontEnd) -> None:
    page = mmap.mmap(ring.fds.page, PAGE_SIZE)
    with BackEnd(ring.fds) as back:
        page[:8] = bytes.fromhex("ffff000001000000")
        with pytest.raises(ProtocolError, match="65535 bytes"):
            back.take()
        with pytest.raises(UsageError):
            back.finish(b"")
    with serving(ring.fds, lambda request: b"fine", 1):
        assert front.execute(b"good", timeout_s=DEADLINE_S) == b"fine"
    page.close()


def test_cancelling_back_end_is_a_protocol_error(ring: LocalRing, front: FrontEnd) -> None:
    page = mmap.mmap(ring.fds.page, PAGE_SIZE)

    def cancel(request: Request) -> bytes:
        page[4] = 0
        os.write(ring.fds.to_front, b"!")
        thread_saw.wait(DEADLINE_S)
        return b""

    thread_saw = threading.Event()
    with serving(ring.fds, cancel, 1):
        with pytest.raises(ProtocolError, match="cancelled the command"):
            front.execute(b"command", timeout_s=DEADLINE_S)
        thread_saw.set()
    page.close()


def fill(bell: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(bell, bytes(PAGE_SIZE))


def test_full_doorbell_of_a_hostile_peer_blocks_nobody(ring: LocalRing) -> None:
    with FrontEnd(ring.fds) as front, BackEnd(ring.fds) as back:
        for bell in (ring.fds.to_front, ring.fds.to_back):
            fill(bell)
            fcntl.fcntl(bell, fcntl.F_SETFL, 0)
        with pytest.raises(Timeout):
            front.execute(b"command", timeout_s=0.05)
        for _ in range(20):
            assert back.take() is None, "an empty doorbell does not block either"


def test_back_end_starts_on_a_doorbell_that_a_hostile_peer_has_filled(ring: LocalRing) -> None:
    fill(ring.fds.to_back)
    fcntl.fcntl(ring.fds.to_back, fcntl.F_SETFL, 0)
    with BackEnd(ring.fds) as back:
        assert back.take() is None


def test_doorbell_that_is_no_pipe_is_refused(ring: LocalRing) -> None:
    with pytest.raises(ProtocolError, match="no pipe"):
        FrontEnd(ring.fds._replace(to_front=ring.fds.page))


def test_ring_crosses_a_unix_socket(ring: LocalRing, front: FrontEnd) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_fds(ours, ring.fds)
        received = receive_fds(theirs)
    try:
        with serving(received, lambda request: request.command * 2, 1):
            assert front.execute(b"ab", timeout_s=DEADLINE_S) == b"abab"
    finally:
        for fd in received:
            os.close(fd)


def test_wrong_number_of_descriptors_is_refused_and_leaks_none(ring: LocalRing) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = set(os.listdir("/proc/self/fd"))
        socket.send_fds(ours, [b"tpmif2"], [ring.fds.page, ring.fds.page])
        with pytest.raises(ProtocolError, match="three descriptors, got 2"):
            receive_fds(theirs)
        assert set(os.listdir("/proc/self/fd")) == before


def test_page_that_a_peer_could_cut_short_is_refused(ring: LocalRing) -> None:
    page = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(page, PAGE_SIZE)
    try:
        with pytest.raises(ProtocolError, match="not sealed"):
            BackEnd(ring.fds._replace(page=page))
        fcntl.fcntl(page, fcntl.F_ADD_SEALS, 7)
        BackEnd(ring.fds._replace(page=page)).close()
    finally:
        os.close(page)


def test_killed_back_end_is_a_timeout(ring: LocalRing, front: FrontEnd) -> None:
    with echo_process(ring.fds) as process:
        front.execute(b"alive", timeout_s=DEADLINE_S)
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)
        with pytest.raises(Timeout, match=r"within 0\.05 s"):
            front.execute(b"dead", timeout_s=0.05)
