"""Our engine under bad input, failing storage and defects: answers, and state that stays whole."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from engine_pair import frame, rc_of
from engine_rig import KEY_AUTH, OWNER_AUTH, SRK, SRK_AUTH, Identity, Rig, owned_engine, template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_strategies import structures

from hwtpm.errors import StateError, UsageError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.call import ACTIONS, serves
from hwtpm.softtpm.engine.state import decode_permanent
from hwtpm.tpm12.auth import authorise, request_digest
from hwtpm.tpm12.commands.cryptography import GetRandom, SHA1Start, SHA1Update, StirRandom
from hwtpm.tpm12.commands.integrity import Extend, PcrRead
from hwtpm.tpm12.commands.management import ResetLockValue
from hwtpm.tpm12.commands.nv import NvDefineSpace, NvReadValue, NvWriteValue
from hwtpm.tpm12.commands.optin import SetOwnerInstall
from hwtpm.tpm12.commands.ownership import OwnerClear, PhysicalPresence
from hwtpm.tpm12.commands.sessions import OIAP, OSAP
from hwtpm.tpm12.commands.startup import SaveState, Startup
from hwtpm.tpm12.commands.testing import SelfTestFull
from hwtpm.tpm12.const import KeyUsage, StartupType
from hwtpm.tpm12.frame import build_request
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply, Request
from hwtpm.tpm12.types import NvAttributes, NvDataPublic, PcrInfoShort, PcrSelection
from hwtpm.wire import Struct

ANYWHERE = PcrInfoShort(PcrSelection.of(()), 0x1F, bytes(20))
AREA = NvDataPublic(1, ANYWHERE, ANYWHERE, NvAttributes(1), False, False, False, 32)
VALID: tuple[Request[Struct], ...] = (
    Startup(StartupType.CLEAR),
    SaveState(),
    SelfTestFull(),
    PcrRead(1),
    Extend(1, bytes(20)),
    GetRandom(8),
    StirRandom(b"x"),
    SHA1Start(),
    SHA1Update(bytes(64)),
    NvDefineSpace(AREA, bytes(20)),
    NvWriteValue(1, 0, b"data"),
    NvReadValue(1, 0, 4),
    PhysicalPresence(0x20),
    OIAP(),
    OSAP(2, 0x40000001, bytes(20)),
)
# Making a key takes a tenth of a second; its own tests cover it.
SLOW = {"TPM_CreateEndorsementKeyPair", "TPM_CreateWrapKey", "TPM_MakeIdentity"}
ORDINALS = sorted(ordinal for ordinal, served in ACTIONS.items() if served.row.name not in SLOW)


class FaultyStorage(MemoryStorage):
    """Raises from every write while `full`."""

    full = False

    def store(self, name: StateName, blob: bytes) -> None:
        if self.full:
            raise StateError("no space left")
        super().store(name, blob)

    def delete(self, name: StateName) -> None:
        if self.full:
            raise StateError("no space left")
        super().delete(name)


def started(storage: MemoryStorage | None = None) -> Engine:
    engine = Engine(storage or MemoryStorage())
    engine.power_on()
    assert rc_of(engine.execute(frame(Startup(StartupType.CLEAR)))) == 0
    return engine


def check_answer(engine: Engine, command: bytes, locality: int) -> None:
    """A whole response; a refusal is ten bytes and leaves the permanent state and PCRs alone."""
    failures = engine.permanent.auth_failures
    before, volatile = engine.permanent, engine.stclear
    answer = engine.execute(command, locality)
    assert int.from_bytes(answer[2:6], "big") == len(answer) <= 4096
    if rc_of(answer):
        assert len(answer) == 10
        assert replace(engine.permanent, auth_failures=failures) == before
        assert engine.stclear is volatile
    stored = engine.storage.load(StateName.PERMANENT)
    assert stored is not None
    assert decode_permanent(stored) == engine.permanent


FUZZ = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@FUZZ
@given(
    tag=st.sampled_from((0xC1, 0xC2, 0xC3)),
    ordinal=st.sampled_from(ORDINALS),
    body=st.binary(max_size=160),
    locality=st.integers(-1, 5),
)
def test_random_parameters_are_answered(tag: int, ordinal: int, body: bytes, locality: int) -> None:
    engine = started()
    check_answer(engine, struct.pack(">HII", tag, 10 + len(body), ordinal) + body, locality)


@FUZZ
@given(
    start=st.sampled_from(VALID),
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255), st.booleans()), max_size=4),
    cut=st.integers(0, 40),
    mend=st.booleans(),
)
def test_mutated_valid_commands_are_answered(
    start: Request[Struct], edits: list[tuple[int, int, bool]], cut: int, mend: bool
) -> None:
    command = bytearray(frame(start))
    for at, value, insert in edits:
        if insert:
            command.insert(at % (len(command) + 1), value)
        else:
            command[at % len(command)] = value
    if cut < 10:
        del command[len(command) - cut :]
    if mend and len(command) >= 10:
        command[2:6] = len(command).to_bytes(4, "big")
    if int.from_bytes(command[6:10], "big") in ORDINALS:
        check_answer(started(), bytes(command), 0)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_long_sequences_keep_memory_and_storage_equal(data: st.DataObject) -> None:
    engine = started()
    for _ in range(data.draw(st.integers(1, 25))):
        request = data.draw(st.sampled_from(VALID))
        check_answer(engine, frame(request), data.draw(st.integers(0, 4)))
    kept = engine.permanent
    engine.power_on()
    assert engine.permanent == kept


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_authorised_commands_with_any_parameters_are_answered(
    tpm_identity: Identity, data: st.DataObject
) -> None:
    engine = owned_engine(tpm_identity)
    request_class = ACTIONS[data.draw(st.sampled_from(ORDINALS))].row.request
    assert request_class is not None
    row = request_class.command
    client = Rig(engine).client
    secrets = [client.oiap(Secret(secret)).state for secret in (OWNER_AUTH, bytes(20))]
    count = data.draw(st.sampled_from(sorted(row.auths)))
    first = data.draw(st.integers(0, 2 - count)) if count else 0
    body = data.draw(structures(request_class)).encode()
    digest = request_digest(row.ordinal, body[request_class.layout.head_size :])
    tails = tuple(
        authorise(session, digest, bytes(20), continue_session=data.draw(st.booleans()))
        for session in secrets[first : first + count]
    )
    before = engine.permanent
    answer = engine.execute(build_request(row.ordinal, body, tails), data.draw(st.integers(0, 4)))
    assert int.from_bytes(answer[2:6], "big") == len(answer) <= 4096
    if rc_of(answer):
        assert replace(engine.permanent, auth_failures=0) == before
    elif engine.permanent is not before:
        stored = engine.storage.load(StateName.PERMANENT)
        assert stored is not None
        assert decode_permanent(stored) == engine.permanent


class TestFailingStorage:
    @pytest.mark.parametrize(
        "request_", [NvDefineSpace(AREA, bytes(20)), SaveState()], ids=["permanent", "saved"]
    )
    def test_nothing_is_acknowledged_and_the_old_state_stays(
        self, request_: Request[Struct]
    ) -> None:
        storage = FaultyStorage()
        engine = started(storage)
        before, volatile, blobs = engine.permanent, engine.stclear, dict(storage.blobs)
        storage.full = True
        with pytest.raises(StateError, match="no space left"):
            engine.execute(frame(request_))
        assert (engine.permanent, engine.stclear) == (before, volatile)
        assert storage.blobs == blobs
        storage.full = False
        assert rc_of(engine.execute(frame(request_))) == 0

    def test_an_extend_that_cannot_drop_the_saved_state_does_not_happen(self) -> None:
        storage = FaultyStorage()
        engine = started(storage)
        engine.execute(frame(SaveState()))
        storage.full = True
        with pytest.raises(StateError):
            engine.execute(frame(Extend(1, bytes(20))))
        assert engine.execute(frame(PcrRead(1)))[10:] == bytes(20)
        storage.full = False
        engine.power_on()
        assert rc_of(engine.execute(frame(Startup(StartupType.STATE)))) == 0

    def test_clearing_that_is_not_durable_unloads_nothing(self, tpm_identity: Identity) -> None:
        engine = owned_engine(tpm_identity)
        storage = FaultyStorage()
        storage.blobs = dict(engine.storage.blobs)  # type: ignore[attr-defined]
        engine.storage = storage
        rig = Rig(engine)
        rig.client.oiap(Secret(bytes(20)))
        storage.full = True
        with pytest.raises(StateError):
            rig.run(OwnerClear(), OWNER_AUTH)
        assert engine.owned
        assert len(engine.sessions) == 1

    def test_wrong_authorisation_counts_even_when_it_cannot_be_stored(
        self, tpm_identity: Identity
    ) -> None:
        engine = owned_engine(tpm_identity)
        storage = FaultyStorage()
        engine.storage = storage
        storage.full = True
        with pytest.raises(StateError):
            Rig(engine).refusal(ResetLockValue(), b"w" * 20)
        assert engine.permanent.auth_failures == 1

    def test_a_measured_launch_that_is_not_durable_does_not_begin(self) -> None:
        storage = FaultyStorage()
        engine = started(storage)
        storage.full = True
        with pytest.raises(StateError):
            engine.hash_start()
        assert not engine.established
        assert engine.execute(frame(PcrRead(17)))[10:] == b"\xff" * 20

    def test_a_measured_launch_whose_measurement_is_lost_ends_in_failure_mode(self) -> None:
        storage = FaultyStorage()
        engine = started(storage)
        engine.hash_start()
        engine.hash_data(b"launched code")
        assert rc_of(engine.execute(frame(SaveState()))) == 0
        storage.full = True
        with pytest.raises(StateError):
            engine.hash_end()
        assert rc_of(engine.execute(frame(Extend(17, bytes(20))), 4)) == Rc.FAILEDSELFTEST


def test_a_defect_in_an_action_is_not_hidden_and_takes_its_changes_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = started()
    served = ACTIONS[PcrRead.command.ordinal]

    def broken(call: object, request: object) -> Struct:
        engine.stclear = engine.volatile.with_pcr(0, b"x" * 20)
        engine.permanent = replace(engine.permanent, auth_failures=7)
        raise RuntimeError("a defect")

    action: Callable[..., Struct] = broken
    monkeypatch.setitem(ACTIONS, served.row.ordinal, replace(served, action=action))
    before, volatile = engine.permanent, engine.stclear
    with pytest.raises(RuntimeError, match="a defect"):
        engine.execute(frame(PcrRead(0)))
    assert (engine.permanent, engine.stclear) == (before, volatile)
    assert rc_of(engine.execute(frame(GetRandom(1)))) == 0


def test_no_command_has_two_actions() -> None:
    with pytest.raises(TypeError, match="TPM_PcrRead has two actions"):
        serves(PcrRead)(lambda call, request: NoReply())


def test_a_failed_command_ends_its_sessions() -> None:
    engine = started()
    opened = engine.execute(frame(OIAP()))
    tail = opened[10:14] + bytes(20) + b"\1" + bytes(20)
    body = frame(NvReadValue(0x10000001, 0, 4))[10:] + tail
    command = struct.pack(">HII", 0xC2, 10 + len(body), 0xCF) + body
    assert rc_of(engine.execute(command)) == Rc.AUTHFAIL
    assert rc_of(engine.execute(command)) == Rc.INVALID_AUTHHANDLE


def test_an_engine_that_is_off_says_so() -> None:
    with pytest.raises(UsageError, match="is off"):
        Engine(MemoryStorage()).execute(frame(PcrRead(0)))


def test_an_unchanged_flag_writes_nothing() -> None:
    storage = MemoryStorage()
    engine = started(storage)
    for value in (0x20, 8):
        engine.execute(frame(PhysicalPresence(value)))
    # The first audited command of a start counts in the audit counter (8.1 action 2.a).
    assert rc_of(engine.execute(frame(SetOwnerInstall(True)))) == 0
    writes = storage.writes
    assert rc_of(engine.execute(frame(SetOwnerInstall(True)))) == 0
    assert storage.writes == writes


def test_no_secret_is_in_the_text_of_what_the_engine_holds(tpm_identity: Identity) -> None:
    engine = owned_engine(tpm_identity)
    rig = Rig(engine)
    rig.make_key(template(KeyUsage.SIGNING, 1024))
    contents = b"what the area has, secretly here"
    for request in (NvDefineSpace(AREA, bytes(20)), NvWriteValue(1, 0, contents)):
        assert rc_of(engine.execute(frame(request))) == 0
    with rig.osap(SRK, SRK_AUTH):
        (session,) = engine.sessions
        (key,) = engine.keys
        shown = f"{session!r} {key!r} {engine.permanent!r}"
        secrets = (session.shared_secret, KEY_AUTH, key.migration_auth, OWNER_AUTH, contents)
        assert not [secret for secret in secrets if repr(secret)[2:-1] in shown]
