"""Monotonic counters (TPM Main 1.2, Part 3 section 25)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hwtpm.client.session import Tpm
from hwtpm.errors import UsageError
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.counters import (
    CreateCounter,
    IncrementCounter,
    ReadCounter,
    ReleaseCounter,
    ReleaseCounterOwner,
)
from hwtpm.tpm12.const import EntityType, KeyHandleValue
from hwtpm.tpm12.types import CounterValue

__all__ = ["Counter", "create", "increment", "read", "release", "release_as_owner"]

_LABEL_SIZE: Final = 4


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter's handle, label and value."""

    handle: int
    label: bytes
    value: int


def create(tpm: Tpm, owner_auth: Secret, auth: Secret, label: bytes) -> Counter:
    """Create a counter with a 4-byte label; it starts above every value any counter ever had.

    Raises:
        TpmError: TPM_RESOURCES if there is no room for one more.
    """
    if len(label) != _LABEL_SIZE:
        raise UsageError(f"a counter's label has {_LABEL_SIZE} bytes, not {len(label)}")
    with tpm.osap(EntityType.OWNER, KeyHandleValue.OWNER, owner_auth) as session:
        request = CreateCounter(session.encrypt_auth(auth), label)
        reply = tpm.execute(request, session, last=True)
    return _counter(reply.count_id, reply.counter_value)


def increment(tpm: Tpm, handle: int, auth: Secret) -> Counter:
    """Count one up; between two starts of the TPM only one counter can be.

    Raises:
        TpmError: TPM_BAD_COUNTER for a second counter; TPM_RETRY if chips let wear prevent it.
    """
    return _counter(handle, tpm.execute_with(IncrementCounter(handle), auth).count)


def read(tpm: Tpm, handle: int) -> Counter:
    """The counter now; takes no authorisation, and so nothing proves the answer."""
    return _counter(handle, tpm.execute(ReadCounter(handle)).count)


def release(tpm: Tpm, handle: int, auth: Secret) -> None:
    """Delete a counter with its own AuthData."""
    tpm.execute_with(ReleaseCounter(handle), auth)


def release_as_owner(tpm: Tpm, handle: int, owner_auth: Secret) -> None:
    """Delete a counter with the owner's AuthData."""
    tpm.execute_with(ReleaseCounterOwner(handle), owner_auth)


def _counter(handle: int, value: CounterValue) -> Counter:
    return Counter(handle, value.label, value.counter)
