"""Secret bytes that do not leak through repr, logs or comparison timing (design rule 5)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from hwtpm.errors import UsageError

__all__ = ["WELL_KNOWN", "Secret"]


class Secret:
    """A byte string that prints as its length only and compares in constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    @classmethod
    def auth_from_text(cls, text: str) -> Secret:
        """TPM 1.2 authorisation data from a password: SHA-1 of its UTF-8 bytes, 20 bytes."""
        return cls(hashlib.sha1(text.encode()).digest())

    def reveal(self) -> bytes:
        """The bytes themselves, for the one place that has to use them."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        raise UsageError("a Secret is not a dictionary key: its hash would leak it")

    def __repr__(self) -> str:
        return f"Secret({len(self._value)} bytes)"


WELL_KNOWN: Final = Secret(bytes(20))
"""TPM_WELL_KNOWN_SECRET: 20 zero bytes, what tpm-tools' `-z` means."""
