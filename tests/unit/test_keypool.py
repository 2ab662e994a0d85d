"""The key pool: each key once, whatever is forked or killed, and an engine that lives without."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from hwtpm.errors import Busy
from hwtpm.softtpm.engine.entropy import PooledEntropy
from hwtpm.softtpm.keypool import KeyPool
from vstack.host.layout import Layout
from vstack.host.supervisor import Permit, Supervisor

DEADLINE_S = 30.0


@pytest.fixture
def pool() -> Iterator[KeyPool]:
    made = KeyPool()
    yield made
    made.close()


def wait_for_key(pool: KeyPool) -> RSAPrivateKey:
    while select.select([pool], [], [], DEADLINE_S)[0]:
        if (key := pool.take(2048)) is not None:  # else another process was quicker
            return key
    raise AssertionError("the filler made no key in time")


def modulus(key: RSAPrivateKey) -> int:
    return key.public_key().public_numbers().n


def test_keys_are_valid_and_never_the_same(pool: KeyPool) -> None:
    keys = [wait_for_key(pool) for _ in range(12)]
    assert len({modulus(key) for key in keys}) == 12
    for key in keys[:2]:
        assert key.key_size == 2048
        key.private_numbers().private_key()  # the library's own check of all numbers


def test_forked_processes_share_no_key(pool: KeyPool) -> None:
    reading, writing = os.pipe()
    children = []
    for _ in range(3):
        if (pid := os.fork()) == 0:
            for _ in range(3):
                os.write(writing, modulus(wait_for_key(pool)).to_bytes(256, "big"))
            os._exit(0)
        children.append(pid)
    ours = [modulus(wait_for_key(pool)) for _ in range(3)]
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        theirs = [int.from_bytes(pipe.read(256), "big") for _ in range(9)]
        assert pipe.read() == b""
    assert len({*ours, *theirs}) == 12


def test_a_key_taken_by_a_process_that_is_killed_is_gone(pool: KeyPool) -> None:
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writing, modulus(wait_for_key(pool)).to_bytes(256, "big"))
        signal.pause()
    with os.fdopen(reading, "rb") as pipe:
        taken = int.from_bytes(pipe.read(256), "big")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(writing)
    assert taken not in {modulus(wait_for_key(pool)) for _ in range(12)}


def test_an_engine_goes_on_when_the_filler_is_dead(pool: KeyPool) -> None:
    entropy = PooledEntropy(pool)
    watch = os.pidfd_open(pool.filler_pid)
    os.kill(pool.filler_pid, signal.SIGKILL)
    assert select.select([watch], [], [], DEADLINE_S)[0]
    os.close(watch)
    while pool.take(2048) is not None:  # what was ready before
        pass
    assert entropy.rsa_key(2048).key_size == 2048


def test_other_sizes_are_not_taken_from_the_pool(pool: KeyPool) -> None:
    select.select([pool], [], [], DEADLINE_S)
    assert pool.take(1024) is None
    assert PooledEntropy(pool).rsa_key(1024).key_size == 1024


def test_the_filler_ends_when_nobody_reads_any_more(pool: KeyPool) -> None:
    watch = os.pidfd_open(pool.filler_pid)
    orphaned = KeyPool.__new__(KeyPool)  # the same pool as another process would hold it
    orphaned.__dict__.update(pool.__dict__, _owner=0)
    orphaned.close()
    assert select.select([watch], [], [], DEADLINE_S)[0], "the filler goes on for nobody"
    os.close(watch)


# --- a filler that is not what it should be ------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[KeyPool, socket.socket]]:
    """A pool, and the socket's other end in place of its filler."""
    readers, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pool = KeyPool.__new__(KeyPool)
    pool.__dict__.update(_readers=readers, _owner=0)
    yield pool, writer
    pool.close()
    writer.close()


def primes(bits: int) -> tuple[bytes, bytes]:
    numbers = rsa.generate_private_key(65537, bits).private_numbers()
    p, q = (number.to_bytes(128, "big") for number in (numbers.p, numbers.q))
    return p, q


def test_only_keys_are_taken(ends: tuple[KeyPool, socket.socket]) -> None:
    pool, writer = ends
    p, q = primes(2048)
    small, _ = primes(1024)
    even = (int.from_bytes(q, "big") - 1).to_bytes(128, "big")
    composite = (int.from_bytes(q, "big") - 2).to_bytes(128, "big")
    for garbage in (
        p,
        p + q[:-1],
        p + q + b"\0",
        bytes(256),
        b"\xff" * 256,
        p + bytes(128),
        bytes(128) + q,
        p + p,
        p + small,
        p + even,
        p + composite,
        p + q[::-1],
    ):
        writer.send(garbage)
        assert pool.take(2048) is None
        assert PooledEntropy(pool).rsa_key(1024).key_size == 1024
    writer.send(p + q)
    key = pool.take(2048)
    assert key is not None
    assert modulus(key) == int.from_bytes(p, "big") * int.from_bytes(q, "big")


def test_a_filler_that_is_gone_gives_no_key(ends: tuple[KeyPool, socket.socket]) -> None:
    pool, writer = ends
    assert pool.take(2048) is None
    # What it leaves unread makes the kernel say that the connection was reset.
    pool._readers.send(b"what no reader has reason to send")
    writer.close()
    assert pool.take(2048) is None
    assert pool.take(2048) is None
    pool.close()
    assert pool.take(2048) is None


def test_nobody_who_shares_the_socket_can_make_others_wait(
    ends: tuple[KeyPool, socket.socket],
) -> None:
    pool, _ = ends
    os.set_blocking(pool.fileno(), True)  # of the open file, which forked processes share
    assert pool.take(2048) is None


# --- descriptors and processes -------------------------------------------------------------------


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def test_a_pool_leaves_neither_descriptors_nor_zombies() -> None:
    before = descriptors()
    pool = KeyPool()
    assert len(descriptors() - before) == 1
    pool.close()
    assert descriptors() == before
    assert not is_child(pool.filler_pid)


def test_a_filler_that_was_killed_is_reaped() -> None:
    pool = KeyPool()
    os.kill(pool.filler_pid, signal.SIGKILL)
    assert pool.reap() == -signal.SIGKILL
    assert not is_child(pool.filler_pid)
    pool.close()


def test_without_room_for_a_process_there_is_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(Busy, match="cannot start the process that makes keys"):
        KeyPool()
    assert descriptors() == before


def test_without_room_for_a_descriptor_there_is_no_pool() -> None:
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(Busy):
            KeyPool()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert descriptors() == before


# --- the supervisor ----------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    with tempfile.TemporaryDirectory(prefix="pool-") as run:  # Unix sockets have short paths
        yield Layout(tmp_path / "state", Path(run))


def test_a_stack_whose_pool_cannot_start_says_so_and_leaves_nothing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(layout, "sim:", lambda text: None, Permit(key_pool=True))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(Busy, match="cannot start the process that makes keys") as raised:
        supervisor.start()
    assert "without a pool" in (raised.value.hint or "")
    for lock in layout.lock():  # nobody has them
        os.close(lock)


def test_a_stack_whose_filler_dies_goes_on_and_keeps_no_zombie(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(layout, "sim:", lambda text: None, Permit(key_pool=True))
    supervisor.start()
    try:
        pool = supervisor._pool
        assert pool is not None
        os.kill(pool.filler_pid, signal.SIGKILL)
        while "no more keys are made ahead" not in caplog.text:
            supervisor._loop.turn(DEADLINE_S)
        assert not is_child(pool.filler_pid)
        assert "problem" not in supervisor._manager_status()
    finally:
        supervisor.stop()
