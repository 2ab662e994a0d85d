"""Software TPMs as transports: commands go straight to the engine, at a fixed locality."""

from __future__ import annotations

from hwtpm.errors import UsageError
from hwtpm.softtpm.base import SoftwareTpm
from hwtpm.transport.base import Attached

__all__ = ["SoftwareTransport"]


class SoftwareTransport:
    """A `SoftwareTpm` that is powered on, at one locality; closing it powers it off."""

    def __init__(self, tpm: SoftwareTpm, attached: Attached, *, locality: int = 0) -> None:
        self._tpm = tpm
        self._attached = attached
        self._locality = locality
        self._closed = False

    @property
    def attached(self) -> Attached:
        """The address and the engine's description."""
        return self._attached

    def execute(self, command: bytes) -> bytes:
        """See `Transport.execute`.

        Raises:
            UsageError: it is closed.
        """
        if self._closed:
            raise UsageError(f"{self._attached.address}: it is closed", hint="open it again")
        return self._tpm.execute(command, self._locality)

    def close(self) -> None:
        """See `Transport.close`."""
        if not self._closed:
            self._closed = True
            self._tpm.close()
