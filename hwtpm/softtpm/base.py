"""What a pluggable software TPM is: one interface, three engines behind it.

The storage seam is the same for every in-process engine, so a simulated chip keeps its state in a
plain file while a virtual TPM keeps the same bytes encrypted in two copies.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, runtime_checkable

__all__ = [
    "CancellableTpm",
    "Family",
    "MemoryStorage",
    "MovableTpm",
    "SoftwareTpm",
    "StandbyTpm",
    "StateName",
    "Storage",
]


class Family(StrEnum):
    """Which TPM it is. Our own engine is a TPM 1.2; libtpms and swtpm can be either."""

    TPM12 = "TPM 1.2"
    TPM20 = "TPM 2.0"


class StateName(StrEnum):
    """The blobs a TPM keeps across power cycles; a TPM 2.0 has both in the first."""

    PERMANENT = "permanent"  # TPM_PERMANENT_*: keys, flags, NV, counters
    SAVED = "saved"  # what TPM_SaveState wrote, for TPM_Startup(ST_STATE)
    STANDBY = "standby"  # of `StandbyTpm`: all that else would be lost with the power


class Storage(Protocol):
    """Where a software TPM keeps its blobs. A call that returns has reached the disk."""

    def load(self, name: StateName) -> bytes | None:
        """The blob last stored, or None if there never was one (or it was deleted).

        Raises:
            StateError: there is one and it cannot be used; it stays untouched.
        """
        ...

    def store(self, name: StateName, blob: bytes) -> None:
        """Make `blob` the durable content of `name`; all or nothing."""
        ...

    def delete(self, name: StateName) -> None:
        """Durably forget `name`; nothing happens if it is not there."""
        ...


class MemoryStorage:
    """Storage for tests and throw-away TPMs; counts its writes."""

    def __init__(self) -> None:
        self.blobs: dict[StateName, bytes] = {}
        self.writes = 0

    def load(self, name: StateName) -> bytes | None:
        return self.blobs.get(name)

    def store(self, name: StateName, blob: bytes) -> None:
        self.blobs[name] = blob
        self.writes += 1

    def delete(self, name: StateName) -> None:
        if self.blobs.pop(name, None) is not None:
            self.writes += 1


class SoftwareTpm(Protocol):
    """A TPM in software: power, commands with a locality, and the locality 4 hash interface.

    Commands and responses are whole TPM frames (Part 3 section 2). A malformed or refused command
    is answered with a TPM return code, never with an exception.
    """

    @property
    def description(self) -> str:
        """The engine and its version, for people: `hwtpm engine 0.1`, `libtpms 0.9.2`."""
        ...

    def power_on(self) -> None:
        """TPM_Init (Part 3 section 3.1): load the permanent state, forget the volatile one.

        May be called again at any time: it is then a power cycle.

        Raises:
            StateError: the permanent state is there and unusable.
        """
        ...

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        """Answer one command; what it changed permanently is durable when this returns."""
        ...

    @property
    def established(self) -> bool:
        """TPM established flag: TPM_HASH_START has been seen since it was last reset."""
        ...

    def reset_established(self, locality: int) -> int:
        """TSC_ResetEstablishmentBit from `locality` (3 or 4); returns a TPM return code."""
        ...

    def hash_start(self) -> None:
        """TPM_HASH_START at locality 4: reset the dynamic PCRs and start a measurement."""
        ...

    def hash_data(self, data: bytes) -> None:
        """TPM_HASH_DATA: more bytes of the measurement."""
        ...

    def hash_end(self) -> None:
        """TPM_HASH_END: extend PCR 17 with the measurement."""
        ...

    def close(self) -> None:
        """Power off and free everything; the object cannot be used afterwards."""
        ...


@runtime_checkable
class CancellableTpm(Protocol):
    """A software TPM that can end a command early; only a TPM 2.0 ever does (TPM_RC_CANCELED)."""

    def cancel(self) -> None:
        """Ask the command that another thread executes to end soon; it may end as it would."""
        ...


@runtime_checkable
class StandbyTpm(Protocol):
    """A software TPM that can outlive its process as a chip on standby power outlives a program."""

    def stand_by(self) -> None:
        """Keep everything, so that the next `power_on`, after `close`, goes on here; once."""
        ...


class MovableTpm(SoftwareTpm, Protocol):
    """A software TPM whose volatile state can go on in another process, for snapshots and moves.

    The stored blobs of `Storage` have to go with it: the two together are the TPM.
    """

    def export_volatile(self) -> bytes:
        """All that is lost with the power, between two commands. It holds keys and AuthData in
        clear. The TPM goes on; whoever moves it powers it off.

        Raises:
            Busy: between `hash_start` and `hash_end`.
        """
        ...

    def import_volatile(self, blob: bytes) -> None:
        """Power on, and go on where `export_volatile` was called, with the stored state of that
        time.

        Raises:
            StateError: one of the two states is unusable.
        """
        ...
