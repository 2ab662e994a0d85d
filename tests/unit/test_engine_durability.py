"""What a whole life writes and when, and that the life repeats."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from engine_rig import OWNER_AUTH, SRK, SRK_AUTH, Identity, Rig, owned_engine, template
from recorded_life import DURABLE, Do, Recorder, Step, changed_fields, factory_new, take
from whole_life import NEVER_SUCCEED, live

from hwtpm.client import transport
from hwtpm.client.session import Tpm
from hwtpm.errors import StateError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.call import ACTIONS
from hwtpm.softtpm.engine.state import Permanent, encode_permanent
from hwtpm.tpm12.commands.auditing import SetOrdinalAuditStatus
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.integrity import Extend
from hwtpm.tpm12.commands.startup import SaveState, Startup
from hwtpm.tpm12.commands.storage import LoadKey2
from hwtpm.tpm12.const import KeyUsage, ResourceType, StartupType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE

STORE, DELETE, LOAD = "store", "delete", "load"
PERMANENT, SAVED = StateName.PERMANENT, StateName.SAVED


class Watched(MemoryStorage):
    """Storage that keeps what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, StateName]] = []
        self.refuses: set[tuple[str, StateName]] = set()

    def _note(self, what: str, name: StateName) -> None:
        self.calls.append((what, name))
        if (what, name) in self.refuses:
            raise StateError("the disk is full", hint="for the test")

    def load(self, name: StateName) -> bytes | None:
        self._note(LOAD, name)
        return super().load(name)

    def store(self, name: StateName, blob: bytes) -> None:
        self._note(STORE, name)
        super().store(name, blob)

    def delete(self, name: StateName) -> None:
        self._note(DELETE, name)
        super().delete(name)


@pytest.fixture(scope="module")
def lived() -> Recorder:
    recorder = Recorder(factory_new(MemoryStorage()))
    live(recorder)
    return recorder


def relive(lived: Recorder, look: Callable[[Step, Permanent, Engine], None]) -> Engine:
    """The same life on a new engine; `look` gets each step, what was permanent before, and the
    engine."""
    engine = factory_new(Watched())
    for step in lived.steps:
        before = engine.permanent
        storage = engine.storage
        assert isinstance(storage, Watched)
        storage.calls.clear()
        assert take(engine, step) == step.answer, step.name
        look(step, before, engine)
    return engine


def test_the_life_repeats_byte_for_byte(lived: Recorder) -> None:
    again = relive(lived, lambda step, before, engine: None)
    first = lived.engine
    assert isinstance(first.storage, MemoryStorage)
    assert isinstance(again.storage, MemoryStorage)
    assert again.storage.blobs == first.storage.blobs
    assert again.export_volatile() == first.export_volatile()
    assert again.permanent == first.permanent


def test_every_command_that_can_succeed_does(lived: Recorder) -> None:
    commands = {step.name for step in lived.steps if step.do == Do.COMMAND}
    succeeded = {step.name for step in lived.steps if step.succeeded}
    served = {serves.row.name for serves in ACTIONS.values()}
    assert len(served) == 119
    assert commands == served
    assert succeeded == served - set(NEVER_SUCCEED)


def test_the_commands_that_change_what_is_permanent_are_the_declared_ones(lived: Recorder) -> None:
    """The conformance suite holds each of its own commands against the same list."""
    changing = set()

    def look(step: Step, before: Permanent, engine: Engine) -> None:
        changed = changed_fields(before, engine.permanent)
        if step.do == Do.COMMAND and not step.succeeded:
            assert changed <= {"auth_failures"}, step.name
        elif step.do == Do.COMMAND and changed - {"audit_counter"}:
            changing.add(step.name)

    relive(lived, look)
    assert changing - {"TPM_ExecuteTransport"} == DURABLE


def test_nothing_is_written_but_what_changed_and_that_once(lived: Recorder) -> None:
    """Commands that change nothing permanent leave the storage alone altogether."""
    saved = False
    quiet = set()

    def look(step: Step, before: Permanent, engine: Engine) -> None:
        nonlocal saved
        storage = engine.storage
        assert isinstance(storage, Watched)
        stores = [(STORE, PERMANENT)] if engine.permanent is not before else []
        match step.name:
            case Do.POWER_ON:
                expected = [(LOAD, PERMANENT)]
            case "TPM_Startup" if step.data[-2:] == b"\0\2":
                expected = [(LOAD, SAVED), (DELETE, SAVED)]
            case "TPM_Startup":
                expected = [(DELETE, SAVED)]
            case "TPM_SaveState":
                expected = [*stores, (STORE, SAVED)]
            case _:
                outdated = saved and SAVED not in storage.blobs
                expected = [*([(DELETE, SAVED)] if outdated else []), *stores]
        assert storage.calls == expected, step.name
        saved = SAVED in storage.blobs
        if not storage.calls:
            quiet.add(step.name)

    relive(lived, look)
    served = {serves.row.name for serves in ACTIONS.values()}
    assert served - quiet <= DURABLE | {"TPM_Startup", "TPM_SaveState"}


