"""What is killed and what has to survive: a chip, a manager, its records, a vTPM."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

from crash_rounds import Change, Scenario, State

from hwtpm.client import counters, nv, owner, pcr
from hwtpm.client.session import Tpm
from hwtpm.errors import TpmError
from hwtpm.secret import WELL_KNOWN
from hwtpm.softtpm.base import SoftwareTpm
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.storage import FileStorage
from hwtpm.tpm12.commands.startup import SaveState, Startup
from hwtpm.tpm12.const import NvPermission, StartupType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PubKey
from hwtpm.transport.address import open_transport
from hwtpm.transport.base import Attached
from vstack.vtpm.instance import VtpmInstance
from vstack.vtpm.state import SealedState, StateFolder
from vstack.vtpmmgr.manager import Manager
from vstack.vtpmmgr.protocol import ManagerClient
from vstack.vtpmmgr.root12 import Tpm12Root

__all__ = ["SCENARIOS", "TpmSubject", "find_ek"]

_VTPMS: Final = tuple(UUID(int=number) for number in range(1, 5))
_AREAS: Final = (0x1100, 0x1101, 0x1102)
_AREA_SIZE: Final = 48
_BY_ITS_AUTH: Final = NvPermission.AUTHREAD | NvPermission.AUTHWRITE
_COUNTER: Final = 0  # the handle that our engine gives the first one, whose first value is 1
_LABEL: Final = b"life"


def open_manager(directory: Path) -> Manager:
    """The manager of that directory on its chip; both are made if they are not there."""
    transport = open_transport(f"sim:{directory / 'chip'}")
    try:
        return Manager.open(Tpm12Root(Tpm(transport)), directory / "manager.db")
    except BaseException:
        transport.close()
        raise


def client_of(manager: Manager, uuid: UUID) -> ManagerClient:
    peer = manager.bind(uuid)
    return ManagerClient(lambda request: manager.handle(peer, request))


class Wire:
    """A TPM in this process as a transport."""

    attached = Attached("test:", "engine", False, "")

    def __init__(self, tpm: SoftwareTpm | VtpmInstance) -> None:
        self._tpm = tpm

    def execute(self, command: bytes) -> bytes:
        return self._tpm.execute(command, 0)

    def close(self) -> None:
        return


class TpmSubject:
    """What a TPM's user keeps in it."""

    def __init__(self, tpm: Tpm, ek: PubKey) -> None:
        self._tpm = tpm
        self._ek = ek

    def read(self) -> State:
        state = {"ek": self._ek.digest().hex()}
        if self._owned():
            state["owner"] = "set"
        for index in nv.indices(self._tpm):
            if index in _AREAS:
                state[f"area {index:x}"] = nv.read(self._tpm, index, area_auth=WELL_KNOWN).hex()
        try:
            state["counter"] = str(counters.read(self._tpm, _COUNTER).value)
        except TpmError as error:
            if error.rc != Rc.BAD_COUNTER:
                raise
        return state

    def next_change(self, state: State, rng: random.Random) -> Change:
        if "owner" not in state:
            return Change("owner", "set", self._take)
        if "counter" not in state:
            return Change("counter", "1", self._count_from_one)
        index = rng.choice(_AREAS)
        name = f"area {index:x}"
        match rng.choice(("count", "area", "area", "delete", "extend", "save")):
            case "count":
                return Change("counter", str(int(state["counter"]) + 1), self._count)
            case "delete" if name in state:
                return Change(
                    name, None, lambda: nv.delete(self._tpm, index, owner_auth=WELL_KNOWN)
                )
            case "extend":
                return Change(
                    "ek", state["ek"], lambda: pcr.extend(self._tpm, 3, rng.randbytes(20))
                )
            case "save":
                return Change("ek", state["ek"], lambda: self._tpm.execute(SaveState()))
        if name not in state:
            return Change(name, (b"\xff" * _AREA_SIZE).hex(), lambda: self._define(index))
        data = rng.randbytes(_AREA_SIZE)
        write = lambda: nv.write(self._tpm, index, data, area_auth=WELL_KNOWN)  # noqa: E731
        return Change(name, data.hex(), write)

    def verify(self) -> None:
        """Nothing volatile survived, and the keys still belong together."""
        if self._owned():
            assert owner.read_ek_as_owner(self._tpm, WELL_KNOWN) == self._ek
            owner.read_srk_as_owner(self._tpm, WELL_KNOWN)

    def _owned(self) -> bool:
        try:
            owner.read_ek(self._tpm)
        except TpmError as error:
            if error.rc != Rc.DISABLED_CMD:
                raise
            return True
        return False

    def _take(self) -> None:
        owner.take_ownership(self._tpm, WELL_KNOWN, ek=self._ek)

    def _define(self, index: int) -> None:
        nv.define(self._tpm, index, _AREA_SIZE, _BY_ITS_AUTH, owner_auth=WELL_KNOWN)

    def _count_from_one(self) -> None:
        counters.create(self._tpm, WELL_KNOWN, WELL_KNOWN, _LABEL)

    def _count(self) -> None:
        counters.increment(self._tpm, _COUNTER, WELL_KNOWN)


