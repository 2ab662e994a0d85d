"""What coverage-guided fuzzing checks, apart from the fuzzer: the suite runs it on the kept seeds.

An input for the dispatcher is a life of up to a few commands. One record is: index of the ordinal
among all in the table (1 byte), flags (1: bits 0-1 sessions, bits 2-4 locality, bit 5 wrong HMAC),
length of what follows (2), handles and parameters.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa as library
from engine_rig import KEY_AUTH, OWNER_AUTH, SRK_AUTH, Identity, owned_engine, root_key
from samples import SAMPLES

import hwtpm.tpm12.commands  # noqa: F401 - fills the table
from hwtpm.clock import FakeClock
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.entropy import RepeatableEntropy
from hwtpm.softtpm.engine.state import Permanent, decode_permanent, encode_permanent
from hwtpm.tpm12.auth import request_digest, session_hmac
from hwtpm.tpm12.frame import HEADER_SIZE
from hwtpm.tpm12.table import TABLE, Command
from hwtpm.wire import WireError

__all__ = ["QuickKeys", "check_decode", "check_dispatch", "record", "seeds", "stock_key"]

ROWS: Final = tuple(TABLE)
INDEX: Final = {row.name: number for number, row in enumerate(ROWS)}
STARTUP: Final = struct.pack(">HIIH", 0xC1, 12, 0x99, 1)
OIAP: Final = struct.pack(">HII", 0xC1, 10, 0x0A)
MOST_COMMANDS: Final = 12


def record(
    row: Command, body: bytes, *, auths: int = 0, locality: int = 0, wrong: int = 0
) -> bytes:
    """One command of an input."""
    flags = auths | locality << 2 | wrong << 5
    return struct.pack(">BBH", INDEX[row.name], flags, len(body)) + body


def seeds() -> Iterator[tuple[str, bytes, bytes]]:
    """Name and input for both targets from each sample request of the conformance suite."""
    for name, request in SAMPLES.items():
        row, body = request.command, request.encode()
        life = b"".join(record(row, body, auths=auths) for auths in sorted(row.auths))
        yield name, bytes([INDEX[name]]) + body, life


def records(data: bytes) -> Iterator[tuple[Command, int, int, bool, bytes]]:
    """Ordinal's row, sessions, locality, wrong HMAC, body; as many as there are."""
    at = 0
    for _ in range(MOST_COMMANDS):
        if at + 4 > len(data):
            return
        index, flags, size = struct.unpack_from(">BBH", data, at)
        body = data[at + 4 : at + 4 + size]
        at += 4 + len(body)
        yield ROWS[index % len(ROWS)], flags & 3, flags >> 2 & 7, bool(flags & 32), body


def check_decode(data: bytes) -> None:
    """Bytes are a request or reply of each command, or a WireError; what decodes encodes back."""
    row = ROWS[data[0] % len(ROWS)] if data else ROWS[0]
    for layout_of in (row.request, row.reply):
        if layout_of is None:
            continue
        try:
            value = layout_of.decode(data[1:])
        except WireError:
            continue
        assert value.encode() == data[1:], row.name
        repr(value)


class QuickKeys(RepeatableEntropy):
    """Keys are taken from a few: prime numbers would take all the fuzzer's time."""

    def rsa_key(self, bits: int) -> library.RSAPrivateKey:
        return stock_key(bits, self.random(1)[0] % 2)


@lru_cache(maxsize=256)
def stock_key(bits: int, number: int) -> library.RSAPrivateKey:
    return RepeatableEntropy(b"fuzz%d/%d" % (bits, number)).rsa_key(bits)


@lru_cache(maxsize=1)
def _owned() -> bytes:
    identity = Identity(
        root_key(stock_key(2048, 0)), root_key(stock_key(2048, 1)), hashlib.sha1(b"proof").digest()
    )
    return encode_permanent(owned_engine(identity).permanent)


def _engine() -> Engine:
    storage = MemoryStorage()
    storage.store(StateName.PERMANENT, _owned())
    engine = Engine(storage, entropy=QuickKeys(b"fuzz"), clock=FakeClock())
    engine.power_on()
    assert _rc(engine.execute(STARTUP)) == 0
    return engine


def check_dispatch(data: bytes) -> None:
    """No exception, whole responses, what was refused changed nothing, what is stored is the
    state."""
    engine = _engine()
    for row, auths, locality, wrong, body in records(data):
        before = engine.permanent, engine.stclear
        tails = _tails(engine, row, body, auths, wrong)
        frame = struct.pack(">HII", 0xC1 + auths, 10 + len(body) + len(tails), row.ordinal)
        response = engine.execute(frame + body + tails, locality)
        _check_response(row, auths, response)
        if _rc(response):
            after = engine.permanent, engine.stclear
            assert _but_failures(after[0]) == _but_failures(before[0]), row.name
            assert after[1] == before[1], row.name
        assert isinstance(engine.storage, MemoryStorage)
        stored = engine.storage.blobs[StateName.PERMANENT]
        assert decode_permanent(stored) == engine.permanent, row.name
        if engine.failure:
            assert row.name == "TPM_Startup", engine.failure
            return


def _but_failures(permanent: Permanent) -> Permanent:
    return replace(permanent, auth_failures=0, audit_counter=0)


def _rc(response: bytes) -> int:
    return int.from_bytes(response[6:10], "big")


def _check_response(row: Command, auths: int, response: bytes) -> None:
    tag, size, rc = struct.unpack_from(">HII", response)
    assert size == len(response), row.name
    if rc:
        assert (tag, size) == (0xC4, HEADER_SIZE), row.name
        return
    assert tag == 0xC4 + auths, row.name
    assert row.reply is not None
    stop = size - 41 * auths
    assert row.reply.layout.read(response, HEADER_SIZE, stop)[1] == stop, row.name


def _tails(engine: Engine, row: Command, body: bytes, auths: int, wrong: bool) -> bytes:
    head = row.request.layout.head_size if row.request else 0
    digest = request_digest(row.ordinal, body[head:])
    secrets = (
        (SRK_AUTH, OWNER_AUTH) if auths == 2 else (OWNER_AUTH if wrong else SRK_AUTH, KEY_AUTH)
    )
    made = b""
    for number in range(auths):
        response = engine.execute(OIAP)
        if _rc(response):
            return made + bytes(45)
        handle, nonce_even = response[10:14], response[14:34]
        mac = session_hmac(secrets[number % 2], digest, nonce_even, bytes(20), 0)
        made += handle + bytes(21) + mac
    return made
