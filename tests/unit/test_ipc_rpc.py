"""Local calls: errors keep their class, descriptors pass, and bad callers harm only themselves."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from hwtpm import errors
from hwtpm.errors import DeviceNotFound, HwtpmError, ProtocolError, Timeout, TpmError, UsageError
from hwtpm.loop import Loop
from vstack.ipc.rpc import (
    MAX_PACKET,
    Answer,
    Client,
    Handler,
    Json,
    Peer,
    Server,
    error_from_json,
    error_to_json,
    listen,
)

DEADLINE_S = 20.0


@contextmanager
def serving(path: Path, handler: Handler) -> Iterator[None]:
    """A server at `path` in a thread, until the end of the block."""
    loop = Loop()
    server = Server(loop, handler, listen(path))
    asked, stop = socket.socketpair()
    loop.watch(asked, loop.stop)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield
    finally:
        stop.close()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        server.close()
        asked.close()
        loop.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def echo(peer: Peer, request: Json, fds: list[int]) -> Answer:
    return Answer({"echo": request, "fds": len(fds)})


def connect(path: Path) -> Client:
    return Client.connect(path, "the server", DEADLINE_S)


def raw(path: Path) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.settimeout(DEADLINE_S)
    channel.connect(str(path))
    return channel


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_call_brings_its_parameters_and_its_result(path: Path) -> None:
    with serving(path, echo), connect(path) as client:
        assert client.call("do", {"what": [1, "x"]}) == {
            "echo": {"op": "do", "what": [1, "x"]},
            "fds": 0,
        }


def every_error() -> list[HwtpmError]:
    found: list[HwtpmError] = [
        TpmError("no", rc=24, name="TPM_NOSPACE", meaning="full", command="TPM_Seal", hint="less")
    ]
    for name in errors.__all__:
        kind = getattr(errors, name)
        if kind is not TpmError:
            found.append(kind(f"a {name}", hint="do something"))
    return found


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_an_error_travels_as_its_class_with_all_it_says(path: Path, error: HwtpmError) -> None:
    def fail(peer: Peer, request: Json, fds: list[int]) -> Answer:
        raise error

    with serving(path, fail), connect(path) as client, pytest.raises(type(error)) as caught:
        client.call("fail")
    assert type(caught.value) is type(error)
    assert vars(caught.value) == vars(error)


def test_an_error_that_is_no_known_one_is_still_an_error() -> None:
    assert type(error_from_json({"kind": "of tomorrow", "message": "m"})) is HwtpmError
    odd = error_from_json({"kind": "tpm", "rc": "x"})
    assert isinstance(odd, TpmError)
    assert odd.rc == 9
    assert error_to_json(odd)["kind"] == "tpm"


def test_a_defect_of_the_handler_is_answered_and_the_server_goes_on(path: Path) -> None:
    def broken(peer: Peer, request: Json, fds: list[int]) -> Answer:
        if request["op"] == "break":
            raise ZeroDivisionError("oops")
        return Answer()

    with serving(path, broken), connect(path) as client:
        with pytest.raises(HwtpmError, match="ZeroDivisionError"):
            client.call("break")
        assert client.call("work") == {}


def test_descriptors_pass_both_ways_and_none_is_left_over(path: Path) -> None:
    reading, writing = os.pipe()

    def shout(peer: Peer, request: Json, fds: list[int]) -> Answer:
        os.write(fds[0], b"hello")
        return Answer(fds=(reading,))

    with serving(path, shout), connect(path) as client:
        client.call("shout", fds=(writing,))  # the server has its own end from here on
        os.read(reading, 10)
        before = open_fds()
        result, fds = client.call_fds("shout", fds=(writing,))
        assert (result, len(fds)) == ({}, 1)
        assert os.read(fds[0], 10) == b"hello"
        os.close(fds[0])
        client.call("shout", fds=(writing,))  # closes what it is not asked for
        assert open_fds() == before
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("packet", [b"\xff\x00garbage", b"[1, 2]", b'"op"', b"{", b"null", b" "])
def test_garbage_is_answered_with_a_usage_error(path: Path, packet: bytes) -> None:
    with serving(path, echo), raw(path) as channel:
        channel.send(packet)
        answer = msgspec.json.decode(channel.recv(MAX_PACKET))
        assert (answer["ok"], answer["error"]["kind"]) == (False, "usage")
        channel.send(b'{"op": "again"}')
        assert msgspec.json.decode(channel.recv(MAX_PACKET))["ok"] is True


def test_an_oversized_request_is_refused_at_both_ends(path: Path) -> None:
    with serving(path, echo):
        with connect(path) as client, pytest.raises(UsageError, match="too long"):
            client.call("big", {"data": "x" * MAX_PACKET})
        with raw(path) as channel:
            channel.send(b'{"op": "big", "x": "' + b"x" * MAX_PACKET + b'"}')
            assert msgspec.json.decode(channel.recv(MAX_PACKET))["error"]["kind"] == "usage"


def test_too_many_descriptors_are_refused_and_none_is_left_over(path: Path) -> None:
    with serving(path, echo), raw(path) as channel:
        channel.send(b'{"op": "x"}')
        channel.recv(MAX_PACKET)
        before = open_fds()
        socket.send_fds(channel, [b'{"op": "x"}'], [0] * 20)
        assert msgspec.json.decode(channel.recv(MAX_PACKET))["error"]["kind"] == "usage"
        assert open_fds() == before


def test_what_belongs_to_a_connection_ends_with_it(path: Path) -> None:
    ended = threading.Event()

    def keep(peer: Peer, request: Json, fds: list[int]) -> Answer:
        peer.on_close.append(ended.set)
        return Answer()

    with serving(path, keep):
        with connect(path) as client:
            client.call("keep")
            assert not ended.is_set()
        assert ended.wait(DEADLINE_S)


def test_a_caller_that_does_not_read_loses_its_connection_and_nobody_waits(path: Path) -> None:
    with serving(path, echo), raw(path) as silent:
        silent.setblocking(False)
        packet = b'{"op": "' + b"x" * 30_000 + b'"}'
        poll = select.poll()
        poll.register(silent, select.POLLHUP)
        hung_up = False
        while not hung_up:
            try:
                silent.send(packet)
            except BlockingIOError:
                hung_up = bool(poll.poll(10))
            except OSError:
                hung_up = True
        with connect(path) as client:
            assert client.call("still there")["fds"] == 0


def test_nobody_listening_is_device_not_found(path: Path) -> None:
    with pytest.raises(DeviceNotFound, match="not running"):
        connect(path)
    listen(path).close()  # the socket file stays, as after a kill
    with pytest.raises(DeviceNotFound, match="not running"):
        connect(path)


def test_a_stale_socket_file_is_replaced_and_is_for_its_owner_only(path: Path) -> None:
    listen(path).close()
    with serving(path, echo), connect(path) as client:
        client.call("hello")
        assert path.stat().st_mode & 0o777 == 0o600


def answered_by(answer: Callable[[socket.socket], object]) -> Client:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = Client(ours, "the server", DEADLINE_S)
    with theirs:
        answer(theirs)
    return client


@pytest.mark.parametrize("packet", [b"", b"garbage", b"[]", b"7"])
def test_a_server_that_answers_nonsense_or_ends_is_a_protocol_error(packet: bytes) -> None:
    with (
        answered_by(lambda channel: channel.send(packet)) as client,
        pytest.raises(ProtocolError, match="the server"),
    ):
        client.call("x")


def test_descriptors_beside_an_error_are_closed() -> None:
    packet = b'{"ok": false, "error": {"kind": "busy"}}'
    with answered_by(lambda channel: socket.send_fds(channel, [packet], [0, 0])) as client:
        before = open_fds()
        with pytest.raises(HwtpmError):
            client.call("x")
        assert open_fds() == before


def test_a_late_answer_is_never_taken_for_the_next_one() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = Loop()
    Server(loop, lambda peer, request, fds: Answer({"of": request["op"]}, (0,))).adopt(theirs)
    with Client(ours, "the server", DEADLINE_S) as client:
        before = open_fds()
        with pytest.raises(Timeout, match="'slow' in 0 s"):
            client.call("slow", timeout_s=0)
        loop.turn(DEADLINE_S)
        thread = threading.Thread(target=loop.turn, args=(DEADLINE_S,))
        thread.start()
        assert client.call("next") == {"of": "next"}
        thread.join(DEADLINE_S)
        assert open_fds() == before
    theirs.close()
    loop.close()


def test_nobody_waits_for_a_process_that_has_ended(path: Path) -> None:
    with listen(path):  # the socket outlives the process that should accept
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        pidfd = os.pidfd_open(pid)
        with Client.connect(path, "the server", DEADLINE_S, [pidfd]) as client:
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ProtocolError, match="ended") as caught:
                client.call("x")
        assert not isinstance(caught.value, Timeout)
        os.waitpid(pid, 0)
        os.close(pidfd)
