"""A simulated TPM chip on SPI: pins and bytes in front, the TIS chip core, a TPM behind."""

from __future__ import annotations

from typing import Final

from hwtpm.clock import Clock, RealClock
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
from hwtpm.tis.registers import INTF_CAPABILITY, STS, register_at
from hwtpm.tis_lpc_sim.faults import BitFault, Fault, FaultyRegisters
from hwtpm.tis_spi.virtual.habits import Habits, Miso
from hwtpm.tis_spi.virtual.slave import FLOATING, BitProtocol, SlaveCounters, SpiSlave

__all__ = ["SpiSlave", "VirtualSpiChip"]

_STUCK_LOW: Final = 0x00
_SUCCESS: Final = bytes(4)
_FRAME_HEADER: Final = 10
_TPM12_FAIL: Final = bytes.fromhex("00c4 0000000a 00000009")
_TPM12_SELF_TESTS: Final = (0x50, 0x53)  # TPM_ORD_SelfTestFull, TPM_ORD_ContinueSelfTest
_TPM20_FAIL: Final = bytes.fromhex("8001 0000000a 00000101")  # TPM_RC_FAILURE
_TPM20_CANCELED: Final = bytes.fromhex("8001 0000000a 00000909")  # TPM_RC_CANCELED
_TPM20_SELF_TESTS: Final = (0x143,)  # TPM2_SelfTest


