"""The event loop and the children that run one: what is called when, what ends with whom."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hwtpm.clock import FakeClock
from hwtpm.errors import StateError
from hwtpm.loop import Loop
from vstack.ipc.children import Child, spawn

DEADLINE_S = 20.0


def test_timers_fire_in_order_of_their_time_and_then_of_their_making() -> None:
    clock = FakeClock()
    loop = Loop(clock)
    fired: list[str] = []
    for delay, name in ((2.0, "late"), (1.0, "a"), (1.0, "b"), (0.0, "now")):
        loop.after(delay, lambda name=name: fired.append(name))  # type: ignore[misc]
    loop.turn(0)
    assert fired == ["now"]
    clock.sleep(1.0)
    loop.turn(0)
    assert fired == ["now", "a", "b"]
    clock.sleep(1.0)
    loop.turn(0)
    assert fired == ["now", "a", "b", "late"]


def test_a_turn_ends_at_its_deadline_when_nothing_happens() -> None:
    reading, writing = socket.socketpair()
    with reading, writing:
        loop = Loop()
        loop.watch(reading, pytest.fail)
        loop.turn(0)


def test_what_an_earlier_callback_stopped_watching_is_not_called() -> None:
    loop = Loop()
    called: list[socket.socket] = []
    pairs = [socket.socketpair() for _ in range(2)]
    for mine, theirs in pairs:
        other = next(pair[0] for pair in pairs if pair[0] is not mine)

        def callback(mine: socket.socket = mine, other: socket.socket = other) -> None:
            called.append(mine)
            loop.unwatch(other)

        loop.watch(mine, callback)
        theirs.send(b"x")
    loop.turn(0)
    assert len(called) == 1
    for mine, theirs in pairs:
        mine.close()
        theirs.close()


def test_a_descriptor_number_that_is_used_again_gets_no_old_event() -> None:
    loop = Loop()
    pairs = [socket.socketpair() for _ in range(2)]
    replaced: list[socket.socket] = []

    def replace(number: int) -> None:
        """Close the other one and watch a silent descriptor of the same number."""
        for mine, _ in pairs:
            if mine.fileno() not in (number, -1):
                loop.unwatch(mine)
                again, silent = socket.socketpair()
                os.dup2(again.fileno(), mine.fileno())
                replaced.extend((again, silent))
                loop.watch(mine, lambda: pytest.fail("an event of the closed descriptor"))

    for mine, theirs in pairs:
        loop.watch(mine, partial(replace, mine.fileno()))
        theirs.send(b"x")
    loop.turn(0)
    assert len(replaced) == 2
    for channel in (*replaced, *(end for pair in pairs for end in pair)):
        channel.close()


def test_run_returns_after_stop() -> None:
    loop = Loop()
    loop.after(0, loop.stop)
    loop.run()


# --- children ----------------------------------------------------------------------------------


def ended(child: Child) -> int:
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    assert poll.poll(DEADLINE_S * 1000), f"{child.name} does not end"
    return child.reap()


def fail_with(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "logged"),
    [
        (lambda: None, 0, ""),
        (fail_with(StateError("the state is lost", hint="find it")), 13, "next: find it"),
        (fail_with(ZeroDivisionError("oops")), 1, "Traceback"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -9, ""),
    ],
)
def test_a_child_ends_with_its_errors_exit_code_and_logs_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    main: Callable[[], None],
    code: int,
    logged: str,
) -> None:
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)  # pytest's own is no descriptor 2
    log = tmp_path / "log"
    assert ended(spawn("child", main, [], log)) == code
    assert logged in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_child_keeps_only_the_descriptors_it_was_given(tmp_path: Path) -> None:
    given, secret = os.pipe(), os.pipe()

    def tell() -> None:
        listed = sorted(int(name) for name in os.listdir("/proc/self/fd"))
        # The listing itself took one, which is closed by now.
        still = [fd for fd in listed if os.path.lexists(f"/proc/self/fd/{fd}")]
        os.write(given[1], repr(still).encode())

    assert ended(spawn("child", tell, [given[1]], tmp_path / "log")) == 0
    assert os.read(given[0], 1000).decode() == repr([0, 1, 2, given[1]])
    for fd in (*given, *secret):
        os.close(fd)


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:

            def live() -> None:
                os.write(writing, b"up")
                signal.pause()

            os.close(reading)
            spawn("child", live, [writing], tmp_path / "log")
            os.close(writing)  # from now on only the child holds the pipe open
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 10) == b"up"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    readable, _, _ = select.select([reading], [], [], DEADLINE_S)
    assert readable, "the child outlives its parent"
    assert os.read(reading, 10) == b""
    os.close(reading)


def test_a_signal_reaches_the_child_and_no_other_process_after_it(tmp_path: Path) -> None:
    child = spawn("child", lambda: time.sleep(DEADLINE_S), [], tmp_path / "log")
    child.signal(signal.SIGTERM)
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    assert poll.poll(DEADLINE_S * 1000)
    child.signal(signal.SIGKILL)  # it has ended and is not reaped yet
    assert child.reap() == -signal.SIGTERM