class Chip:
    """Our engine with its state in files: the simulated chip of the manager."""

    lives = 12

    def prepare(self, template: Path) -> None:
        """Nothing: the first life is that of a factory-new chip."""

    @contextmanager
    def open(self, directory: Path) -> Iterator[TpmSubject]:
        with FileStorage(directory / "chip") as storage:
            engine = Engine(storage)
            engine.power_on()
            tpm = Tpm(Wire(engine))
            tpm.execute(Startup(StartupType.CLEAR))
            assert pcr.read(tpm, 3) == bytes(20)
            yield TpmSubject(tpm, find_ek(tpm))
            engine.close()


def find_ek(tpm: Tpm) -> PubKey:
    """The endorsement key, which a factory-new chip gets now."""
    try:
        return owner.read_ek(tpm)
    except TpmError as error:
        if error.rc == Rc.DISABLED_CMD:
            return owner.read_ek_as_owner(tpm, WELL_KNOWN)
        return owner.create_ek(tpm)


class Records:
    """A manager whose vTPMs save all the time."""

    lives = 40

    def prepare(self, template: Path) -> None:
        open_manager(template).close()

    @contextmanager
    def open(self, directory: Path) -> Iterator[ManagerSubject]:
        manager = open_manager(directory)
        try:
            yield ManagerSubject(manager)
        finally:
            manager.close()


class FirstStart(Records):
    """A manager that takes a factory-new chip."""

    lives = 2

    def prepare(self, template: Path) -> None:
        """Nothing: no chip, no store."""


class ManagerSubject:
    """What a manager keeps for its vTPMs."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._clients = {uuid: client_of(manager, uuid) for uuid in _VTPMS}

    def read(self) -> State:
        status = self._manager.status()
        assert status.chip.owned
        assert not status.damaged
        state = {"manager": str(status.manager), "chip": status.chip.name}
        for uuid, client in self._clients.items():
            data = client.load_hash_key()
            if data is not None:
                state[str(uuid)] = data.hex()
        return state

    def next_change(self, state: State, rng: random.Random) -> Change:
        uuid = rng.choice(_VTPMS)
        data = os.urandom(64)
        return Change(str(uuid), data.hex(), lambda: self._clients[uuid].save_hash_key(data))

    def verify(self) -> None:
        """The chip still loads the manager's identity key and signs with it."""
        client = self._clients[_VTPMS[0]]
        client.save_hash_key(client.load_hash_key() or bytes(64))
        quote = client.get_quote(bytes(20), (0, 1))
        assert quote.pcrs == {0: bytes(20), 1: bytes(20)}


class Vtpm:
    """A vTPM on a manager in the same process: either may be the one that writes."""

    lives = 12
    uuid: Final = _VTPMS[0]

    def prepare(self, template: Path) -> None:
        open_manager(template).close()
        (template / "vtpm").mkdir()

    @contextmanager
    def open(self, directory: Path) -> Iterator[TpmSubject]:
        with ExitStack() as stack:
            manager = open_manager(directory)
            stack.callback(manager.close)
            keeper = client_of(manager, self.uuid)
            folder = StateFolder(directory / "vtpm", "guest", self.uuid, manager.status().manager)
            state = SealedState(folder, keeper, fresh=True)
            instance = VtpmInstance(Engine(state), state, keeper)
            stack.callback(instance.close)
            instance.start()
            assert instance.pcrs([3]) == {3: bytes(20)}
            yield TpmSubject(Tpm(Wire(instance)), instance.ek)


class OwnedVtpm(Vtpm):
    """A vTPM that has been in use for a while."""

    lives = 30

    def prepare(self, template: Path) -> None:
        super().prepare(template)
        with self.open(template) as subject:
            rng = random.Random(0)
            state = subject.read()
            for _ in range(10):
                change = subject.next_change(state, rng)
                change.make()
                state = change.of(state)


class OwnedChip(Chip):
    """A chip that has been in use for a while."""

    lives = 30

    def prepare(self, template: Path) -> None:
        with self.open(template) as subject:
            state = subject.read()
            for _ in range(3):
                change = subject.next_change(state, random.Random(0))
                change.make()
                state = change.of(state)


SCENARIOS: Final[dict[str, Scenario]] = {
    "chip": Chip(),
    "owned-chip": OwnedChip(),
    "first-start": FirstStart(),
    "records": Records(),
    "vtpm": Vtpm(),
    "owned-vtpm": OwnedVtpm(),
}
