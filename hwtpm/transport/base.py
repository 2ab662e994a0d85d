"""What a transport is: whole commands in, whole responses out, and a word on what it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hwtpm.errors import UsageError
from hwtpm.transport.deadlines import Deadlines

__all__ = ["Attached", "Target", "Transport", "Wrapper"]


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