class VirtualSpiChip:
    """An `SpiSlave` that is a whole TPM; one bus at a time drives it.

    Commands run on `tpm` when their time of `clock` is over and somebody looks; a command that is
    cancelled before does not run at all. What `tpm` raises goes to whoever clocks that byte, after
    the chip has completed with a failure. An answer that is no TPM frame, or too long for the
    chip's buffer, reaches the bus as a failure, too.
    """

    def __init__(
        self, tpm: SoftwareTpm, habits: Habits | None = None, clock: Clock | None = None
    ) -> None:
        self.habits = habits or Habits()
        self.counters = SlaveCounters()
        self.core = TisChip(self.habits.personality)
        self._tpm = tpm
        self._clock = clock or RealClock()
        self._plugged = False
        self._held = False
        self._selected = False
        self._last_use_s: float | None = None
        self._cold()

    # -- power and pins

    def power_on(self) -> None:
        """Power cycle (TPM_Init) of chip and TPM; plugs an unplugged one in again.

        Raises:
            StateError: the TPM's stored state is unusable.
        """
        self._tpm.power_on()
        self._plugged = True
        self._cold()
        self.core.established = self._tpm.established

    def unplug(self) -> None:
        """Take the chip off the bus, whatever it is doing."""
        self._plugged = False
        self._cold()

    def reset(self, low: bool) -> None:
        """The level of RST#; the chip starts anew (TPM_Init) when it rises."""
        rises = self._held and not low
        self._held = low
        if rises and self._plugged:
            self.power_on()

    @property
    def irq(self) -> bool:
        """Whether PIRQ# is asserted, that is low."""
        self._look()
        return self._alive and self.core.irq

    def select(self, low: bool) -> None:
        """See `SpiSlave`."""
        if low == self._selected:
            return
        self._selected = low
        self.counters.cs_edges += 1
        now_s = self._clock.now()
        if low:
            self._protocol.start(deaf=not self._hears(now_s))
            # The line is pulled up until the chip drives it.
            self._last_bit = 1
            self._bit = 0
            self._transaction += 1
        else:
            self._protocol.end()
            self._last_use_s = now_s

    def shift(self, mosi: int) -> int:
        """See `SpiSlave`."""
        if not self._selected:
            return FLOATING
        self._bytes += 1
        if self._plugged and self._bytes - 1 == self.habits.unplug_after_bytes:
            self.unplug()
        if not self._alive:
            self.counters.bytes += 1
            return FLOATING
        if self._clock.now() < self._booted_s:
            self.counters.bytes += 1
            return _STUCK_LOW
        return self._over_the_wire(self._protocol.shift(mosi))

    # -- registers, as the bit protocol sees them

    def read(self, locality: int, offset: int, size: int) -> bytes:
        """A register access that the bus made."""
        if register_at(offset) is STS and locality == self.core.active_locality:
            self._look()
        return self._registers.read(locality, offset, size)

    def write(self, locality: int, offset: int, data: bytes) -> None:
        """A register access that the bus made."""
        self._registers.write(locality, offset, data)
        for output in self.core.take_outputs():
            self._serve(output)
        self._settle()

    # -- the TPM behind

    def _cold(self) -> None:
        """Everything that does not outlive a power cycle."""
        now_s = self._clock.now()
        self.core.reset()
        faults: tuple[Fault, ...] = self.habits.faults
        if (capability := self.habits.capability) is not None:
            faults += (BitFault(INTF_CAPABILITY, force=capability, clear=~capability),)
        self._registers = FaultyRegisters(self.core, faults)
        self._protocol = BitProtocol(self, self.habits, self.counters)
        self._command: Execute | None = None
        self._due_s = now_s
        self._polls = 0
        self._booted_s = now_s + self.habits.boot_s
        self._awake_s = now_s
        self._last_use_s = None
        self._transaction: int = -1
        self._bytes = 0
        self._last_bit = 1
        self._bit = 0

    @property
    def _alive(self) -> bool:
        return self._plugged and not self._held

    def _hears(self, now_s: float) -> bool:
        if self._last_use_s is not None:
            if 0 < self.habits.sleeps_after_s < now_s - self._last_use_s:
                self._awake_s = now_s + self.habits.wake_s
            if now_s < self._last_use_s + self.habits.gap_s:
                return False
        return now_s >= self._awake_s

    def _look(self) -> None:
        """Somebody wants to know whether the command is done."""
        if self._command is not None and self._polls:
            self._polls -= 1
        else:
            self._settle()

    def _settle(self) -> None:
        if self._command is not None and not self._polls and self._clock.now() >= self._due_s:
            self._execute(self._command)

    def _serve(self, output: Output) -> None:
        match output:
            case Execute():
                self._command = output
                self._due_s = self._clock.now() + self.habits.busy_s
                self._polls = self.habits.busy_polls
            case Cancel():
                tpm20 = self.habits.personality.tpm20
                self._complete(_TPM20_CANCELED if tpm20 else _TPM12_FAIL)
            case HashStart():
                self._tpm.hash_start()
            case HashData(data):
                self._tpm.hash_data(data)
            case HashEnd():
                self._tpm.hash_end()
            case ResetEstablishment(locality):
                self._tpm.reset_established(locality)
        self.core.established = self._tpm.established

    def _execute(self, wanted: Execute) -> None:
        tpm20 = self.habits.personality.tpm20
        response = _TPM20_FAIL if tpm20 else _TPM12_FAIL
        self._command = None
        try:
            answer = self._tpm.execute(wanted.command, wanted.locality)
            if self._is_frame(answer):
                response = answer
        finally:
            tests = _TPM20_SELF_TESTS if tpm20 else _TPM12_SELF_TESTS
            if int.from_bytes(wanted.command[6:10], "big") in tests and response[6:10] == _SUCCESS:
                self.core.self_test_done = True
            self._complete(response)
            self.core.established = self._tpm.established

    def _complete(self, response: bytes) -> None:
        self._command = None
        if self.core.pending is not None:
            self.core.complete(response)

    def _is_frame(self, answer: bytes) -> bool:
        size = int.from_bytes(answer[2:6], "big")
        return _FRAME_HEADER <= len(answer) == size <= self.habits.personality.buffer_size

    # -- the wire to the host

    def _over_the_wire(self, sent: int) -> int:
        match self.habits.miso:
            case Miso.ALL_ONES:
                seen = FLOATING
            case Miso.ALL_ZEROS:
                seen = _STUCK_LOW
            case Miso.ONE_BIT_LATE:
                seen = self._last_bit << 7 | sent >> 1
            case Miso.ONE_BIT_EARLY:
                seen = sent << 1 & 0xFF | self._protocol.coming() >> 7
            case Miso.SOUND:
                seen = sent
        self._last_bit = sent & 1
        flipped, first = self.habits.flipped_bit, self._bit
        self._bit += 8
        if (
            flipped is not None
            and flipped.transaction == self._transaction
            and first <= flipped.bit < self._bit
        ):
            seen ^= 0x80 >> flipped.bit - first
        return seen
