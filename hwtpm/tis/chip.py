"""The device side of TIS, sans-IO: registers in, outputs for a TPM out.

TIS 1.21 and 1.3 (TCG PC Client Specific TPM Interface Specification): locality arbitration,
command state machine, FIFO, locality 4 hash interface, interrupts. Liberties a device may take are
data in `Personality`. Nothing a guest writes raises: what makes no sense is ignored, what is not
there reads all ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwtpm.errors import UsageError
from hwtpm.tis.personality import PC_CLIENT_TPM12, Personality
from hwtpm.tis.registers import (
    LOCALITIES,
    Access,
    InterfaceId,
    Interrupt,
    Register,
    Sts,
    Vector,
    register_at,
)
from hwtpm.tis.states import Event, State

__all__ = [
    "Cancel",
    "Execute",
    "HashData",
    "HashEnd",
    "HashStart",
    "Output",
    "ResetEstablishment",
    "TisChip",
]

_ONES = b"\xff"
_HEADER_SIZE = 10
_SIZE_FIELD_END = 6
_HASH_LOCALITY = 4
_WRITABLE_INT_ENABLE = Interrupt.GLOBAL | Interrupt.POLARITY | Interrupt.SOURCES
_STS_ACTIONS = (
    (Sts.COMMAND_READY, Event.COMMAND_READY),
    (Sts.GO, Event.GO),
    (Sts.RETRY, Event.RETRY),
)


@dataclass(frozen=True, slots=True)
class Execute:
    """A command wants to be executed; answer with `TisChip.complete`."""

    command: bytes
    locality: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Finish the executing command soon; `TisChip.complete` is still owed, with any response."""


@dataclass(frozen=True, slots=True)
class HashStart:
    """TPM_HASH_START."""


@dataclass(frozen=True, slots=True)
class HashData:
    """TPM_HASH_DATA."""

    data: bytes


@dataclass(frozen=True, slots=True)
class HashEnd:
    """TPM_HASH_END."""


@dataclass(frozen=True, slots=True)
class ResetEstablishment:
    """STS.resetEstablishmentBit was written (TPM 2.0)."""

    locality: int


Output = Execute | Cancel | HashStart | HashData | HashEnd | ResetEstablishment


@dataclass(slots=True)
class _Locality:
    state: State = State.IDLE
    expect: bool = False
    data_avail: bool = False
    requested: bool = False
    seizing: bool = False
    been_seized: bool = False
    int_enable: int = int(Interrupt.POLARITY.put(1))
    int_status: int = 0


@dataclass(frozen=True, slots=True)
class _Abort:
    """An abort in progress: `who` loses its command, then `successor` owns the TPM.

    The same locality twice is an abort through commandReady; no successor is a release.
    """

    who: int | None
    successor: int | None


