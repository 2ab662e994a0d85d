"""The error tree, sorted by culprit: who has to act to make the error go away.

Every message says what was tried and on which device; `hint` says the next thing to do.
Command-line exit codes are part of the contract (documented in docs/exit-codes.md) and fit in
eight bits; a TPM's own return code never becomes an exit code.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "BusError",
    "Busy",
    "Cancelled",
    "DeviceNotFound",
    "HwtpmError",
    "ProtocolError",
    "Refused",
    "StateError",
    "Timeout",
    "TpmError",
    "Unsupported",
    "UsageError",
    "VerificationError",
]


class HwtpmError(Exception):
    """Base of all errors that this project raises on purpose."""

    kind = "internal"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.hint}" if self.hint else self.message

    def describe(self) -> dict[str, str | int]:
        """The error as plain values, for JSON and for other processes."""
        return {"kind": self.kind, "message": self.message, "hint": self.hint}


class UsageError(HwtpmError):
    """The caller asked for something that makes no sense; nothing was sent anywhere."""

    kind = "usage"
    exit_code = 2


class DeviceNotFound(HwtpmError):
    """No device answers to that address, or more than one does."""

    kind = "not-found"
    exit_code = 3


class AccessDenied(HwtpmError):
    """The device or file is there, the operating system does not let us use it."""

    kind = "access-denied"
    exit_code = 4


class BusError(HwtpmError):
    """The wires or the link failed: nothing that came back can be trusted."""

    kind = "bus"
    exit_code = 5


class ProtocolError(HwtpmError):
    """The peer (chip, guest, server) broke its protocol."""

    kind = "protocol"
    exit_code = 5


class Timeout(ProtocolError):
    """The peer did not do within its deadline what its protocol demands."""

    kind = "timeout"


class TpmError(HwtpmError):
    """The TPM answered with a return code other than success."""

    kind = "tpm"
    exit_code = 6

    def __init__(
        self, message: str, *, rc: int, name: str, meaning: str, command: str, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.rc = rc
        self.name = name
        self.meaning = meaning
        self.command = command

    def describe(self) -> dict[str, str | int]:
        details = {"name": self.name, "meaning": self.meaning, "command": self.command}
        return super().describe() | {"rc": self.rc} | details


class Cancelled(HwtpmError):
    """The caller cancelled the command; the chip is ready for the next one."""

    kind = "cancelled"
    exit_code = 14


class VerificationError(HwtpmError):
    """A signature, digest, MAC or certificate does not prove what it should."""

    kind = "verification"
    exit_code = 9


class Unsupported(HwtpmError):
    """The device, engine or program cannot do that."""

    kind = "unsupported"
    exit_code = 10


class StateError(HwtpmError):
    """A stored state cannot be used: damaged, of another chip, or of a newer version.

    Nothing has been overwritten when this is raised.
    """

    kind = "state"
    exit_code = 13


class Refused(HwtpmError):
    """A policy forbids it: a destructive step without consent, a locked manager, a board's rule."""

    kind = "refused"
    exit_code = 11


class Busy(HwtpmError):
    """Somebody else uses the device; trying again later can succeed."""

    kind = "busy"
    exit_code = 12
