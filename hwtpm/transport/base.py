"""What a transport is: whole commands in, whole responses out, and a word on what it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from hwtpm.errors import Unsupported, UsageError
from hwtpm.transport.deadlines import Deadlines

__all__ = [
    "Attached",
    "Cancels",
    "ChoosesLocality",
    "Target",
    "Transport",
    "Wrapper",
    "cancel",
    "set_locality",
]


@dataclass(frozen=True, slots=True)
class Attached:
    """What a transport is attached to; every result of this project quotes it.

    `real_hardware` is only true where that is known: what answers on a socket may be anything.
    """

    address: str
    backend: str
    real_hardware: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Target:
    """An address taken apart, and how to open it."""

    address: str
    rest: str
    locality: int
    deadlines: Deadlines

    def path(self, example: str) -> Path:
        """The rest as a path.

        Raises:
            UsageError: it is empty.
        """
        if not self.rest:
            raise UsageError(f"{self.address}: the path is missing", hint=f"write {example}")
        return Path(self.rest)

    def optional_path(self) -> Path | None:
        """The rest as a path, None if it is empty."""
        return Path(self.rest) if self.rest else None


class Transport(Protocol):
    """A way to one TPM. One command at a time; not for use by two threads at once."""

    @property
    def attached(self) -> Attached:
        """What it runs on."""
        ...

    def execute(self, command: bytes) -> bytes:
        """The response to one command, both whole TPM frames.

        Raises:
            HwtpmError: there is no response that could be one: lost, late or malformed. A return
                code other than success is a response, not an error.
        """
        ...

    def close(self) -> None:
        """Let go of the TPM; closing twice is allowed."""
        ...


@runtime_checkable
class Cancels(Protocol):
    """What a transport can be besides: one that can end a command early."""

    def cancel(self) -> None:
        """Make the command that another thread executes end soon. A TPM 2.0 then answers it with
        TPM_RC_CANCELED, or as it would have; for a TPM 1.2 `execute` raises `Cancelled`."""
        ...


@runtime_checkable
class ChoosesLocality(Protocol):
    """What a transport can be besides: one whose commands come from a locality of our choice."""

    def set_locality(self, number: int) -> None:
        """Send the following commands from locality `number`."""
        ...


def cancel(transport: Transport) -> None:
    """See `Cancels.cancel`.

    Raises:
        Unsupported: nothing on the way to this TPM can do that.
    """
    if not isinstance(transport, Cancels):
        address = transport.attached.address
        raise Unsupported(
            f"{address}: a command cannot be cancelled there", hint="wait for it to end"
        )
    transport.cancel()


def set_locality(transport: Transport, number: int) -> None:
    """See `ChoosesLocality.set_locality`.

    Raises:
        Unsupported: the other end of this transport chooses, as with the kernel's device.
    """
    if not isinstance(transport, ChoosesLocality):
        address = transport.attached.address
        raise Unsupported(
            f"{address}: the locality is of the other end's choice", hint="leave it as it is"
        )
    transport.set_locality(number)


class Wrapper:
    """Base of transports that add one behaviour to another transport."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    @property
    def attached(self) -> Attached:
        """What the wrapped transport runs on."""
        return self._inner.attached

    def close(self) -> None:
        """Close the wrapped transport."""
        self._inner.close()

    def cancel(self) -> None:
        """See `cancel`, on the wrapped transport."""
        cancel(self._inner)

    def set_locality(self, number: int) -> None:
        """See `set_locality`, on the wrapped transport."""
        set_locality(self._inner, number)
