"""A software chip on which a manager can be started, power cycled, crashed and copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hwtpm.client.session import Tpm
from hwtpm.errors import BusError
from hwtpm.softtpm.base import MemoryStorage, SoftwareTpm, StateName, Storage
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.frame import ordinal_of
from hwtpm.transport.base import Attached

__all__ = ["Blobs", "Maker", "Wire", "powered"]

Blobs = dict[StateName, bytes]
Maker = Callable[[Storage], SoftwareTpm]


class Wire:
    """The transport to the chip; remembers ordinals and the states between commands."""

    def __init__(self, tpm: SoftwareTpm, storage: MemoryStorage) -> None:
        self.attached = Attached("test:", "test", False, tpm.description)
        self.sent: list[int] = []
        self.states: list[Blobs] = []
        self.cut_after: int | None = None
        self.tpm = tpm
        self._storage = storage

    def execute(self, command: bytes) -> bytes:
        if self.cut_after is not None and len(self.sent) >= self.cut_after:
            raise BusError("the cable is out")
        self.sent.append(ordinal_of(command))
        answer = self.tpm.execute(command, 0)
        if not self.states or self.states[-1] != self._storage.blobs:
            self.states.append(dict(self._storage.blobs))
        return answer

    def close(self) -> None:
        return


@contextmanager
def powered(make: Maker, blobs: Blobs | None = None) -> Iterator[Wire]:
    """A chip in that state, powered on and started; a new one without a state."""
    storage = MemoryStorage()
    storage.blobs.update(blobs or {})
    tpm = make(storage)
    try:
        tpm.power_on()
        wire = Wire(tpm, storage)
        Tpm(wire).execute(Startup(StartupType.CLEAR))
        yield wire
    finally:
        tpm.close()
