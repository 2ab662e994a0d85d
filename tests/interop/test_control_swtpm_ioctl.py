"""Our server side of the control channel against swtpm's own client, swtpm_ioctl."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from hwtpm.softtpm.control import (
    BlobType,
    Command,
    InitFlag,
    Request,
    RequestParser,
    encode_response,
)

BLOB = bytes(range(256)) * 40  # more than one block of swtpm_ioctl's


def serve_one_client(
    directory: Path, options: list[str], answers: dict[Command, bytes]
) -> tuple[list[Request], str]:
    """Run `swtpm_ioctl options` against us; what it sent, and what it printed."""
    path = directory / "ctrl"
    seen: list[Request] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(10)
        with subprocess.Popen(
            ["swtpm_ioctl", "--unix", path, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as client:
            try:
                with server.accept()[0] as channel:
                    channel.settimeout(10)
                    parser = RequestParser()
                    while burst := channel.recv(1 << 16):
                        for request in parser.feed(burst):
                            assert isinstance(request, Request)
                            seen.append(request)
                            default = encode_response(request.command)
                            channel.sendall(answers.get(request.command, default))
                    assert parser.pending == 0
                printed, _ = client.communicate(timeout=10)
            finally:
                client.kill()
    assert client.returncode == 0, printed
    return seen, printed


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--stop"], Request(Command.STOP)),
        (["-i"], Request(Command.INIT, {"flags": InitFlag.DELETE_VOLATILE})),
        (["-s"], Request(Command.SHUTDOWN)),
        (["-v"], Request(Command.STORE_VOLATILE)),
        (["-C"], Request(Command.CANCEL_TPM_CMD)),
        (["-l", "3"], Request(Command.SET_LOCALITY, {"locality": 3})),
        (["-r", "4"], Request(Command.RESET_TPMESTABLISHED, {"locality": 4})),
    ],
)
def test_simple_requests_are_understood(
    tmp_path: Path, options: list[str], expected: Request
) -> None:
    assert serve_one_client(tmp_path, options, {})[0] == [expected]


@pytest.mark.parametrize(
    ("options", "command", "answer", "printed"),
    [
        (
            ["-c"],
            Command.GET_CAPABILITY,
            encode_response(Command.GET_CAPABILITY, capabilities=0x7FFF),
            "0x7fff",
        ),
        (
            ["-e"],
            Command.GET_TPMESTABLISHED,
            encode_response(Command.GET_TPMESTABLISHED, established=1),
            "is 1",
        ),
        (["-g"], Command.GET_CONFIG, encode_response(Command.GET_CONFIG, flags=3), "0x3"),
        (
            ["-b", "3968"],
            Command.SET_BUFFERSIZE,
            encode_response(Command.SET_BUFFERSIZE, size=3968, minimum=2048, maximum=4096),
            "3968",
        ),
        (
            ["--info", "1"],
            Command.GET_INFO,
            encode_response(Command.GET_INFO, data=b'{"ours":1}\0', total=11),
            '{"ours":1}',
        ),
    ],
)
def test_answers_are_understood(
    tmp_path: Path, options: list[str], command: Command, answer: bytes, printed: str
) -> None:
    seen, output = serve_one_client(tmp_path, options, {command: answer})
    assert [request.command for request in seen] == [command]
    assert printed in output


def test_a_hash_sequence_arrives_whole(tmp_path: Path) -> None:
    seen, _ = serve_one_client(tmp_path, ["-h", "measured"], {})
    assert [request.command for request in seen] == [
        Command.HASH_START,
        Command.HASH_DATA,
        Command.HASH_END,
    ]
    assert seen[1].data == b"measured"


def test_a_state_blob_is_saved_by_the_client(tmp_path: Path) -> None:
    answer = encode_response(Command.GET_STATEBLOB, data=BLOB, total=len(BLOB))
    target = tmp_path / "blob"
    seen, _ = serve_one_client(
        tmp_path, ["--save", "permanent", str(target)], {Command.GET_STATEBLOB: answer}
    )
    blobs = [request for request in seen if request.command is Command.GET_STATEBLOB]
    assert blobs[0]["type"] == BlobType.PERMANENT
    assert target.read_bytes() == BLOB


def test_a_state_blob_is_loaded_from_the_client(tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_bytes(BLOB)
    seen, _ = serve_one_client(tmp_path, ["--load", "volatile", str(source)], {})
    blobs = [request for request in seen if request.command is Command.SET_STATEBLOB]
    assert {request["type"] for request in blobs} == {BlobType.VOLATILE}
    assert b"".join(request.data for request in blobs) == BLOB
