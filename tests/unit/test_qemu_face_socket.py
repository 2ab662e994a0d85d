"""The face on a real socket: a client like QEMU, slow vTPMs, and clients that misbehave."""

from __future__ import annotations

import array
import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hwtpm.softtpm.control import Command, Response, ResponseDecoder, encode_request
from vstack.qemu_tis import face as face_module
from vstack.qemu_tis.face import QemuFace

PATIENCE_S = 20.0
ECHO = bytes.fromhex("00c10000000c0000000a1234")
ECHOED = bytes.fromhex("00c40000000c000000001234")


class Port:
    """A vTPM that echoes; `gate` holds its commands back, and cancelling opens it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fail = False

    def power_on(self) -> None:
        self._step("on")

    def power_off(self) -> None:
        self._step("off")

    def execute(self, command: bytes, locality: int) -> bytes:
        self._step(f"execute {locality}")
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        return b"\0\xc4" + command[2:6] + bytes(4) + command[10:]

    def established(self) -> bool:
        self._step("established")
        return True

    def reset_established(self, locality: int) -> int:
        self._step(f"reset {locality}")
        return 0

    def cancel(self) -> None:
        self.log.append("cancel")
        self.gate.set()

    def _step(self, what: str) -> None:
        self.log.append(what)
        if self.fail:
            raise OSError("no space left on device")


class Client:
    """The other end of both channels, as QEMU's backend has them."""

    def __init__(self, path: Path) -> None:
        self.control = socket.socket(socket.AF_UNIX)
        self.control.connect(str(path))  # blocking: with a timeout, a full backlog is an error
        self.control.settimeout(PATIENCE_S)
        self.data, self._peer = socket.socketpair()
        self.data.settimeout(PATIENCE_S)

    def ask(self, command: Command, fds: tuple[int, ...] = (), **values: int) -> Response:
        request = encode_request(command, **values)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.control.sendmsg([request], rights)
        decoder = ResponseDecoder(command)
        while True:
            received = self.control.recv(4096)
            assert received, "the face hung up"
            if (response := decoder.feed(received)) is not None:
                return response

    def attach(self) -> None:
        assert self.ask(Command.SET_DATAFD, (self._peer.fileno(),)).result == 0
        self._peer.close()

    def start(self) -> None:
        self.attach()
        assert self.ask(Command.INIT, flags=0).result == 0

    def command(self, frame: bytes = ECHO) -> bytes:
        self.data.sendall(frame)
        return self.data.recv(4097)

    def close(self) -> None:
        for channel in (self.control, self.data, self._peer):
            channel.close()


