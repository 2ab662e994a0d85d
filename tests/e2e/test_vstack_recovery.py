"""kill -9 of the real processes: what was acknowledged stays, and the stack mends itself."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import select
import signal
import struct
import time
from pathlib import Path

from e2e_stack import Stack, wait_until

from hwtpm.client import nv
from hwtpm.client.session import Tpm
from hwtpm.errors import HwtpmError
from hwtpm.tpm12.const import NvPermission
from hwtpm.transport.address import open_transport
from vstack.ipc.rpc import Client
from vstack.vtpm.guest import GuestPort

INDEX = 0x1234


def _define(address: str) -> None:
    with Tpm(open_transport(address)) as tpm:
        nv.define(tpm, INDEX, 4, NvPermission.PPWRITE | NvPermission.PPREAD)


def _write(address: str, value: int) -> None:
    with Tpm(open_transport(address)) as tpm:
        nv.write(tpm, INDEX, value.to_bytes(4, "big"))


def _read(address: str) -> int:
    with Tpm(open_transport(address)) as tpm:
        return int.from_bytes(nv.read(tpm, INDEX, 4), "big")


def _manager_pid(stack: Stack) -> int:
    return stack.json("vstack", "status")["manager"]["pid"]


def test_a_killed_manager_comes_back_and_vtpms_go_on(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    address = stack.json("vstack", "vtpm", "create", "a")["tpm"]
    _define(address)
    pid = _manager_pid(stack)
    os.kill(pid, signal.SIGKILL)
    _write(address, 7)  # waits in the ring until the new manager serves it
    assert _manager_pid(stack) != pid
    assert _read(address) == 7


def test_a_killed_vtpm_comes_back_with_what_it_acknowledged(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    shown = stack.json("vstack", "vtpm", "create", "a")
    _define(shown["tpm"])
    _write(shown["tpm"], 9)
    os.kill(shown["pid"], signal.SIGKILL)
    wait_until(lambda: stack.json("vstack", "vtpm", "show", "a").get("pid", 0) != shown["pid"])
    assert _read(shown["tpm"]) == 9


def _write_until_killed(stack: Stack, address: str, last: int, victim: int, delay_s: float) -> int:
    """Write rising values and kill `victim` after a while; returns the last one acknowledged."""
    killed_at = time.monotonic() + delay_s
    value = last
    try:
        while time.monotonic() < killed_at or value == last:
            _write(address, value + 1)
            value += 1
        os.kill(victim, signal.SIGKILL)
        _write(address, value + 1)
        value += 1
    except HwtpmError:
        return value
    return value


def _value_after_recovery(address: str) -> int:
    values: list[int] = []

    def readable() -> bool:
        with contextlib.suppress(HwtpmError):
            values.append(_read(address))
        return bool(values)

    wait_until(readable)
    return values[0]


def test_kills_under_traffic_lose_nothing_that_was_acknowledged(stack: Stack) -> None:
    """Manager and vTPM are killed in turn at random moments while values are written."""
    chance = random.Random(1)
    stack.run("vstack", "up", "--chip", "sim:")
    address = stack.json("vstack", "vtpm", "create", "a")["tpm"]
    _define(address)
    value = 0
    for number in range(8):
        wait_until(lambda: "pid" in stack.json("vstack", "vtpm", "show", "a"))
        shown = stack.json("vstack", "vtpm", "show", "a")
        victim = _manager_pid(stack) if number % 2 else shown["pid"]
        acknowledged = _write_until_killed(stack, address, value, victim, chance.uniform(0, 0.1))
        value = _value_after_recovery(address)
        assert value in (acknowledged, acknowledged + 1)


def test_a_killed_supervisor_takes_its_children_along_and_up_works_again(stack: Stack) -> None:
    up = stack.json("vstack", "up", "--chip", "sim:")
    address = stack.json("vstack", "vtpm", "create", "a")["tpm"]
    _define(address)
    _write(address, 5)
    os.kill(up["pid"], signal.SIGKILL)
    wait_until(lambda: stack.processes() == [])
    stack.run("vstack", "up")
    assert _read(address) == 5


def test_a_guest_notices_the_death_of_its_vtpm_and_its_next_reset_brings_it_back(
    stack: Stack,
) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    shown = stack.json("vstack", "vtpm", "create", "a")
    startup = bytes.fromhex("00c1 0000000c 00000099 0001")
    with GuestPort(Path(shown["host"]), "a") as port:
        port.power_on()
        assert port.execute(startup)[6:] == bytes(4)
        os.kill(shown["pid"], signal.SIGKILL)
        failed = False
        try:
            port.execute(startup)
        except HwtpmError:
            failed = True
        assert failed
        wait_until(lambda: stack.json("vstack", "vtpm", "show", "a").get("pid", 0) != shown["pid"])
        port.power_off()
        port.power_on()
        assert port.execute(startup)[6:] == bytes(4)


def test_a_vtpm_belongs_to_one_guest_at_a_time(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    host = Path(stack.json("vstack", "vtpm", "create", "a")["host"])
    with GuestPort(host, "a"), Client.connect(host, "vTPM a") as second:
        kind = ""
        try:
            second.call("attach")
        except HwtpmError as error:
            kind = error.kind
        assert kind == "busy"
        refused = ""
        try:
            second.call("power_on")
        except HwtpmError as error:
            refused = error.kind
        assert refused == "refused"
    with GuestPort(host, "a") as port:
        port.power_on()


def test_a_guest_cannot_kill_its_vtpm_by_leaving_no_room_for_the_answer(stack: Stack) -> None:
    """nr_extra_pages moves the data towards the page's end; a long answer does not fit then."""
    stack.run("vstack", "up", "--chip", "sim:")
    shown = stack.json("vstack", "vtpm", "create", "a")
    get_random = bytes.fromhex("00c1 0000000e 00000046") + (4000).to_bytes(4, "big")
    with Client.connect(Path(shown["host"]), "vTPM a") as client:
        _, fds = client.call_fds("attach")
        page, to_back, to_front = fds
        with mmap.mmap(page, 4096) as view:
            view[8 + 4 * 255 : 8 + 4 * 255 + len(get_random)] = get_random
            view[:8] = struct.pack("<IBBBB", len(get_random), 1, 0, 0, 255)
            os.eventfd_write(to_back, 1)
            bell = select.poll()
            bell.register(to_front, select.POLLIN)
            bell.register(client.fileno(), select.POLLRDHUP)
            assert bell.poll(30_000)
            assert view[4] == 2, "it has not answered"
        for fd in fds:
            os.close(fd)
    assert stack.json("vstack", "vtpm", "show", "a")["pid"] == shown["pid"]


