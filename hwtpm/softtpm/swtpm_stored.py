"""swtpm over a `Storage`: its state never is in a file that has a name.

swtpm works on an anonymous file in memory, which it takes for its linear store (swtpm(8),
`--tpmstate backend-uri=file://`); it ends with the processes that hold it. After whatever may have
changed it, the whole of it goes to the storage, before the answer leaves.

Blob (StateName.PERMANENT): 8 bytes magic, swtpm's linear store with all that swtpm keeps in it.
"""

from __future__ import annotations

import os
from typing import Final

from hwtpm.errors import StateError
from hwtpm.softtpm.base import StateName, Storage
from hwtpm.softtpm.swtpm import SwtpmTpm

__all__ = ["StoredSwtpm"]

_MAGIC: Final = b"SWTPMlin"
_MOST_BYTES: Final = 1 << 20


class StoredSwtpm(SwtpmTpm):
    """A `SoftwareTpm` whose engine is a swtpm process and whose state is in `storage`.

    If the storage fails, so does the command, and swtpm is ended: what it holds is then newer than
    what is durable.

    Raises:
        StateError: the stored state is none of swtpm's.
        DeviceNotFound, AccessDenied, ProtocolError, Timeout, Unsupported: as `SwtpmTpm`.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._stored = storage.load(StateName.PERMANENT)
        if self._stored is not None and not self._stored.startswith(_MAGIC):
            raise StateError(
                "swtpm: the stored state is another engine's",
                hint="use the engine that wrote it; nothing was overwritten",
            )
        self._memory: int | None = os.memfd_create("swtpm-state", os.MFD_CLOEXEC)
        try:
            if self._stored is not None:
                os.pwrite(self._memory, self._stored[len(_MAGIC) :], 0)
            super().__init__(self._memory)
        except BaseException:
            self._free()
            raise

    def power_on(self) -> None:
        """See `SoftwareTpm.power_on`; a storage's own error is raised as it is."""
        super().power_on()
        self._keep()

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        """See `SwtpmTpm.execute`; a storage's own error is raised as it is."""
        response = super().execute(command, locality)
        self._keep()
        return response

    def reset_established(self, locality: int) -> int:
        """See `SoftwareTpm.reset_established`."""
        result = super().reset_established(locality)
        self._keep()
        return result

    def hash_start(self) -> None:
        """See `SoftwareTpm.hash_start`."""
        super().hash_start()
        self._keep()

    def hash_end(self) -> None:
        """See `SoftwareTpm.hash_end`."""
        super().hash_end()
        self._keep()

    def close(self) -> None:
        """See `SwtpmTpm.close`."""
        super().close()
        self._free()

    def _keep(self) -> None:
        assert self._memory is not None
        state = os.pread(self._memory, _MOST_BYTES + 1, 0)
        blob = _MAGIC + state
        if blob == self._stored:
            return
        try:
            if len(state) > _MOST_BYTES:
                raise StateError(f"swtpm: a state of more than {_MOST_BYTES} bytes cannot be kept")
            self._storage.store(StateName.PERMANENT, blob)
        except BaseException:
            self._end()
            raise
        self._stored = blob

    def _free(self) -> None:
        if self._memory is not None:
            memory, self._memory = self._memory, None
            os.close(memory)
