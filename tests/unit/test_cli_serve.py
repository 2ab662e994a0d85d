"""`hwtpm serve` as its users meet it: a process that says where it listens and ends on a signal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hwtpm.client import Tpm, nv, pcr
from hwtpm.tpm12.const import NvPermission
from hwtpm.tpm12.frame import build_request, error_response
from hwtpm.tpm12.rc import Rc
from hwtpm.transport import open_transport

COMMAND = [sys.executable, "-m", "hwtpm.cli", "serve"]
READ_PCR_0 = build_request(0x15, bytes(4))
GET_RANDOM = build_request(0x46, (16).to_bytes(4, "big"))
FAIL = error_response(Rc.FAIL)
TIMEOUT_S = 60


class Server:
    """A running `hwtpm serve`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self._stdout = process.stdout

    def line(self) -> str:
        return self._stdout.readline()

    def end(self, number: signal.Signals | None = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code, the rest of stdout, and stderr."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


@contextmanager
def serve(*arguments: str) -> Iterator[Server]:
    env = {name: value for name, value in os.environ.items() if name != "HWTPM_ON"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [*COMMAND, *arguments], env=env, stdin=subprocess.DEVNULL, text=True, **pipes
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


def refused(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of one that does not start."""
    with serve(*arguments) as server:
        code, out, err = server.end(None)
        assert out == ""
        return code, err


def exchange(channel: socket.socket, command: bytes) -> bytes:
    channel.sendall(command)
    return channel.recv(4096)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_unix_socket_is_served_until_a_signal_and_removed(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "s"
    with serve("--on", "sim:", "--unix", str(path)) as server:
        assert server.line().startswith("on sim: (hwtpm engine ")
        assert server.line() == f"serves unix:{path}\n"
        assert path.stat().st_mode & 0o777 == 0o600
        with Tpm(open_transport(f"unix:{path}")) as tpm:
            assert pcr.read(tpm, 17) == b"\xff" * 20
            assert server.end(number) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_ready_line_in_json_names_the_real_port() -> None:
    with serve("--on", "libtpms:", "--tcp", "127.0.0.1:0", "--json") as server:
        ready = json.loads(server.line())
        port = ready["data"].pop("port")
        assert ready == {
            "schema": "hwtpm.serve/1",
            "on": "libtpms:",
            "backend": "libtpms",
            "real_hardware": False,
            "ok": True,
            "data": {"address": f"tcp:127.0.0.1:{port}", "shared": False},
        }
        with Tpm(open_transport(f"tcp:127.0.0.1:{port}")) as tpm:
            assert pcr.read(tpm, 0) == bytes(20)
        assert server.end() == (0, "", "")


def test_a_state_directory_is_kept_and_let_go(tmp_path: Path) -> None:
    options = ("--on", f"sim:{tmp_path / 'state'}", "--unix", str(tmp_path / "s"))
    for written in (False, True):
        with serve(*options) as server:
            server.line()
            server.line()
            with Tpm(open_transport(f"unix:{tmp_path / 's'}")) as tpm:
                if not written:
                    nv.define(tpm, 0x1000, 4, NvPermission.OWNERREAD | NvPermission.OWNERWRITE)
                    nv.write(tpm, 0x1000, b"kept")
                assert nv.read(tpm, 0x1000) == b"kept"
            assert server.end()[0] == 0


@pytest.mark.parametrize("shared", [False, True])
def test_second_client_waits_for_the_first_or_shares_with_it(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "s"
    with serve("--on", "sim:", "--unix", str(path), *(["--shared"] if shared else [])) as server:
        server.line()
        server.line()
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for channel in (first, second):
                channel.settimeout(TIMEOUT_S)
                channel.connect(str(path))
            second.sendall(READ_PCR_0)
            if shared:
                assert second.recv(4096)[-20:] == bytes(20)
            extended = exchange(first, build_request(0x14, bytes(24)))[10:]
            assert exchange(first, READ_PCR_0)[10:] == extended
            first.close()
            if not shared:  # it was asked before, and is served after
                assert second.recv(4096)[10:] == extended
        assert server.end()[0] == 0


def test_secrets_are_masked_in_the_trace(tmp_path: Path) -> None:
    path, trace = tmp_path / "s", tmp_path / "trace"
    with serve("--on", "sim:", "--unix", str(path), "--trace", str(trace)) as server:
        server.line()
        server.line()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(str(path))
            secret = exchange(client, GET_RANDOM)[14:]
        assert server.end()[0] == 0
    assert trace.stat().st_mode & 0o777 == 0o600
    assert "< TPM_GetRandom TPM_SUCCESS" in trace.read_text()
    assert secret.hex(" ") not in trace.read_text()


def test_a_tpm_that_is_lost_is_a_failure_for_the_client_and_ends_the_server(
    tmp_path: Path,
) -> None:
    chip, path = tmp_path / "chip", tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(chip))
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        with serve("--on", f"unix:{chip}", "--unix", str(path)) as server:
            peer, _ = listener.accept()
            server.line()
            server.line()
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(TIMEOUT_S)
                client.connect(str(path))
                client.sendall(READ_PCR_0)
                with peer:
                    assert peer.recv(4096) == READ_PCR_0
                assert client.recv(4096) == FAIL
                assert exchange(client, READ_PCR_0) == FAIL
                code, _, err = server.end(None)
    assert code == 5
    assert err.count("the answer ends after 0 bytes") == 2
    assert "  next: the other end closed the connection" in err


def test_recording_can_be_served_to_its_end(tmp_path: Path) -> None:
    head = '{"schema":"hwtpm.record/1","on":"x","backend":"x","real_hardware":false,"detail":""}'
    line = json.dumps({"command": READ_PCR_0.hex(), "response": FAIL.hex()})
    (tmp_path / "r").write_text(f"{head}\n{line}\n")
    path = tmp_path / "s"
    with serve("--on", f"replay:{tmp_path / 'r'}", "--unix", str(path)) as server:
        server.line()
        server.line()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(str(path))
            assert exchange(client, READ_PCR_0) == FAIL
            assert exchange(client, READ_PCR_0) == FAIL
        code, _, err = server.end(None)
    assert code == 2
    assert "the recording ends after 1 commands" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "add --tcp 127.0.0.1:0 or --unix PATH"),
        (("--tcp", "127.0.0.1:0", "--unix", "s"), 2, "one of them"),
        (("--tcp", "localhost"), 2, "no host and port"),
        (("--tcp", "127.0.0.1:65536"), 2, "no host and port"),
        (("--tcp", "127.0.0.1:-1"), 2, "no host and port"),
        (("--tcp", "0.0.0.0:0"), 11, "--allow-remote"),
        (("--unix", "/nonexistent/s"), 2, "cannot listen"),
        (("--tcp", "127.0.0.1:0", "--locality", "1"), 2, "--locality"),
    ],
)
def test_what_cannot_be_served_is_an_error_with_its_code(
    arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended, err = refused("--on", "sim:", *arguments)
    assert ended == code
    assert said in err


def test_a_chip_that_is_not_there_is_exit_3(tmp_path: Path) -> None:
    path = tmp_path / "s"
    code, err = refused("--on", f"dev:{tmp_path / 'tpm0'}", "--unix", str(path))
    assert code == 3
    assert "there is no device" in err
    assert refused("--unix", str(path))[0] == 3
    assert list(tmp_path.iterdir()) == []


def test_an_address_in_use_is_exit_12(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused("--on", "sim:", "--tcp", f"127.0.0.1:{port}")[0] == 12
