"""The server for raw clients: one command at a time, nobody held up by anybody else's faults."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hwtpm.clock import FakeClock
from hwtpm.errors import AccessDenied, Busy, Refused, UsageError
from hwtpm.loop import Loop
from hwtpm.tpm12.const import MAX_FRAME
from hwtpm.tpm12.frame import build_request, error_response
from hwtpm.tpm12.rc import Rc
from hwtpm.transport.listeners import listening_tcp, listening_unix
from hwtpm.transport.serve import FrameServer

HALF_S = 10.0
ANSWER = error_response(Rc.DISABLED)


def command(number: int, size: int = 10) -> bytes:
    return build_request(number, bytes(size - 10))


class Rig:
    """A server whose loop is turned by hand."""

    def __init__(self, path: Path, *, exclusive: bool) -> None:
        self.clock = FakeClock()
        self.loop = Loop(self.clock)
        self.path = path
        self.executed: list[int] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.server = FrameServer(
            self.loop, self.listener, self.execute, exclusive=exclusive, most_clients=3
        )

    def execute(self, command: bytes) -> bytes:
        self.executed.append(int.from_bytes(command[6:10], "big"))
        return ANSWER

    def client(self) -> socket.socket:
        """A connection that has been accepted, or turned away."""
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(str(self.path))
        channel.setblocking(False)
        self.turn()
        return channel

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.turn(0)

    def close(self) -> None:
        self.server.close()
        self.listener.close()
        self.loop.close()


Make = Callable[[bool], Rig]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    rigs: list[Rig] = []

    def of(exclusive: bool) -> Rig:
        rigs.append(Rig(tmp_path / "s", exclusive=exclusive))
        return rigs[-1]

    yield of
    for rig in rigs:
        rig.close()


@pytest.fixture
def shared(make: Make) -> Rig:
    return make(False)


@pytest.fixture
def exclusive(make: Make) -> Rig:
    return make(True)


def is_silent(channel: socket.socket) -> bool:
    try:
        channel.recv(1)
    except BlockingIOError:
        return True
    return False


def has_hung_up(channel: socket.socket) -> bool:
    try:
        return channel.recv(1) == b""
    except ConnectionResetError:  # with something of ours unread
        return True


@pytest.mark.parametrize("piece", [1, 9, 10, 11, MAX_FRAME])
def test_a_command_is_whole_however_it_comes(shared: Rig, piece: int) -> None:
    with shared.client() as client:
        sent = command(7, MAX_FRAME)
        for at in range(0, len(sent), piece if piece > 1 else 500):
            client.send(sent[at : at + (piece if piece > 1 else 500)])
            shared.turn()
        assert shared.executed == [7]
        assert client.recv(100) == ANSWER


def test_commands_of_several_clients_are_served_in_turn(shared: Rig) -> None:
    with shared.client() as one, shared.client() as other:
        one.send(command(1) * 3)
        other.send(command(2) * 3)
        shared.turn(3)
        assert sorted(shared.executed[:2]) == sorted(shared.executed[2:4]) == [1, 2]
        assert one.recv(100) == other.recv(100) == 3 * ANSWER


def test_half_a_command_behind_a_whole_one_has_its_deadline(shared: Rig) -> None:
    with shared.client() as client:
        client.send(command(1) + command(2) + command(3)[:4])
        shared.turn(3)
        assert shared.executed == [1, 2]
        shared.clock.sleep(HALF_S + 0.1)
        shared.turn()
        assert client.recv(100) == 2 * ANSWER
        assert has_hung_up(client)


def test_commands_that_came_before_their_client_hung_up_are_executed(shared: Rig) -> None:
    with shared.client() as client:
        client.send(command(1) + command(2))
        shared.turn()
    shared.turn(3)
    assert shared.executed == [1, 2]


@pytest.mark.parametrize("size", [0, 9, MAX_FRAME + 1, 0xFFFFFFFF])
def test_a_size_that_is_none_is_answered_and_ends_the_connection(shared: Rig, size: int) -> None:
    with shared.client() as client, shared.client() as other:
        client.send(b"\x00\xc1" + size.to_bytes(4, "big") + bytes(4) + bytes(100))
        other.send(command(2))
        shared.turn()
        assert client.recv(10) == error_response(Rc.BAD_PARAM_SIZE)
        assert has_hung_up(client)
        assert shared.executed == [2]
        assert other.recv(100) == ANSWER


def test_the_log_names_the_header_and_does_not_fill_up_with_what_was_sent(
    shared: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with shared.client() as client:
        client.sendall(bytes(MAX_FRAME))
        shared.turn()
    assert "hung up on a client: 00000000000000000000 starts no command" in caplog.text
    assert "00" * 11 not in caplog.text


def test_half_a_command_has_a_deadline_and_holds_nobody_up(shared: Rig) -> None:
    with shared.client() as slow, shared.client() as other:
        slow.send(command(1)[:9])
        shared.turn()
        other.send(command(2))
        shared.turn()
        assert other.recv(100) == ANSWER
        shared.clock.sleep(HALF_S - 0.1)
        shared.turn()
        assert is_silent(slow)
        shared.clock.sleep(0.2)
        shared.turn()
        assert has_hung_up(slow)
        assert shared.executed == [2]


def test_the_deadline_is_for_each_command_and_not_for_a_client_that_says_nothing(
    shared: Rig,
) -> None:
    with shared.client() as client:
        client.send(command(1)[:9])
        shared.turn()
        client.send(command(1)[9:])
        shared.turn()
        assert client.recv(100) == ANSWER
        shared.clock.sleep(10 * HALF_S)
        shared.turn()
        assert is_silent(client)


def test_a_client_that_takes_no_answers_loses_its_connection(shared: Rig) -> None:
    with shared.client() as client, shared.client() as other:
        client.setblocking(True)
        client.settimeout(20)
        sending = threading.Thread(target=_send_until_hung_up, args=(client,))
        sending.start()
        while sending.is_alive():
            shared.turn()
        sending.join()
        other.send(command(2))
        shared.turn()
        assert other.recv(100) == ANSWER


def _send_until_hung_up(channel: socket.socket) -> None:
    try:
        while True:
            channel.send(command(1) * 100)
    except ConnectionError:
        return


def test_clients_that_vanish_are_no_harm(shared: Rig) -> None:
    for sent in (b"", command(1)[:5], command(1)):
        with shared.client() as client:
            client.send(sent)
        shared.turn(2)
    with shared.client() as client:
        client.send(command(2))
        shared.turn()
        assert client.recv(100) == ANSWER
    assert shared.executed == [1, 2]


def test_more_clients_than_there_is_room_for_are_turned_away(shared: Rig) -> None:
    clients = [shared.client() for _ in range(4)]
    assert [is_silent(client) for client in clients[:3]] == [True] * 3
    assert has_hung_up(clients[3])
    clients[0].close()
    shared.turn()
    clients.append(shared.client())
    assert is_silent(clients[-1])
    for client in clients:
        client.close()


def test_an_exclusive_client_has_the_tpm_until_it_hangs_up(exclusive: Rig) -> None:
    with exclusive.client() as holder, exclusive.client() as second, exclusive.client() as third:
        third.send(command(3))
        second.send(command(2))
        holder.send(command(1))
        exclusive.turn(3)
        assert exclusive.executed == [1]
        holder.close()
        exclusive.turn(3)
        assert exclusive.executed == [1, 2]
        assert second.recv(100) == ANSWER
        assert is_silent(third)
        second.close()
        exclusive.turn(3)
        assert third.recv(100) == ANSWER
    assert exclusive.executed == [1, 2, 3]


def test_what_a_client_sent_that_gave_up_waiting_is_not_executed(exclusive: Rig) -> None:
    with exclusive.client() as holder:
        with exclusive.client() as impatient:
            impatient.send(command(2))
        exclusive.turn()
        with exclusive.client(), exclusive.client() as other:  # its place is free again
            assert is_silent(other)
        holder.close()
        exclusive.turn(3)
    assert exclusive.executed == []


def test_an_exclusive_client_that_stops_half_way_does_not_keep_the_tpm(exclusive: Rig) -> None:
    with exclusive.client() as holder, exclusive.client() as other:
        holder.send(command(1)[:3])
        other.send(command(2))
        exclusive.turn()
        exclusive.clock.sleep(HALF_S + 0.1)
        exclusive.turn(2)
        assert has_hung_up(holder)
        assert other.recv(100) == ANSWER


def test_closing_hangs_up_on_everybody(exclusive: Rig) -> None:
    with exclusive.client() as holder, exclusive.client() as waiting:
        exclusive.server.close()
        assert has_hung_up(holder)
        assert has_hung_up(waiting)


# --- where it listens ------------------------------------------------------------------------


def test_port_0_is_a_free_one_and_the_address_names_it() -> None:
    with listening_tcp("127.0.0.1", 0) as (listener, address):
        assert address == f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Busy), listening_tcp("127.0.0.1", listener.getsockname()[1]):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_are_let_in_only_on_purpose(host: str) -> None:
    with pytest.raises(Refused, match="other machines"), listening_tcp(host, 0):
        pass


def test_other_machines_can_be_let_in() -> None:
    with listening_tcp("0.0.0.0", 0, allow_remote=True) as (_, address):
        assert address.startswith("tcp:0.0.0.0:")
    with pytest.raises(UsageError), listening_tcp("192.0.2.1", 0, allow_remote=True):
        pass


def test_a_unix_socket_is_its_owners_and_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening_unix(path) as (_, address):
        assert address == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(path))
    assert list(tmp_path.iterdir()) == []


def test_a_live_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening_unix(path):
        with pytest.raises(Busy), listening_unix(path):
            pass
        assert path.is_socket()
    with socket.socket(socket.AF_UNIX) as another:  # of a program that knows nothing of our locks
        another.bind(str(path))
        another.listen()
        with pytest.raises(Busy), listening_unix(path):
            pass
        assert path.is_socket()


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    (tmp_path / "s.lock").touch()
    with listening_unix(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Refused), listening_unix(path):
        pass
    assert path.lstat()


def test_a_socket_of_somebody_else_in_our_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as another, listening_unix(path):
        path.unlink()
        another.bind(str(path))
    assert path.is_socket()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_directory_that_takes_no_file_is_access_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AccessDenied, match=os.strerror(code)), listening_unix(tmp_path / "s"):
        pass


def test_a_path_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "s", tmp_path / ("x" * 120)):
        with pytest.raises((UsageError, AccessDenied)), listening_unix(path):
            pass
    assert list(tmp_path.iterdir()) == []
