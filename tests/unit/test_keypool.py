"""The key pool: each key once, whatever is forked or killed, and an engine that lives without."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from hwtpm.softtpm.engine.entropy import PooledEntropy
from hwtpm.softtpm.keypool import KeyPool

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
