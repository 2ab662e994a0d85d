"""What the manager does and refuses, on a root of trust without a chip."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from vtpmmgr_root import PaperRoot

from hwtpm.errors import Busy, HwtpmError, Refused, StateError, TpmError, UsageError
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PubKey
from vstack.vtpmmgr.evidence import Subject, verify_quote
from vstack.vtpmmgr.manager import Manager, Peer
from vstack.vtpmmgr.protocol import (
    GetBootHash,
    LoadHashKey,
    ManagerClient,
    QuoteFlag,
    SaveHashKey,
    encode_request,
)
from vstack.vtpmmgr.records import NO_AUTHORITY, NO_CONFIG

ALICE, BOB = UUID(int=0xA11CE), UUID(int=0xB0B)
LABEL = b"l" * 20


@pytest.fixture(scope="module")
def root() -> PaperRoot:
    return PaperRoot()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manager.db"


@pytest.fixture
def manager(root: PaperRoot, path: Path) -> Iterator[Manager]:
    root.refuse = 0
    with contextlib.closing(Manager.open(root, path)) as manager:
        yield manager


def client(manager: Manager, peer: Peer) -> ManagerClient:
    return ManagerClient(lambda request: manager.handle(peer, request))


def status_of(answer: bytes) -> int:
    return int.from_bytes(answer[6:10], "big")


def test_load_never_creates_and_the_first_save_does(manager: Manager) -> None:
    vtpm = client(manager, manager.bind(ALICE))
    assert vtpm.load_hash_key() is None
    assert vtpm.load_hash_key() is None
    assert manager.status().vtpms == 0
    vtpm.save_hash_key(b"s" * 64)
    assert vtpm.load_hash_key() == b"s" * 64
    assert manager.status().groups[0].vtpms == 1


def test_vtpms_have_secrets_of_their_own(manager: Manager) -> None:
    alice, bob = (client(manager, manager.bind(uuid)) for uuid in (ALICE, BOB))
    alice.save_hash_key(b"a" * 64)
    assert bob.load_hash_key() is None
    bob.save_hash_key(b"b" * 52)
    assert (alice.load_hash_key(), bob.load_hash_key()) == (b"a" * 64, b"b" * 52)


def test_a_refused_request_creates_and_binds_nothing(manager: Manager) -> None:
    peer = manager.bind(ALICE)
    for size in (0, 51, 65):
        too_odd = encode_request(SaveHashKey(bytes(64)))[:6] + bytes((0, 0, 0, 1)) + bytes(size)
        framed = too_odd[:2] + len(too_odd).to_bytes(4, "big") + too_odd[6:]
        assert status_of(manager.handle(peer, framed)) == Rc.BAD_PARAMETER
    assert client(manager, peer).load_hash_key() is None
    assert manager.status().changes == 1


def test_a_vtpm_is_bound_by_one_connection_at_a_time(manager: Manager) -> None:
    first = manager.bind(ALICE)
    with pytest.raises(Busy, match=str(ALICE)):
        manager.bind(ALICE)
    manager.unbind(first)
    second = manager.bind(ALICE)
    manager.unbind(first)  # late, and for a connection that is not the present one
    with pytest.raises(Busy):
        manager.bind(ALICE)
    client(manager, second).save_hash_key(bytes(52))
    with pytest.raises(Refused):
        client(manager, first).save_hash_key(bytes(64))
    assert status_of(manager.handle(first, encode_request(LoadHashKey()))) == Rc.DISABLED


def test_boot_hash_is_the_connections_label_once_the_vtpm_is_known(manager: Manager) -> None:
    vtpm = client(manager, manager.bind(ALICE, LABEL))
    assert vtpm.boot_hash() == bytes(20)
    vtpm.save_hash_key(bytes(64))
    assert vtpm.boot_hash() == LABEL


def test_quotes_are_for_known_vtpms_only(manager: Manager) -> None:
    vtpm = client(manager, manager.bind(ALICE, LABEL))
    with pytest.raises(UsageError, match=r"GET_QUOTE.*\(3\)"):
        vtpm.get_quote(bytes(20))
    vtpm.save_hash_key(bytes(64))
    aik = PubKey.decode(manager.status().groups[0].identity_key)
    for pcrs in ((), (0,), (3, 9, 23), tuple(range(24))):
        quote = vtpm.get_quote(b"n" * 20, pcrs, QuoteFlag(15))
        subject = Subject(ALICE, LABEL, NO_AUTHORITY, NO_CONFIG)
        assert tuple(verify_quote(aik, b"n" * 20, quote, subject)) == pcrs


def test_the_chips_refusal_comes_back_as_its_return_code(manager: Manager, root: PaperRoot) -> None:
    vtpm = client(manager, manager.bind(ALICE))
    vtpm.save_hash_key(b"x" * 64)
    root.refuse = Rc.FAILEDSELFTEST
    for command in (lambda: vtpm.get_quote(bytes(20)), lambda: vtpm.random(4)):
        with pytest.raises(TpmError) as refusal:
            command()
        assert refusal.value.rc == Rc.FAILEDSELFTEST
    # What the manager keeps does not depend on the chip once it is open.
    assert vtpm.load_hash_key() == b"x" * 64


def test_a_restart_and_a_second_manager(root: PaperRoot, path: Path, manager: Manager) -> None:
    client(manager, manager.bind(ALICE)).save_hash_key(b"a" * 64)
    with pytest.raises(Busy, match=str(path)):
        Manager.open(root, path)
    before = replace(manager.status(), bound=())
    manager.close()
    with contextlib.closing(Manager.open(root, path, create=False)) as again:
        assert again.status() == before
        assert client(again, again.bind(ALICE)).load_hash_key() == b"a" * 64


def test_without_leave_to_create_a_missing_store_is_an_error(root: PaperRoot, path: Path) -> None:
    with pytest.raises(StateError, match=str(path)):
        Manager.open(root, path, create=False)
    assert not path.exists()


def test_forgetting_is_durable_and_not_for_connected_vtpms(
    root: PaperRoot, path: Path, manager: Manager
) -> None:
    peer = manager.bind(ALICE)
    client(manager, peer).save_hash_key(bytes(64))
    with pytest.raises(Busy):
        manager.forget(ALICE)
    manager.unbind(peer)
    assert manager.forget(ALICE)
    assert not manager.forget(ALICE)
    manager.close()
    with contextlib.closing(Manager.open(root, path)) as again:
        assert client(again, again.bind(ALICE)).load_hash_key() is None


def test_a_save_that_does_not_reach_the_disk_is_no_success(manager: Manager) -> None:
    vtpm = client(manager, manager.bind(ALICE))
    vtpm.save_hash_key(b"a" * 64)
    database = manager._store._file._connected()
    database.execute("PRAGMA query_only = ON")
    with pytest.raises(StateError, match="store"):
        vtpm.save_hash_key(b"b" * 64)
    assert vtpm.load_hash_key() == b"a" * 64
    database.execute("PRAGMA query_only = OFF")
    vtpm.save_hash_key(b"c" * 64)
    assert vtpm.load_hash_key() == b"c" * 64


def test_a_damaged_record_stops_its_vtpm_only_and_is_never_overwritten(
    root: PaperRoot, path: Path, manager: Manager
) -> None:
    for uuid in (ALICE, BOB):
        client(manager, manager.bind(uuid)).save_hash_key(uuid.bytes * 4)
    manager.close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE record SET sealed = zeroblob(80) WHERE id = ?", (ALICE.bytes,))
    with contextlib.closing(Manager.open(root, path)) as again:
        assert again.status().damaged == (ALICE,)
        peer = again.bind(ALICE)
        alice, bob = client(again, peer), client(again, again.bind(BOB))
        with pytest.raises(StateError):
            alice.load_hash_key()
        with pytest.raises(StateError):
            alice.save_hash_key(bytes(64))
        assert bob.load_hash_key() == BOB.bytes * 4
        again.unbind(peer)
        again.forget(ALICE)
        assert again.status().damaged == ()
        assert client(again, again.bind(ALICE)).load_hash_key() is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE header SET sealed_root = x'00'",
        "UPDATE header SET manager = zeroblob(16)",
        "UPDATE header SET chip_kind = 'tpm12'",
        "UPDATE header SET chip_name = 'other'",
        "DELETE FROM record WHERE kind = 'group'",
    ],
)
def test_a_header_that_does_not_fit_is_refused_and_the_store_left_alone(
    root: PaperRoot, path: Path, manager: Manager, statement: str
) -> None:
    manager.close()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)
    before = path.read_bytes()
    with pytest.raises(StateError) as refusal:
        Manager.open(root, path)
    assert refusal.value.hint
    assert path.read_bytes() == before


def test_two_stores_do_not_share_records_or_headers(root: PaperRoot, tmp_path: Path) -> None:
    paths = [tmp_path / "one.db", tmp_path / "two.db"]
    for path in paths:
        Manager.open(root, path).close()
    with contextlib.closing(sqlite3.connect(paths[0])) as one, one:
        one.execute("ATTACH ? AS two", (str(paths[1]),))
        one.execute("UPDATE header SET sealed_root = (SELECT sealed_root FROM two.header)")
    with pytest.raises(StateError, match="another manager"):
        Manager.open(root, paths[0])


def test_a_failed_start_lets_the_store_go(root: PaperRoot, path: Path) -> None:
    class Broken(PaperRoot):
        def make_identity(self, *arguments: object) -> object:  # type: ignore[override]
            raise HwtpmError("no")

    with pytest.raises(HwtpmError):
        Manager.open(Broken(), path)
    assert not path.exists()
    Manager.open(root, path).close()


def test_answers_have_the_reference_layout(manager: Manager) -> None:
    peer = manager.bind(ALICE)
    assert manager.handle(peer, encode_request(SaveHashKey(b"s" * 60))) == bytes.fromhex(
        "01c4 0000000a 00000000"
    )
    assert manager.handle(peer, encode_request(LoadHashKey())) == (
        bytes.fromhex("01c4 0000004a 00000000") + b"s" * 60 + bytes(4)
    )
    assert manager.handle(peer, encode_request(GetBootHash())) == (
        bytes.fromhex("01c4 0000001e 00000000") + bytes(20)
    )