def test_a_deep_quote_without_a_manager_is_refused_and_does_not_keep_it_away(
    stack: Stack,
) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    stack.run("vstack", "vtpm", "create", "a")
    store, away = stack.root / "state" / "manager.db", stack.root / "manager.db"
    manager = _manager_pid(stack)
    store.rename(away)  # so that the manager stays down
    os.kill(manager, signal.SIGKILL)

    def is_busy() -> bool:
        with Client.connect(stack.root / "run" / "control.sock", "the stack") as client:
            try:
                client.call("deep_quote", {"name": "a"})  # the vTPM would find more wrong with it
            except HwtpmError as error:
                return error.kind == "busy"
        return False

    wait_until(is_busy)
    away.rename(store)
    wait_until(lambda: stack.run("vstack", "status", check=False).returncode == 0)


def test_a_stuck_manager_keeps_neither_status_nor_down_waiting(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    stack.run("vstack", "vtpm", "create", "a")
    os.kill(_manager_pid(stack), signal.SIGSTOP)
    status = stack.json("vstack", "status")
    assert status["manager"]["problem"]["kind"] == "timeout"
    assert status["vtpms"][0]["running"] is True
    assert "did not answer" in stack.run("vstack", "status").stdout
    stack.run("vstack", "down")
    assert stack.processes() == []
