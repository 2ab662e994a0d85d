"""A simulated TPM chip: the TIS chip core in front, a software TPM behind, faults in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from hwtpm.softtpm.base import CancellableTpm, Family, SoftwareTpm
from hwtpm.softtpm.peer import failure
from hwtpm.tis.chip import (
    Cancel,
    Execute,
    HashData,
    HashEnd,
    HashStart,
    Output,
    ResetEstablishment,
    TisChip,
)
from hwtpm.tis.personality import PC_CLIENT_TPM12, Personality
from hwtpm.tis_lpc_sim.faults import Fault, FaultyRegisters
from hwtpm.tis_lpc_sim.window import RegisterFile

__all__ = ["Executor", "ExecutorTpm", "SimulatedChip"]

Executor = Callable[[bytes, int], bytes]
"""Answers (command, locality) with a response."""

_HEADER_SIZE: Final = 10
_CANCEL_AGAIN_S: Final = 0.02
_SELF_TESTS: Final = {
    Family.TPM12: (0x50, 0x53),  # TPM_ORD_SelfTestFull, TPM_ORD_ContinueSelfTest
    Family.TPM20: (0x143,),  # TPM2_SelfTest
}
_SUCCESS: Final = bytes(4)


class ExecutorTpm:
    """A mere executor as the chip's TPM, for one that is somewhere else: it has no power button.

    Locality 4 measurements cannot reach it and are dropped; the established flag stays clear.
    """

    established = False

    def __init__(self, execute: Executor, description: str = "executor") -> None:
        self._execute = execute
        self.description = description

    def power_on(self) -> None:
        """Nothing to switch."""

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        """The executor's answer."""
        return self._execute(command, locality)

    def reset_established(self, locality: int) -> int:  # noqa: ARG002
        """There is no flag to reset; success."""
        return 0

    def hash_start(self) -> None:
        """Dropped."""

    def hash_data(self, data: bytes) -> None:
        """Dropped."""

    def hash_end(self) -> None:
        """Dropped."""

    def close(self) -> None:
        """Nothing to free; whoever made the executor closes it."""


class SimulatedChip:
    """Registers of a whole chip; commands run on `tpm` within the write that starts them.

    `faults` are between the bus and the chip. An answer that is no TPM frame, or too long for the
    chip's buffer, reaches the bus as a failure of the personality's family. What the TPM raises
    goes to whoever wrote to the register, after the chip has completed with that failure.

    With `background` commands run beside the bus, on a thread that `close` ends: the registers show
    a chip that executes, and a command can be cancelled if the TPM can do that. What the TPM raises
    then goes to the next access.
    """

    def __init__(
        self,
        tpm: SoftwareTpm,
        personality: Personality = PC_CLIENT_TPM12,
        faults: Iterable[Fault] = (),
        *,
        background: bool = False,
    ) -> None:
        self.core = TisChip(personality)
        self._family = Family.TPM20 if personality.tpm20 else Family.TPM12
        self._tpm = tpm
        self._beside = ThreadPoolExecutor(1, "simulated-chip") if background else None
        self._running: Future[bytes] | None = None
        self._command = b""
        self._cancelling = False
        faults = tuple(faults)
        self._registers: RegisterFile = FaultyRegisters(self.core, faults) if faults else self.core

    def power_on(self) -> None:
        """Power cycle (TPM_Init) of chip and TPM."""
        self._stop()
        self._tpm.power_on()
        self.core.reset()
        self.core.established = self._tpm.established

    def read(self, locality: int, offset: int, size: int) -> bytes:
        """`size` bytes: a FIFO burst, or part of one register."""
        self._settle()
        return self._registers.read(locality, offset, size)

    def write(self, locality: int, offset: int, data: bytes) -> None:
        """A FIFO burst, or part of one register."""
        self._settle()
        self._registers.write(locality, offset, data)
        for output in self.core.take_outputs():
            self._serve(output)
            if self._running is None:
                self.core.established = self._tpm.established

    def close(self) -> None:
        """Let a command that runs beside the bus come to its end; the TPM stays open."""
        self._stop()
        if self._beside is not None:
            self._beside.shutdown()

    def _serve(self, output: Output) -> None:
        match output:
            case Execute(command, locality):
                self._command = command
                if self._beside is not None:
                    self._running = self._beside.submit(self._tpm.execute, command, locality)
                else:
                    self._complete(lambda: self._tpm.execute(command, locality))
            case HashStart():
                self._tpm.hash_start()
            case HashData(data):
                self._tpm.hash_data(data)
            case HashEnd():
                self._tpm.hash_end()
            case ResetEstablishment(locality):
                self._tpm.reset_established(locality)
            case Cancel():
                self._cancelling = self._running is not None

    def _settle(self) -> None:
        """Somebody looks: a command that has ended beside the bus is complete."""
        running = self._running
        if running is None:
            return
        if running.done():
            self._running, self._cancelling = None, False
            self._complete(running.result)
            self.core.established = self._tpm.established
        elif self._cancelling and isinstance(self._tpm, CancellableTpm):
            # At every look: asked too early, the TPM forgets it when the command starts.
            self._tpm.cancel()

    def _stop(self) -> None:
        while (running := self._running) is not None:
            if isinstance(self._tpm, CancellableTpm):
                self._tpm.cancel()
            if wait([running], _CANCEL_AGAIN_S).done:
                self._running, self._cancelling = None, False

    def _complete(self, answer: Callable[[], bytes]) -> None:
        response = failure(self._family)
        try:
            answered = answer()
            size = int.from_bytes(answered[2:6], "big")
            if _HEADER_SIZE <= len(answered) == size <= self.core.personality.buffer_size:
                response = answered
        finally:
            tested = int.from_bytes(self._command[6:10], "big") in _SELF_TESTS[self._family]
            if tested and response[6:10] == _SUCCESS:
                self.core.self_test_done = True
            self.core.complete(response)
