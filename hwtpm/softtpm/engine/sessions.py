"""Authorisation sessions inside the TPM (Part 1 section 13; Part 3 section 18)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

__all__ = ["MAX_SESSIONS", "Session", "SessionTable"]

MAX_SESSIONS: Final = 16


@dataclass(slots=True)
class Session:
    """An open session. `entity` is None for OIAP; for OSAP it names what the session is bound
    to: (entity type, handle or digest of the entity)."""

    handle: int
    nonce_even: bytes
    entity: tuple[int, bytes] | None = None
    shared_secret: bytes = field(default=b"", repr=False)
    adip: int = 0  # ADIP encryption scheme, upper byte of the OSAP entity type


class SessionTable:
    """The open sessions by handle."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._open: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._open.values()))

    def get(self, handle: int) -> Session | None:
        """The session with that handle."""
        return self._open.get(handle)

    def open(self) -> Session | None:
        """A new session with fresh handle and nonce, None if the table is full."""
        if len(self._open) >= MAX_SESSIONS:
            return None
        handle = 0
        while handle == 0 or handle in self._open:
            handle = int.from_bytes(self._random(3), "big") | 0x02000000
        session = Session(handle, self._random(20))
        self._open[handle] = session
        return session

    def close(self, handle: int) -> bool:
        """End a session; False if there was none."""
        return self._open.pop(handle, None) is not None

    def close_bound_to(self, entity: tuple[int, bytes]) -> None:
        """End the OSAP sessions of an entity whose AuthData changed or that is gone."""
        for session in self:
            if session.entity == entity:
                self.close(session.handle)

    def clear(self) -> None:
        """End all sessions."""
        self._open.clear()