class Bench:
    """A served face and the clients that a test opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = Port()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.face = QemuFace(self.listener, self.port)
        self.thread = threading.Thread(target=self.face.serve)
        self.clients: list[Client] = []

    def client(self) -> Client:
        self.clients.append(Client(self.path))
        return self.clients[-1]

    def ended(self) -> bool:
        self.thread.join(PATIENCE_S)
        return not self.thread.is_alive()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "control")
    bench.thread.start()
    yield bench
    bench.port.gate.set()
    bench.face.stop()
    assert bench.ended()
    bench.face.close()
    bench.listener.close()
    for client in bench.clients:
        client.close()


def test_machine_lives_from_power_on_to_shutdown(bench: Bench) -> None:
    qemu = bench.client()
    qemu.start()
    assert qemu.ask(Command.GET_TPMESTABLISHED)["established"] == 1
    assert qemu.ask(Command.SET_LOCALITY, locality=2).result == 0
    assert qemu.command() == ECHOED
    assert qemu.ask(Command.SHUTDOWN).result == 0
    assert bench.ended()
    assert bench.port.log == ["on", "established", "execute 2", "off"]


def test_control_channel_is_served_while_a_command_runs(bench: Bench) -> None:
    qemu = bench.client()
    qemu.start()
    bench.port.gate.clear()
    qemu.data.sendall(ECHO)
    assert bench.port.entered.wait(PATIENCE_S)
    assert qemu.ask(Command.GET_TPMESTABLISHED).result == 0
    assert qemu.ask(Command.GET_CAPABILITY)["capabilities"] & 0x340F == 0x340F
    assert not bench.port.gate.is_set()
    assert qemu.ask(Command.CANCEL_TPM_CMD).result == 0
    assert qemu.data.recv(4097) == ECHOED
    assert bench.port.log[-1] == "cancel"


def test_vtpm_that_fails_is_told_in_every_shape_and_the_face_goes_on(bench: Bench) -> None:
    qemu = bench.client()
    qemu.start()
    bench.port.fail = True
    assert qemu.command() == bytes.fromhex("00c40000000a00000009")
    assert qemu.ask(Command.GET_TPMESTABLISHED).result == 0
    assert qemu.ask(Command.RESET_TPMESTABLISHED, locality=3).result == 9
    assert qemu.ask(Command.STOP).result == 9
    assert qemu.ask(Command.INIT, flags=0).result == 9
    bench.port.fail = False
    assert qemu.ask(Command.INIT, flags=0).result == 0
    assert qemu.command() == ECHOED


def test_machine_that_is_killed_powers_off_and_the_next_one_is_served(bench: Bench) -> None:
    first = bench.client()
    first.start()
    second = bench.client()
    bench.port.gate.clear()
    first.data.sendall(ECHO)
    assert bench.port.entered.wait(PATIENCE_S)
    first.close()
    second.start()
    assert second.command() == ECHOED
    assert bench.port.log == ["on", "execute 0", "cancel", "off", "on", "execute 0"]


def test_tool_that_leaves_does_not_power_off(bench: Bench) -> None:
    for command in (Command.INIT, Command.GET_TPMESTABLISHED):
        tool = bench.client()
        assert tool.ask(command).result == 0
        tool.close()
    assert bench.client().ask(Command.STOP).result == 0
    assert bench.port.log == ["on", "established", "off"]


def test_stop_ends_the_service_and_powers_off(bench: Bench) -> None:
    qemu = bench.client()
    qemu.start()
    bench.face.stop()
    assert bench.ended()
    assert bench.port.log == ["on", "off"]
    assert qemu.control.recv(1) == b""
    assert qemu.data.recv(1) == b""


@pytest.mark.parametrize("size", [1, 9, 4097, 20_000])
def test_command_of_a_wrong_size_gets_an_error_and_the_next_one_its_answer(
    bench: Bench, size: int
) -> None:
    qemu = bench.client()
    qemu.start()
    assert qemu.command(bytes(size)) == bytes.fromhex("00c40000000a00000019")
    assert qemu.command() == ECHOED
    assert bench.port.log == ["on", "execute 0"]


def test_data_channel_can_be_replaced_after_it_closed(bench: Bench) -> None:
    qemu = bench.client()
    qemu.start()
    qemu.data.close()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE_S)
        while qemu.ask(Command.SET_DATAFD, (theirs.fileno(),)).result:
            pass  # until the face has seen the end of the first one
        ours.sendall(ECHO)
        assert ours.recv(4097) == ECHOED


def test_descriptors_that_are_no_data_channel_are_refused_and_closed(bench: Bench) -> None:
    qemu = bench.client()
    qemu.ask(Command.GET_CAPABILITY)
    before = set(os.listdir("/proc/self/fd"))
    with open(os.devnull, "rb") as file:
        many = (file.fileno(),) * 9
        assert qemu.ask(Command.SET_DATAFD, many).result == 3
    assert qemu.ask(Command.SET_DATAFD).result == 3
    assert set(os.listdir("/proc/self/fd")) == before


def test_unfinished_request_is_hung_up_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_module, "HALF_REQUEST_TIMEOUT_S", 0.05)
    stuck = bench.client()
    stuck.control.sendall(encode_request(Command.INIT)[:-1])
    assert stuck.control.recv(1) == b""
    bench.client().start()


def test_client_that_reads_no_reply_is_hung_up_on(bench: Bench) -> None:
    deaf = bench.client()
    flood = encode_request(Command.SET_BUFFERSIZE, size=0) * 512
    with suppress(ConnectionError):
        while True:
            deaf.control.sendall(flood)
    bench.client().start()


def test_garbage_never_reaches_the_vtpm_nor_stops_the_service(bench: Bench) -> None:
    noise = random.Random(1)
    for _ in range(150):
        garbage = bench.client()
        number = noise.choice([7, 12, 13, 15, 18, 19, 20, 2**31, noise.randrange(20, 2**32)])
        body = noise.randbytes(noise.choice([0, 3, 12, 100, 4092, 9000]))
        with suppress(ConnectionError):
            garbage.control.sendall(number.to_bytes(4, "big") + body)
        garbage.close()
    qemu = bench.client()
    qemu.start()
    assert qemu.command() == ECHOED
    assert bench.port.log == ["on", "execute 0"]
