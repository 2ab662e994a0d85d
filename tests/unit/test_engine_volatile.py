"""The volatile state of our engine at rest, and what is at rest in the TPM itself."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from engine_rig import KEY_AUTH, OWNER_AUTH, Rig, new_identity, owned_engine, template

from hwtpm.clock import FakeClock
from hwtpm.errors import Busy, StateError
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.daa_sessions import DaaSession
from hwtpm.softtpm.engine.handles import HandleTable
from hwtpm.softtpm.engine.sessions import Session
from hwtpm.softtpm.engine.state import encode_permanent
from hwtpm.softtpm.engine.transports import TransportSession
from hwtpm.tpm12.commands.context import KeyControlOwner, SaveContext
from hwtpm.tpm12.commands.cryptography import SHA1Start, SHA1Update, Sign
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import KeyUsage, ResourceType, StartupType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types.daa import DaaTpm
from hwtpm.tpm12.types.transport import TransportPublic


def started(clock: FakeClock | None = None) -> Engine:
    engine = Engine(MemoryStorage(), clock=clock or FakeClock())
    engine.power_on()
    Rig(engine).run(Startup(StartupType.CLEAR))
    return engine


def moved(engine: Engine, clock: FakeClock | None = None) -> Engine:
    """The TPM, gone on in another object with its stored state."""
    storage = MemoryStorage()
    assert isinstance(engine.storage, MemoryStorage)
    storage.blobs = dict(engine.storage.blobs)
    other = Engine(storage, clock=clock or FakeClock(777.0))
    other.import_volatile(engine.export_volatile())
    return other


def test_a_launch_under_way_cannot_be_moved() -> None:
    engine = started()
    engine.hash_start()
    engine.hash_data(b"kernel")
    with pytest.raises(Busy):
        engine.export_volatile()
    engine.hash_end()
    other = moved(engine)
    assert other.volatile.tos_present
    assert other.volatile.pcrs == engine.volatile.pcrs


def test_a_tpm_that_was_not_started_waits_for_its_startup_elsewhere() -> None:
    engine = Engine(MemoryStorage(), clock=FakeClock())
    engine.power_on()
    rig = Rig(moved(engine))
    assert rig.refusal(PcrRead(0)) == Rc.INVALID_POSTINIT
    assert rig.refusal(Startup(StartupType.CLEAR)) == Rc.SUCCESS


def test_failure_mode_goes_along() -> None:
    engine = started()
    engine.enter_failure_mode("for the test")
    other = moved(engine)
    assert other.failure == "for the test"
    assert Rig(other).refusal(PcrRead(0)) == Rc.FAILEDSELFTEST


def test_a_sha1_calculation_ends_with_a_move() -> None:
    engine = started()
    Rig(engine).run(SHA1Start())
    assert Rig(moved(engine)).refusal(SHA1Update(bytes(64))) == Rc.SHA_THREAD


def test_the_wait_of_the_dictionary_attack_defence_goes_on() -> None:
    clock = FakeClock()
    engine = started(clock)
    engine.permanent = replace(engine.permanent, auth_failures=8)
    engine.storage.store(StateName.PERMANENT, encode_permanent(engine.permanent))
    engine.lockout.resume(8)  # waits 4 s
    engine.lockout.block_reset()
    clock.sleep(1.5)
    elsewhere = FakeClock(1000.0)
    other = moved(engine, elsewhere)
    assert other.lockout.reset_blocked(8)
    elsewhere.sleep(2.0)
    assert other.locked_out
    elsewhere.sleep(1.0)
    assert not other.locked_out


def test_sessions_of_every_kind_go_along() -> None:
    engine = started()
    oiap = Session(0x02000001, b"n" * 20)
    osap = Session(0x02000002, b"m" * 20, (1, b"d" * 20), b"s" * 20, 0)
    transport = TransportSession(
        0x04000001, b"t" * 20, auth=b"a" * 20, public=TransportPublic(1, 6, 4), log=b"l" * 20
    )
    tpm = DaaTpm(*[b"v" * 20] * 3, b"r" * 20, 4)
    daa = DaaSession(
        *(0x06000001, True, 7, None, tpm, b"c" * 20, b"x" * 20, b"scratch"),
        *(b"0" * 128, b"1" * 138, b"n" * 20),
    )
    engine.sessions.put(oiap)
    engine.sessions.put(osap)
    engine.transports.put(transport)
    engine.daa.put(daa)
    other = moved(engine)
    assert list(other.sessions) == [oiap, osap]
    assert list(other.transports) == [transport]
    assert list(other.daa) == [daa]


@pytest.mark.parametrize("at", [0, 9, 40, -1])
def test_a_damaged_volatile_state_is_refused_and_changes_nothing(at: int) -> None:
    engine = started()
    Rig(engine).run(SHA1Start())
    blob = bytearray(engine.export_volatile())
    blob[at] ^= 1
    with pytest.raises(StateError):
        engine.import_volatile(bytes(blob))
    assert Rig(engine).refusal(SHA1Update(bytes(64))) == Rc.SUCCESS


def test_neither_power_on_nor_resume_loads_the_rsa_library() -> None:
    """With an owner-evict key too: it is opened when it is first used."""
    engine = owned_engine(new_identity())
    rig = Rig(engine)
    key = rig.make_key(template(KeyUsage.SIGNING, 1024))
    rig.run(KeyControlOwner(key.handle, key.public, 1, True), OWNER_AUTH)
    program = f"""
import sys
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
storage = MemoryStorage()
storage.store(StateName.PERMANENT, bytes.fromhex("{encode_permanent(engine.permanent).hex()}"))
engine = Engine(storage)
engine.power_on()
assert engine.keys.handles == ({key.handle},)
engine.import_volatile(bytes.fromhex("{engine.export_volatile().hex()}"))
assert engine.keys.handles == ({key.handle},)
assert not any(name.startswith("cryptography") for name in sys.modules)
assert engine.key({key.handle}).private.key_size == 1024
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_last_count_is_not_exceeded() -> None:
    """21.2 action 10.a."""
    engine = owned_engine(new_identity())
    rig = Rig(engine)
    key = rig.make_key(template(KeyUsage.SIGNING, 1024))
    engine.stclear = replace(engine.volatile, context_count=2**32 - 2)
    save = [
        SaveContext(rig.osap(key.handle, KEY_AUTH).handle, ResourceType.AUTH, bytes(16))
        for _ in range(2)
    ]
    assert [rig.refusal(request) for request in save] == [Rc.SUCCESS, Rc.TOOMANYCONTEXTS]
    assert len(engine.sessions) == 1
    assert rig.refusal(Sign(key.handle, bytes(20)), KEY_AUTH) == Rc.SUCCESS


def test_a_slot_makes_what_it_holds_once_and_when_asked() -> None:
    made: list[int] = []

    def make() -> Session:
        made.append(1)
        return Session(7, bytes(20))

    table: HandleTable[Session] = HandleTable(bytes, ResourceType.AUTH, 2, Rc.RESOURCES)
    table.put(Session(5, bytes(20)))
    table.put_later(7, make)
    assert (len(table), table.handles, made) == (2, (5, 7), [])
    first = table.get(7)
    assert first is table.get(7) is list(table)[1]
    assert made == [1]
    table.put_later(7, make)
    assert table.drop(7)
    assert not table.drop(7)
    assert (table.get(7), made) == (None, [1])
