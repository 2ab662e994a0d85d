"""Transport sessions inside the TPM (Part 2 section 13.2; Part 3 section 24)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from hwtpm.softtpm.engine.sessions import Session
from hwtpm.tpm12.const import DIGEST_SIZE, TransportAttribute
from hwtpm.tpm12.types.transport import TransportPublic

__all__ = ["MAX_TRANSPORTS", "TransportSession"]

MAX_TRANSPORTS: Final = 16


@dataclass(slots=True, kw_only=True)
class TransportSession(Session):
    """TPM_TRANSPORT_INTERNAL: a session that authorises commands with a secret of its own."""

    auth: bytes = field(repr=False)
    public: TransportPublic
    log: bytes = bytes(DIGEST_SIZE)  # transDigest

    @property
    def encrypts(self) -> bool:
        """TPM_TRANSPORT_ENCRYPT."""
        return bool(self.public.trans_attributes & TransportAttribute.ENCRYPT)

    @property
    def logs(self) -> bool:
        """TPM_TRANSPORT_LOG."""
        return bool(self.public.trans_attributes & TransportAttribute.LOG)

    @property
    def exclusive(self) -> bool:
        """TPM_TRANSPORT_EXCLUSIVE."""
        return bool(self.public.trans_attributes & TransportAttribute.EXCLUSIVE)
