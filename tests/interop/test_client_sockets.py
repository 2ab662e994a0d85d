"""Raw commands over sockets, with swtpm as the server that we did not write."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwtpm.client import Tpm, entropy, keys, owner, pcr
from hwtpm.errors import BusError, ProtocolError
from hwtpm.secret import Secret
from hwtpm.transport import open_transport

Server = tuple[str, "subprocess.Popen[bytes]"]


def listen(kind: str, directory: Path) -> tuple[socket.socket, str]:
    """A listening socket, so that there is neither a port to guess nor a path to wait for."""
    if kind == "unix":
        path = directory / "tpm"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        address = f"unix:{path}"
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        address = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
    listener.listen()
    return listener, address


@pytest.fixture(params=["unix", "tcp"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """The address and process of a swtpm that takes raw commands."""
    state = tmp_path / "state"
    state.mkdir()
    listener, address = listen(request.param, tmp_path)
    with listener:
        process = subprocess.Popen(
            [
                *("swtpm", "socket", "--server", f"type=unixio,fd={listener.fileno()}"),
                *("--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"),
            ],
            pass_fds=[listener.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        yield address, process
    finally:
        process.terminate()
        process.wait(30)


def test_operations_pass_a_socket(server: Server) -> None:
    address, _ = server
    auth = Secret.auth_from_text("owner")
    with Tpm(open_transport(address)) as tpm:
        assert not tpm.attached.real_hardware
        owner.create_ek(tpm)
        owner.take_ownership(tpm, auth)
        blob = keys.create(tpm, keys.srk(), keys.signing_key(bits=1024))
        with keys.loaded(tpm, keys.srk(), blob) as key:
            assert keys.sign(tpm, key, bytes(20))
        assert len(entropy.get_random(tpm, 4000).data) == 4000


def test_server_that_is_killed_is_a_typed_error(server: Server) -> None:
    address, process = server
    with Tpm(open_transport(address)) as tpm:
        assert pcr.read(tpm, 0) == bytes(20)
        process.kill()
        process.wait(30)
        with pytest.raises((BusError, ProtocolError)):
            pcr.read(tpm, 0)