# --- the saved state ------------------------------------------------------------------------------


@pytest.fixture
def owned(tpm_identity: Identity) -> tuple[Rig, Watched]:
    """The first audited command after TPM_Startup is TPM_SaveState."""
    engine = owned_engine(tpm_identity)
    for name in ("TPM_SaveState", "TPM_ExecuteTransport"):
        Rig(engine).run(SetOrdinalAuditStatus(TABLE[name].ordinal, True), OWNER_AUTH)
    storage = Watched()
    storage.store(PERMANENT, encode_permanent(engine.permanent))
    engine = Engine(storage)
    engine.power_on()
    rig = Rig(engine)
    rig.run(Startup(StartupType.CLEAR))
    storage.calls.clear()
    return rig, storage


def refused(rig: Rig) -> bool:
    try:
        rig.run(SaveState())
    except StateError:
        return True
    return False


def test_the_saved_state_is_written_last(owned: tuple[Rig, Watched]) -> None:
    """A crash in between leaves none, and never one that the audit counter does not know of."""
    rig, storage = owned
    rig.run(SaveState())
    assert storage.calls == [(STORE, PERMANENT), (STORE, SAVED)]


@pytest.mark.parametrize("name", [PERMANENT, SAVED])
def test_a_save_that_fails_leaves_nothing_saved(
    owned: tuple[Rig, Watched], name: StateName
) -> None:
    rig, storage = owned
    storage.refuses = {(STORE, name)}
    assert refused(rig)
    assert SAVED not in storage.blobs
    storage.refuses.clear()
    rig.run(SaveState())
    assert SAVED in storage.blobs


def test_what_was_saved_before_is_forgotten_before_the_permanent_state_changes(
    owned: tuple[Rig, Watched],
) -> None:
    rig, storage = owned
    rig.run(SaveState())
    storage.calls.clear()
    rig.run(SetOrdinalAuditStatus(TABLE["TPM_PcrRead"].ordinal, True), OWNER_AUTH)
    assert storage.calls == [(DELETE, SAVED), (STORE, PERMANENT)]


def test_a_failed_save_is_not_made_up_for_later(owned: tuple[Rig, Watched]) -> None:
    rig, storage = owned
    storage.refuses = {(STORE, SAVED)}
    assert refused(rig)
    storage.refuses.clear()
    rig.run(Extend(3, bytes(20)))
    rig.wire.tpm.hash_start()
    assert SAVED not in storage.blobs


def test_a_state_saved_in_an_audited_transport_session_comes_back(
    owned: tuple[Rig, Watched],
) -> None:
    rig, _ = owned
    Tpm(transport.establish_clear(rig.client)).execute(SaveState())
    rig.wire.tpm.power_on()
    assert rig.refusal(Startup(StartupType.STATE)) == Rc.SUCCESS


# --- what is loaded ------------------------------------------------------------------------------


def test_what_a_command_loads_that_cannot_be_durable_is_not_loaded(
    owned: tuple[Rig, Watched],
) -> None:
    """It outdates the saved state, which cannot be deleted: TPM_FAIL, and no slot is lost."""
    rig, storage = owned
    key = rig.create_key(template(KeyUsage.SIGNING, 512))
    loaded = rig.load(key).handle
    session = rig.client.oiap(Secret(SRK_AUTH))
    rig.run(SaveState())
    storage.refuses = {(DELETE, SAVED)}
    engine = rig.wire.tpm
    assert isinstance(engine, Engine)
    with pytest.raises(StateError):
        rig.client.oiap(Secret(SRK_AUTH))
    with pytest.raises(StateError):
        transport.establish_clear(rig.client)
    with pytest.raises(StateError):
        rig.run(FlushSpecific(loaded, ResourceType.KEY))
    with pytest.raises(StateError):
        rig.client.execute(LoadKey2(SRK, key), session)
    assert engine.keys.handles == (loaded,)
    assert engine.sessions.handles == engine.transports.handles == ()
    storage.refuses.clear()
    rig.load(key)
    assert len(engine.keys) == 2
