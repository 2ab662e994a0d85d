"""A guest's way to its vTPM: the ring that carries commands, and the power switch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from hwtpm.errors import ProtocolError
from vstack.ipc.rpc import Client
from vstack.xen.local import FrontEnd, RingFds

__all__ = ["GuestPort"]


class GuestPort:
    """The vTPM behind `host.sock` attached as a guest (a `vstack.qemu_tis.face.VtpmPort`).

    The vTPM belongs to this guest until `close`. If the vTPM's process ends meanwhile, commands
    fail until the next `power_on`, which attaches to the process that has taken its place: only a
    machine reset may bring a TPM back whose PCRs are lost.

    Raises:
        DeviceNotFound: the vTPM does not run.
        Busy: it has a guest already.
    """

    def __init__(self, host_socket: Path, name: str) -> None:
        self._path = host_socket
        self._name = name
        self._attach()

    def _attach(self) -> None:
        self._client = Client.connect(self._path, f"vTPM {self._name}", timeout_s=300.0)
        try:
            _, fds = self._client.call_fds("attach")
            try:
                if len(fds) != len(RingFds._fields):
                    raise ProtocolError(f"vTPM {self._name} passed {len(fds)} descriptors, not 3")
                self._ring = FrontEnd(RingFds(*fds), lifeline=self._client.fileno())
            finally:
                for fd in fds:
                    os.close(fd)
        except BaseException:
            self._client.close()
            raise

    def power_on(self) -> None:
        try:
            self._client.call("power_on")
        except ProtocolError:
            self.close()
            self._attach()
            self._client.call("power_on")

    def power_off(self) -> None:
        with contextlib.suppress(ProtocolError):  # a vTPM that is gone is off
            self._client.call("power_off")

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        return self._ring.execute(command, locality)

    def established(self) -> bool:
        return self._client.call("established").get("established") is True

    def reset_established(self, locality: int) -> int:
        return int(str(self._client.call("reset_established", {"locality": locality}).get("rc", 9)))

    def cancel(self) -> None:
        """A TPM 1.2 may finish a command that is cancelled; the engines here always do."""

    def close(self) -> None:
        """Detach the guest."""
        self._ring.close()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
