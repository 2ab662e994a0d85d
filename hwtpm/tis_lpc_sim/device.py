"""A simulated TPM chip: the TIS chip core in front, a software TPM behind, faults in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from hwtpm.softtpm.base import SoftwareTpm
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

_TPM_FAIL: Final = bytes.fromhex("00c4 0000000a 00000009")
_SELF_TESTS: Final = (0x50, 0x53)  # TPM_ORD_SelfTestFull, TPM_ORD_ContinueSelfTest
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
    chip's buffer, reaches the bus as TPM_FAIL. What the TPM raises goes to whoever wrote to the
    register, after the chip has completed with TPM_FAIL.
    """

    def __init__(
        self,
        tpm: SoftwareTpm,
        personality: Personality = PC_CLIENT_TPM12,
        faults: Iterable[Fault] = (),
    ) -> None:
        self.core = TisChip(personality)
        self._tpm = tpm
        faults = tuple(faults)
        self._registers: RegisterFile = FaultyRegisters(self.core, faults) if faults else self.core

    def power_on(self) -> None:
        """Power cycle (TPM_Init) of chip and TPM."""
        self._tpm.power_on()
        self.core.reset()
        self.core.established = self._tpm.established

    def read(self, locality: int, offset: int, size: int) -> bytes:
        """`size` bytes: a FIFO burst, or part of one register."""
        return self._registers.read(locality, offset, size)

    def write(self, locality: int, offset: int, data: bytes) -> None:
        """A FIFO burst, or part of one register."""
        self._registers.write(locality, offset, data)
        for output in self.core.take_outputs():
            self._serve(output)
            self.core.established = self._tpm.established

    def _serve(self, output: Output) -> None:
        match output:
            case Execute(command, locality):
                self._execute(command, locality)
            case HashStart():
                self._tpm.hash_start()
            case HashData(data):
                self._tpm.hash_data(data)
            case HashEnd():
                self._tpm.hash_end()
            case ResetEstablishment(locality):
                self._tpm.reset_established(locality)
            case Cancel():
                pass  # no command is still executing when a write returns

    def _execute(self, command: bytes, locality: int) -> None:
        response = _TPM_FAIL
        try:
            answer = self._tpm.execute(command, locality)
            if len(_TPM_FAIL) <= len(
                answer
            ) <= self.core.personality.buffer_size and int.from_bytes(answer[2:6], "big") == len(
                answer
            ):
                response = answer
        finally:
            tested = int.from_bytes(command[6:10], "big") in _SELF_TESTS
            if tested and response[6:10] == _SUCCESS:
                self.core.self_test_done = True
            self.core.complete(response)
