"""The QMP client against scripted servers, good and bad; and the boot sector's form."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from hwtpm.errors import ProtocolError, Timeout, UsageError
from vstack.qemu_tis.bootsector import boot_sector
from vstack.qemu_tis.qmp import LINE_LIMIT, Qmp

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
DONE = b'{"return": {}}\r\n'


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Qmp]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, Qmp(theirs, timeout_s=20)


def test_session_negotiates_and_skips_events(pair: tuple[socket.socket, Qmp]) -> None:
    server, qmp = pair
    server.sendall(GREETING + DONE)
    qmp.negotiate()
    server.sendall(b'{"event": "RESET", "data": {}}\r\n{"return": {"running": true}}\r\n')
    assert qmp.execute("query-status", {"a": 1}) == {"running": True}
    sent = [json.loads(line) for line in server.recv(4096).splitlines()]
    assert sent == [
        {"execute": "qmp_capabilities", "id": 1},
        {"execute": "query-status", "id": 2, "arguments": {"a": 1}},
    ]


def test_refusal_carries_what_qemu_says(pair: tuple[socket.socket, Qmp]) -> None:
    server, qmp = pair
    server.sendall(b'{"error": {"class": "GenericError", "desc": "no such file"}}\n')
    with pytest.raises(ProtocolError, match=r"refused pmemsave.*no such file"):
        qmp.execute("pmemsave")


@pytest.mark.parametrize("noise", [b"no json\n", b"[1]\n", b"{}\n", b'{"return": 1}\n'])
def test_peer_that_is_no_qmp_server_is_told_from_one(
    pair: tuple[socket.socket, Qmp], noise: bytes
) -> None:
    server, qmp = pair
    server.sendall(noise)
    with pytest.raises(ProtocolError):
        qmp.negotiate()


def test_endless_line_is_an_error(pair: tuple[socket.socket, Qmp]) -> None:
    server, qmp = pair

    def chatter() -> None:
        with suppress(OSError):
            while True:
                server.sendall(b" " * 65536)

    thread = threading.Thread(target=chatter)
    thread.start()
    with pytest.raises(ProtocolError, match="without a line's end"):
        qmp.execute("stop")
    qmp.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(qmp._buffer) <= LINE_LIMIT + 65536


def test_silence_hang_up_and_late_answers_are_told_apart(pair: tuple[socket.socket, Qmp]) -> None:
    server, qmp = pair
    with pytest.raises(Timeout, match="did not answer stop"):
        qmp.execute("stop", timeout_s=0.01)
    server.sendall(b'{"return": "late", "id": 1}\n{"return": "prompt", "id": 2}\n')
    assert qmp.execute("cont") == "prompt"
    server.close()
    with pytest.raises(ProtocolError, match="QEMU"):
        qmp.execute("stop")


def test_boot_sector_has_its_signature_text_and_an_empty_partition_table() -> None:
    sector = boot_sector("hello")
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"
    assert sector[446:510] == bytes(64)
    address = int.from_bytes(sector[7:9], "little") - 0x7C00
    assert sector[address : address + 8] == b"hello\r\n\0"


@pytest.mark.parametrize("text", ["x" * 410, "nul\0", "caf\u00e9"])
def test_boot_text_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="boot text"):
        boot_sector(text)
