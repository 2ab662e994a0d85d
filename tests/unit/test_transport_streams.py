"""Socket transports against servers that misbehave: a typed error, in time, no second chance."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hwtpm.errors import (
    AccessDenied,
    BusError,
    DeviceNotFound,
    HwtpmError,
    ProtocolError,
    Timeout,
    UsageError,
)
from hwtpm.transport import Deadlines, Transport, open_transport
from hwtpm.transport.base import Attached
from hwtpm.transport.stream import StreamTransport

READ_PCR = bytes.fromhex("00c1 0000000e 00000015 00000000")
ANSWER = bytes.fromhex("00c4 0000001e 00000000") + bytes(20)
SOON = Deadlines(short_s=0.2, medium_s=0.2, long_s=0.2)

Serve = Callable[[socket.socket], None]


@contextmanager
def transport_to(serve: Serve) -> Iterator[StreamTransport]:
    """A transport whose other end runs `serve` in a thread."""
    ours, theirs = socket.socketpair()

    def body() -> None:
        with theirs:
            serve(theirs)

    thread = threading.Thread(target=body)
    thread.start()
    transport = StreamTransport(ours, Attached("unix:x", "unix", False, ""), deadlines=SOON)
    try:
        yield transport
    finally:
        transport.close()
        thread.join(10)
        assert not thread.is_alive()


def receive_command(peer: socket.socket) -> bytes:
    return peer.recv(4096)


def until_hangup(peer: socket.socket) -> None:
    peer.settimeout(10)
    # Data that we have not read when we hang up reaches the peer as a reset.
    with suppress(ConnectionResetError):
        while peer.recv(4096):
            pass


def test_answer_in_single_bytes_is_put_together() -> None:
    def serve(peer: socket.socket) -> None:
        assert receive_command(peer) == READ_PCR
        for byte in ANSWER:
            peer.send(bytes([byte]))
        until_hangup(peer)

    with transport_to(serve) as transport:
        assert transport.execute(READ_PCR) == ANSWER


def answering(data: bytes, *, stay: bool) -> Serve:
    def serve(peer: socket.socket) -> None:
        receive_command(peer)
        peer.sendall(data)
        if stay:
            until_hangup(peer)

    return serve


@pytest.mark.parametrize(
    ("serve", "error"),
    [
        pytest.param(answering(ANSWER[:17], stay=False), ProtocolError, id="truncated, hangs up"),
        pytest.param(answering(ANSWER[:17], stay=True), Timeout, id="truncated, then silent"),
        pytest.param(answering(ANSWER[:4], stay=True), Timeout, id="not even a header"),
        pytest.param(answering(b"", stay=True), Timeout, id="silent"),
        pytest.param(answering(b"", stay=False), ProtocolError, id="hangs up"),
        pytest.param(
            answering(bytes.fromhex("00c4 00001001 00000000"), stay=True),
            ProtocolError,
            id="announces 4097 bytes",
        ),
        pytest.param(
            answering(bytes.fromhex("00c4 ffffffff 00000000") + bytes(9000), stay=True),
            ProtocolError,
            id="announces 4 GiB",
        ),
        pytest.param(
            answering(bytes.fromhex("00c4 00000009 00000000"), stay=True),
            ProtocolError,
            id="announces less than a header",
        ),
        pytest.param(answering(b"HTTP/1.1 400 Bad\r\n", stay=True), ProtocolError, id="not a TPM"),
    ],
)
def test_misbehaving_server_is_a_typed_error_and_ends_the_transport(
    serve: Serve, error: type[HwtpmError]
) -> None:
    with transport_to(serve) as transport:
        with pytest.raises(HwtpmError, match="unix:x") as failure:
            transport.execute(READ_PCR)
        assert type(failure.value) is error
        assert failure.value.hint
        with pytest.raises(UsageError, match="lost by an earlier error"):
            transport.execute(READ_PCR)


def test_dripping_server_does_not_stretch_the_deadline() -> None:
    stop = threading.Event()

    def serve(peer: socket.socket) -> None:
        receive_command(peer)
        peer.sendall(bytes.fromhex("00c4 00001000 00000000"))
        while not stop.wait(0.02):
            try:
                peer.send(b"\0")
            except OSError:
                return

    with transport_to(serve) as transport:
        try:
            with pytest.raises(Timeout):
                transport.execute(READ_PCR)
        finally:
            stop.set()


def test_bytes_behind_an_answer_are_not_taken_for_the_next_one() -> None:
    def serve(peer: socket.socket) -> None:
        receive_command(peer)
        peer.sendall(ANSWER + ANSWER)
        until_hangup(peer)

    with transport_to(serve) as transport:
        assert transport.execute(READ_PCR) == ANSWER
        with pytest.raises(ProtocolError, match="nobody asked for"):
            transport.execute(READ_PCR)


def test_server_that_hung_up_meanwhile_is_a_bus_error() -> None:
    with transport_to(answering(ANSWER, stay=False)) as transport:
        assert transport.execute(READ_PCR) == ANSWER
        assert select.select([transport._socket], [], [], 10)[0]
        with pytest.raises(BusError, match="closed"):
            transport.execute(READ_PCR)


@pytest.mark.parametrize(
    "command", [b"", READ_PCR[:9], READ_PCR[:-1], READ_PCR + b"\0", bytes(5000)]
)
def test_what_is_no_command_is_never_sent(command: bytes) -> None:
    received: list[bytes] = []

    def serve(peer: socket.socket) -> None:
        received.append(peer.recv(4096))

    with transport_to(serve) as transport, pytest.raises(UsageError, match="no TPM command"):
        transport.execute(command)
    assert received == [b""]


def test_server_that_reads_nothing_does_not_hang_the_sender() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while ours.send(bytes(4096)):
                pass
        transport = StreamTransport(ours, Attached("unix:x", "unix", False, ""), deadlines=SOON)
        with pytest.raises(Timeout):
            transport.execute(READ_PCR)


# --- connecting ------------------------------------------------------------------------------


@contextmanager
def listening(listener: socket.socket) -> Iterator[None]:
    def body() -> None:
        peer, _ = listener.accept()
        with peer:
            receive_command(peer)
            peer.sendall(ANSWER)
            until_hangup(peer)

    listener.settimeout(10)
    listener.listen()
    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
        assert not thread.is_alive()


def exchange(transport: Transport) -> bytes:
    try:
        assert not transport.attached.real_hardware
        return transport.execute(READ_PCR)
    finally:
        transport.close()


def test_unix_address_reaches_a_listening_tpm(tmp_path: Path) -> None:
    path = tmp_path / "tpm"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with listening(listener):
            assert exchange(open_transport(f"unix:{path}")) == ANSWER


@pytest.mark.parametrize(
    ("family", "host", "form"),
    [
        (socket.AF_INET, "127.0.0.1", "tcp:127.0.0.1:{}"),
        (socket.AF_INET, "127.0.0.1", "tcp:localhost:{}"),
        (socket.AF_INET6, "::1", "tcp:[::1]:{}"),
    ],
)
def test_tcp_address_reaches_a_listening_tpm(family: int, host: str, form: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        with listening(listener):
            assert exchange(open_transport(form.format(listener.getsockname()[1]))) == ANSWER


def test_unix_errors_say_what_is_there_and_what_to_do(tmp_path: Path) -> None:
    left_over = tmp_path / "left-over"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left_over))
    plain = tmp_path / "plain"
    plain.write_text("")
    for path, words in (
        (tmp_path / "missing", "there is no"),
        (left_over, "nobody listens"),
        (plain, "nobody listens"),
        (tmp_path / ("x" * 200), "cannot connect"),
    ):
        with pytest.raises(DeviceNotFound, match=words) as failure:
            open_transport(f"unix:{path}")
        assert str(path) in failure.value.message
        assert failure.value.hint


def test_unix_socket_without_permission_is_access_denied(tmp_path: Path) -> None:
    path = tmp_path / "tpm"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        child = os.fork()
        if child == 0:
            # Root may connect to anything, so somebody else has to try.
            status = 1
            try:
                os.chdir(tmp_path)
                os.setgid(65534)
                os.setuid(65534)
                open_transport("unix:tpm")
            except AccessDenied:
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_tcp_without_listener_is_not_found() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(DeviceNotFound, match="cannot connect: Connection refused"):
            open_transport(f"tcp:127.0.0.1:{bound.getsockname()[1]}")
