"""Authorisation sessions inside the TPM (Part 1 section 13; Part 3 section 18)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from hwtpm.tpm12.types.delegation import DelegatePublic

__all__ = ["MAX_SESSIONS", "Session"]

MAX_SESSIONS: Final = 16


@dataclass(slots=True)
class Session:
    """An open session. `entity` is None for OIAP; for OSAP and DSAP it names what the session is
    bound to: (entity type, handle or digest of the entity). A DSAP session has a `delegation`."""

    handle: int
    nonce_even: bytes
    entity: tuple[int, bytes] | None = None
    shared_secret: bytes = field(default=b"", repr=False)
    adip: int = 0  # ADIP encryption scheme, upper byte of the OSAP entity type
    delegation: DelegatePublic | None = None