class TisChip:
    """One TIS device. Feed it `read` and `write`, drain `take_outputs` after every write.

    `established` and `self_test_done` are inputs: what the TPM behind says.
    """

    def __init__(self, personality: Personality = PC_CLIENT_TPM12) -> None:
        self.personality = personality
        self.established = False
        self.self_test_done = False
        self._readers: dict[str, Callable[[int], int]] = {
            "ACCESS": self._access,
            "INT_ENABLE": lambda locality: self._localities[locality].int_enable,
            "INT_VECTOR": lambda _: self._vector,
            "INT_STATUS": lambda locality: self._localities[locality].int_status,
            "INTF_CAPABILITY": lambda _: personality.capability,
            "STS": self._sts,
            "INTERFACE_ID": lambda _: self._interface_id,
            "DID_VID": lambda _: personality.did_vid,
            "RID": lambda _: personality.rid,
        }
        self._writers: dict[str, Callable[[int, int, int], None]] = {
            "ACCESS": self._write_access,
            "INT_ENABLE": self._write_int_enable,
            "INT_VECTOR": self._write_int_vector,
            "INT_STATUS": self._write_int_status,
            "STS": self._write_sts,
            "HASH_START": self._write_hash_start,
            "HASH_END": self._write_hash_end,
            "INTERFACE_ID": self._write_interface_id,
        }
        self.reset()

    def reset(self) -> None:
        """TPM_Init: every locality idle and without access; a pending command is forgotten."""
        self._localities = [_Locality() for _ in range(LOCALITIES)]
        self._active: int | None = None
        self._abort: _Abort | None = None
        self._pending: Execute | None = None
        self._buffer = bytearray(self.personality.buffer_size)
        self._offset = 0
        self._hashing = False
        self._vector = self.personality.irq_vector or 0
        self._interface_id = self.personality.interface_id
        self._outputs: list[Output] = []
        self.self_test_done = False

    # -- the TPM's side

    def take_outputs(self) -> list[Output]:
        """What happened since the last call, oldest first."""
        outputs, self._outputs = self._outputs, []
        return outputs

    @property
    def pending(self) -> Execute | None:
        """The command that is executing."""
        return self._pending

    @property
    def active_locality(self) -> int | None:
        """The locality that owns the TPM."""
        return self._active

    @property
    def irq(self) -> bool:
        """Whether the interrupt line is asserted (in the sense of the configured polarity)."""
        return any(locality.int_status for locality in self._localities)

    def state(self, locality: int) -> State:
        """Where `locality`'s command is."""
        return self._localities[locality].state

    def complete(self, response: bytes) -> None:
        """The response to the pending command, whether it was cancelled or not.

        Raises:
            UsageError: nothing is pending, or `response` is not one whole TPM frame that fits into
                the buffer.
        """
        if self._pending is None:
            raise UsageError("no command is pending in the TIS device")
        size = int.from_bytes(response[2:_SIZE_FIELD_END], "big")
        if not _HEADER_SIZE <= len(response) == size <= len(self._buffer):
            raise UsageError(f"response of {len(response)} bytes is no TPM frame that fits")
        owner, self._pending = self._pending.locality, None
        locality, abort = self._localities[owner], self._abort
        dropped = abort == _Abort(owner, owner)
        self._advance(locality, Event.ABORTED if dropped else Event.RESPONSE)
        self._buffer[: len(response)] = response
        self._offset = 0
        locality.data_avail = not dropped
        if abort is not None:
            self._abort_now(abort)
        if abort is None or self.personality.state_survives_locality_change:
            self._raise(owner, Interrupt.STS_VALID | Interrupt.DATA_AVAIL)

    # -- the bus's side

    def read(self, locality: int, offset: int, size: int) -> bytes:
        """`size` bytes at a page offset: a FIFO burst, or part of one register.

        What lies beyond the register, or is not there at all, reads all ones.
        """
        register = self._register(locality, offset)
        if register is None:
            return _ONES * size
        if register.is_fifo:
            return self._read_fifo(locality, size)
        reader = self._readers.get(register.name)
        if reader is None:
            return _ONES * size
        content = reader(locality)
        if size == 1 and register.name == "STS" and locality == self._active:
            # A driver that reads the burst count byte by byte must not see a torn one.
            content = content & ~Sts.BURST_COUNT | Sts.BURST_COUNT.put(min(self._burst(), 0xFF))
        raw = content.to_bytes(register.size, "little")[offset - register.offset :]
        return raw[:size].ljust(size, _ONES)

    def write(self, locality: int, offset: int, data: bytes) -> None:
        """Bytes at a page offset: a FIFO burst, or part of one register (surplus is ignored)."""
        register = self._register(locality, offset)
        if register is None or (locality == _HASH_LOCALITY and not self.personality.hash_interface):
            return
        if register.is_fifo:
            self._write_fifo(locality, data)
        elif writer := self._writers.get(register.name):
            at = offset - register.offset
            data = data[: register.size - at]
            written = (1 << 8 * len(data)) - 1
            writer(locality, int.from_bytes(data, "little") << 8 * at, written << 8 * at)

    @staticmethod
    def _register(locality: int, offset: int) -> Register | None:
        register = register_at(offset)
        if register is None or not 0 <= locality < LOCALITIES:
            return None
        return register if register.locality in (None, locality) else None

    # -- locality arbitration

    def _access(self, number: int) -> int:
        locality = self._localities[number]
        others = (other for other in self._localities if other is not locality)
        return (
            Access.VALID
            | (Access.ACTIVE if number == self._active else 0)
            | (Access.BEEN_SEIZED if locality.been_seized else 0)
            | (Access.PENDING if any(other.requested for other in others) else 0)
            | (Access.REQUEST if locality.requested else 0)
            | (0 if self.established else Access.ESTABLISHMENT)
        )

    def _write_access(self, number: int, value: int, _written: int) -> None:
        if self._hashing and number == _HASH_LOCALITY:
            return
        locality = self._localities[number]
        if value & Access.SEIZE:
            value &= ~(Access.REQUEST | Access.ACTIVE)
        was_owner = number == self._active
        if value & Access.ACTIVE:
            if was_owner:
                self._release(number)
            else:
                locality.requested = False
        if value & Access.BEEN_SEIZED:
            locality.been_seized = False
        if value & Access.SEIZE:
            self._seize(number)
        if value & Access.REQUEST and number != self._active:
            if self._active is None and self._abort is None:
                # Released in this very write: a release wins over the request beside it.
                if not was_owner:
                    self._switch(number)
            else:
                locality.requested = True

    def _release(self, number: int) -> None:
        if self._abort is not None and self._abort.successor not in (None, number):
            return  # a hand-over in progress takes the TPM away anyway and must not be forgotten
        successor = self._first_waiting()
        if successor is None and self.personality.state_survives_locality_change:
            self._switch(None)
        else:
            self._start_abort(_Abort(number, successor))

    def _first_waiting(self) -> int | None:
        waiting = (i for i, locality in enumerate(self._localities) if locality.requested)
        return max(waiting, default=None)

    def _seize(self, number: int) -> None:
        if self._active is not None and number <= self._active:
            return
        if any(locality.seizing for locality in self._localities[number:]):
            return
        for locality in self._localities[:number]:
            locality.seizing = False
        self._localities[number].seizing = True
        self._start_abort(_Abort(self._active, number))

    def _start_abort(self, abort: _Abort) -> None:
        first = self._abort is None
        self._abort = abort
        if self._pending is None:
            self._abort_now(abort)
        elif first:
            self._outputs.append(Cancel())

    def _abort_now(self, abort: _Abort) -> None:
        self._abort = None
        self._offset = 0
        if abort.who is not None and abort.who == abort.successor:
            self._advance(self._localities[abort.who], Event.ABORTED)
            self._raise(abort.who, Interrupt.COMMAND_READY)
        # Somebody may have asked while a release waited for the command to stop.
        self._switch(self._first_waiting() if abort.successor is None else abort.successor)

    def _switch(self, new: int | None) -> None:
        changed = new != self._active
        if changed and self._active is not None:
            old = self._localities[self._active]
            if new is not None and self._localities[new].seizing:
                old.been_seized = True
            else:
                old.requested = False
        self._active = new
        if changed and not self.personality.state_survives_locality_change:
            for locality in self._localities:
                locality.state = State.IDLE
                locality.expect = locality.data_avail = False
            self._offset = 0
        if new is not None:
            self._localities[new].requested = self._localities[new].seizing = False
            if changed:
                self._raise(new, Interrupt.LOCALITY_CHANGE)

    # -- command state machine

    def _advance(self, locality: _Locality, event: Event) -> State:
        locality.state = self.personality.transitions[locality.state][event]
        if locality.state is not State.RECEPTION:
            locality.expect = False
        if locality.state is not State.COMPLETION:
            locality.data_avail = False
        return locality.state

    def _sts(self, number: int) -> int:
        if number != self._active:
            return 0xFFFFFFFF
        locality = self._localities[number]
        valid = locality.state not in (State.IDLE, State.READY)
        return (
            Sts.FAMILY.put(self.personality.tpm20)
            | Sts.BURST_COUNT.put(self._burst())
            | (Sts.VALID if valid else 0)
            | (Sts.COMMAND_READY if locality.state is State.READY else 0)
            | (Sts.DATA_AVAIL if locality.data_avail else 0)
            | (Sts.EXPECT if locality.expect else 0)
            | (Sts.SELF_TEST_DONE if self.self_test_done else 0)
        )

    def _burst(self) -> int:
        if self.personality.burst_static:
            return self.personality.burst_limit
        assert self._active is not None
        reading = self._localities[self._active].data_avail
        end = self._response_size() if reading else len(self._buffer)
        return min(max(end - self._offset, 0), self.personality.burst_limit)

    def _response_size(self) -> int:
        return min(int.from_bytes(self._buffer[2:_SIZE_FIELD_END], "big"), len(self._buffer))

    def _write_sts(self, number: int, value: int, _written: int) -> None:
        if number != self._active or (self._hashing and number == _HASH_LOCALITY):
            return
        locality = self._localities[number]
        if self.personality.tpm20:
            if value & Sts.CANCEL and locality.state is State.EXECUTION:
                self._outputs.append(Cancel())
            if value & Sts.RESET_ESTABLISHMENT and number >= 3:
                self._outputs.append(ResetEstablishment(number))
        events = [event for bit, event in _STS_ACTIONS if value & bit]
        if events == [Event.COMMAND_READY]:
            self._command_ready(number, locality)
        elif events == [Event.GO]:
            self._go(number, locality)
        elif events == [Event.RETRY] and locality.state is State.COMPLETION:
            self._advance(locality, Event.RETRY)
            self._offset = 0
            locality.data_avail = True

    def _command_ready(self, number: int, locality: _Locality) -> None:
        if locality.state is State.EXECUTION:
            if self._abort is None:
                self._start_abort(_Abort(number, number))
            return
        was_ready = locality.state is State.READY
        self._offset = 0
        if self._advance(locality, Event.COMMAND_READY) is State.READY and not was_ready:
            self._raise(number, Interrupt.COMMAND_READY)

    def _go(self, number: int, locality: _Locality) -> None:
        if locality.expect or self._pending is not None:
            return
        if locality.state is State.RECEPTION:
            self._advance(locality, Event.GO)
            self._pending = Execute(bytes(self._buffer[: self._offset]), number)
            self._outputs.append(self._pending)

    # -- FIFO and hash interface

    def _write_fifo(self, number: int, data: bytes) -> None:
        if self._hashing and number == _HASH_LOCALITY:
            self._outputs.append(HashData(data))
            return
        if number != self._active or not data:
            return
        locality = self._localities[number]
        starting = locality.state is State.READY
        if self._advance(locality, Event.FIFO_WRITE) is not State.RECEPTION:
            return
        if starting:
            locality.expect = True
        step = len(data) if self.personality.length_checked_per_access else 1
        for at in range(0, len(data), step):
            if locality.expect:
                self._receive(locality, data[at : at + step])

    def _receive(self, locality: _Locality, data: bytes) -> None:
        data = data[: len(self._buffer) - self._offset]
        self._buffer[self._offset : self._offset + len(data)] = data
        self._offset += len(data)
        size = int.from_bytes(self._buffer[2:_SIZE_FIELD_END], "big") & self.personality.length_mask
        complete = self._offset >= _SIZE_FIELD_END and self._offset >= size
        locality.expect = not complete and self._offset < len(self._buffer)

    def _read_fifo(self, number: int, size: int) -> bytes:
        locality = self._localities[number]
        if number != self._active or not locality.data_avail:
            return _ONES * size
        end = self._response_size()
        data = bytes(self._buffer[self._offset : min(self._offset + size, end)])
        self._offset += len(data)
        if self._offset >= end:
            locality.data_avail = False
            self._raise(number, Interrupt.STS_VALID)
        return data.ljust(size, _ONES)

    def _write_hash_start(self, number: int, _value: int, _written: int) -> None:
        if self._active not in (None, number) or self._pending is not None:
            return
        self._switch(number)
        self._hashing = self.established = True
        self._outputs.append(HashStart())

    def _write_hash_end(self, number: int, _value: int, _written: int) -> None:
        if self._hashing:
            self._hashing = False
            self._outputs.append(HashEnd())
            self._release(number)

    # -- interrupts and interface selection

    def _raise(self, number: int, causes: int) -> None:
        locality = self._localities[number]
        enabled = causes & locality.int_enable
        if locality.int_enable & Interrupt.GLOBAL and enabled:
            unmasked = self.personality.interrupts_recorded_unmasked
            locality.int_status |= causes if unmasked else enabled

    def _write_int_enable(self, number: int, value: int, written: int) -> None:
        if number == self._active:
            locality = self._localities[number]
            locality.int_enable = locality.int_enable & ~written | value & _WRITABLE_INT_ENABLE

    def _write_int_vector(self, number: int, value: int, _written: int) -> None:
        if number == self._active and self.personality.irq_vector is None:
            self._vector = Vector.SIRQ.of(value)

    def _write_int_status(self, number: int, value: int, _written: int) -> None:
        if number == self._active:
            self._localities[number].int_status &= ~(value & Interrupt.SOURCES)

    def _write_interface_id(self, number: int, value: int, _written: int) -> None:
        if number != _HASH_LOCALITY and self.personality.tpm20:
            self._interface_id |= value & InterfaceId.LOCK
