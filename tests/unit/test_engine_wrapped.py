"""What only our own engine can be asked about transport sessions and auditing: storage that fails
in the middle, an audit counter at its end, counters of AES that wrap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from engine_rig import KEY_AUTH, OWNER_AUTH, SRK_AUTH, Rig, new_identity, owned_engine, template

from hwtpm.client import pcr, transport
from hwtpm.client.keys import srk
from hwtpm.client.transport import TransportSession
from hwtpm.errors import TpmError, UsageError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.tpm12 import wrapped
from hwtpm.tpm12.commands.auditing import GetAuditDigest, SetOrdinalAuditStatus
from hwtpm.tpm12.commands.counters import CreateCounter, ReadCounter
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.startup import SaveState
from hwtpm.tpm12.commands.testing import GetTestResult
from hwtpm.tpm12.const import EncScheme, KeyAlgorithm, KeyUsage, TransportAttribute
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types.transport import TransportPublic
from hwtpm.transport.redact import command_text

IDENTITY = new_identity()
SECRET = bytes(range(20))
NONCES = b"e" * 20, b"o" * 20


@pytest.fixture
def engine() -> Engine:
    return owned_engine(IDENTITY)


@pytest.fixture
def rig(engine: Engine) -> Rig:
    return Rig(engine)


@pytest.fixture
def session(engine: Engine, rig: Rig) -> TransportSession:
    public = engine.root_key(srk().handle).public
    return transport.establish(rig.client, srk(Secret(SRK_AUTH)), public)


class FullDisk(Exception):
    """The storage cannot store."""


@contextmanager
def full_disk(engine: Engine) -> Iterator[None]:
    """Nothing can be stored, and the block notices."""

    def store(name: StateName, blob: bytes) -> None:
        raise FullDisk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.storage, "store", store)
        with pytest.raises(FullDisk):
            yield


def create_counter(rig: Rig, session: TransportSession) -> None:
    with rig.owner_osap() as auth:
        request = CreateCounter(auth.encrypt_auth(Secret(KEY_AUTH)), b"wrap")
        session.tpm.execute(request, auth)


def test_a_wrapped_command_that_cannot_be_stored_leaves_nothing(
    engine: Engine, rig: Rig, session: TransportSession
) -> None:
    before = engine.permanent
    with full_disk(engine):
        create_counter(rig, session)
    assert engine.permanent is before
    assert engine.transports.get(session.handle) is None


def test_a_refused_wrapped_command_undoes_itself_alone(
    engine: Engine, session: TransportSession
) -> None:
    before = engine.permanent, engine.stclear
    with pytest.raises(TpmError, match="BAD_COUNTER"):
        session.tpm.execute(ReadCounter(0x1234))
    assert (engine.permanent, engine.stclear) == before
    assert len(pcr.read(session.tpm, 0)) == 20


def test_a_state_saved_inside_stays_saved(engine: Engine, session: TransportSession) -> None:
    session.tpm.execute(SaveState())
    assert engine.storage.load(StateName.SAVED) is not None
    pcr.read(session.tpm, 0)
    assert engine.storage.load(StateName.SAVED) is None  # the session has gone on


def test_failures_inside_count_even_if_they_cannot_be_stored(
    engine: Engine, rig: Rig, session: TransportSession
) -> None:
    key = rig.make_key(template(KeyUsage.SIGNING, 1024))
    failures = engine.permanent.auth_failures
    auth = session.tpm.oiap(Secret(b"w" * 20))
    with full_disk(engine):
        session.tpm.execute(Sign(key.handle, bytes(20)), auth)
    assert engine.permanent.auth_failures == failures + 1


def test_an_audit_counter_at_its_end_is_a_failure(engine: Engine, rig: Rig) -> None:
    """8.2: the command is undone, and the TPM goes into failure mode."""
    engine.permanent = replace(engine.permanent, audit_counter=0xFFFFFFFF)
    before = engine.permanent
    request = SetOrdinalAuditStatus(TABLE["TPM_PcrRead"].ordinal, True)
    assert rig.refusal(request, OWNER_AUTH) == Rc.AUDITFAIL_UNSUCCESSFUL
    assert engine.permanent is before
    assert rig.refusal(PcrRead(0)) == Rc.FAILEDSELFTEST
    assert rig.refusal(GetTestResult()) == Rc.SUCCESS


def test_audit_and_its_counter_are_durable_with_the_command(engine: Engine, rig: Rig) -> None:
    request = SetOrdinalAuditStatus(TABLE["TPM_PcrRead"].ordinal, True)
    before = rig.run(GetAuditDigest(0))
    auth = rig.client.oiap(Secret(OWNER_AUTH))
    with full_disk(engine):
        rig.client.execute(request, auth)
    assert rig.run(GetAuditDigest(0)) == before
    rig.run(request, OWNER_AUTH)
    count = rig.run(GetAuditDigest(0)).counter_value
    engine.power_on()
    assert engine.permanent.audit_counter == count.counter == before.counter_value.counter + 1


def test_unknown_commands_do_not_travel(session: TransportSession) -> None:
    with pytest.raises(UsageError):
        session.execute(b"\0\xc1\0\0\0\x0a\0\0\x33\x33")


def test_traces_show_nothing_that_is_wrapped(rig: Rig) -> None:
    """A clear session's secret and the wrapped bytes are masked like any secret."""
    seen: list[bytes] = []
    original = rig.wire.execute

    def tapped(frame: bytes) -> bytes:
        seen.append(frame)
        return original(frame)

    rig.wire.execute = tapped  # type: ignore[method-assign]
    with transport.establish_clear(rig.client) as session:
        pcr.read(session.tpm, 1)
    establish, execute = seen[0], seen[1]
    assert establish[-4:].hex(" ") not in command_text(establish)
    assert "00 00 00 15 00 00 00 01" not in command_text(execute)


# --- AES ---------------------------------------------------------------------------------------


def aes(block: bytes) -> bytes:
    return Cipher(algorithms.AES128(SECRET[:16]), modes.ECB()).encryptor().update(block)


def stream_of(scheme: int, size: int) -> bytes:
    public = TransportPublic(TransportAttribute.ENCRYPT, KeyAlgorithm.AES128, scheme)
    return wrapped.crypt(public, SECRET, *NONCES, b"in", bytes(size))


def test_the_counter_starts_from_the_nonces() -> None:
    """24.2 action 4.b.i: 42 bytes are hashed."""
    first = hashlib.sha1(b"e" * 20 + b"o" * 20 + b"in" + bytes(4)).digest()[:16]
    assert stream_of(EncScheme.SYM_CTR, 10) == aes(first)[:10]
    assert (
        stream_of(EncScheme.SYM_OFB, 40)
        == (aes(first) + aes(aes(first)) + aes(aes(aes(first))))[:40]
    )


def test_only_four_bytes_of_the_counter_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """24.2, informative comment."""
    fixed = b"\xff" * 12
    monkeypatch.setattr(wrapped, "mgf1", lambda seed, size: fixed + b"\xff\xff\xff\xff")
    expected = aes(fixed + b"\xff" * 4) + aes(fixed + bytes(4)) + aes(fixed + b"\0\0\0\1")
    assert stream_of(EncScheme.SYM_CTR, 48) == expected
