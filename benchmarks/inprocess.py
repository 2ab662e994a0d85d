"""TPM engines without a socket, each in a process of its own: our engine and libtpms."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

from benchmarks.commands import PatientBed
from benchmarks.patient import Patient
from hwtpm.softtpm.base import MemoryStorage, SoftwareTpm
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.libtpms import LibtpmsTpm
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.transport.base import Attached

__all__ = ["EngineBed"]


class _Direct:
    attached = Attached("direct:", "engine", real_hardware=False, detail="")

    def __init__(self, tpm: SoftwareTpm) -> None:
        self._tpm = tpm

    def execute(self, command: bytes) -> bytes:
        return self._tpm.execute(command)

    def close(self) -> None:
        self._tpm.close()


class EngineBed:
    """A provisioned engine over memory, in a child process that ends with `close`."""

    def __init__(self, make: Callable[[], SoftwareTpm]) -> None:
        context = get_context("fork")
        self._ours, theirs = context.Pipe()
        self._child = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self._child.start()
        theirs.close()

    @classmethod
    def ours(cls) -> EngineBed:
        """Our engine."""
        return cls(lambda: Engine(MemoryStorage()))

    @classmethod
    def libtpms(cls) -> EngineBed:
        """libtpms through `ctypes`."""
        return cls(lambda: LibtpmsTpm(MemoryStorage()))

    def round(self, number: int, times: int) -> list[float]:
        """See `Bed.round`."""
        self._ours.send((number, times))
        spent: list[float] = self._ours.recv()
        return spent

    def close(self) -> None:
        """End the child."""
        self._ours.send(None)
        self._child.join()
        self._ours.close()


def _serve(channel: Connection, make: Callable[[], SoftwareTpm]) -> None:
    tpm = make()
    tpm.power_on()
    patient = Patient(_Direct(tpm))
    patient.tpm.execute(Startup(StartupType.CLEAR))
    patient.provision()
    bed = PatientBed(patient)
    while (asked := channel.recv()) is not None:
        channel.send(bed.round(*asked))
