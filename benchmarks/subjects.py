"""What is compared: a vTPM process of ours and a swtpm process, both behind a unix socket.

Both end with the process that started them (the parent-death signal survives an exec).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import vtpm
from hwtpm.errors import UsageError
from hwtpm.transport.address import open_transport
from hwtpm.transport.base import Transport
from vstack.host import daemon
from vstack.host.layout import Layout
from vstack.ipc.children import Child, spawn

__all__ = ["ColdVtpm", "ForkedVtpm", "StackVtpm", "Subject", "Swtpm"]

_DEADLINE_S: Final = 20.0
_RETRY_S: Final = 0.0005


class Subject(ABC):
    """One TPM process over a state directory, which outlives it."""

    name: str
    has_ek = False  # it comes with an endorsement key

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.socket = directory / "raw"
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Start the process; it may not answer yet."""
        self.socket.unlink(missing_ok=True)
        self._child = self._spawn()

    def stop(self) -> None:
        """End and reap the process."""
        if self._child is not None:
            self._child.signal(signal.SIGKILL)
            self._child.reap()
            self._child = None

    def connect(self) -> Transport:
        """A connection, as soon as there can be one."""
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self.socket))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
        return open_transport(f"unix:{self.socket}")

    @abstractmethod
    def _spawn(self) -> Child: ...

    @property
    def _log(self) -> Path:
        return self.directory / "log"


class _Vtpm(Subject):
    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.socket))
        listener.listen()
        return listener

    @property
    def _state(self) -> Path:
        return self.directory / "state"


class ForkedVtpm(_Vtpm):
    """Ours as a host runs it: forked from a process that has loaded everything."""

    name = "ours"

    def _spawn(self) -> Child:
        with self._listen() as listener:
            keep = [listener.fileno()]
            return spawn("vtpm", lambda: vtpm.serve(listener, self._state), keep, self._log)


class ColdVtpm(_Vtpm):
    """Ours in a new interpreter; its modules are compiled, as installing compiles them."""

    name = "ours-cold"

    def compile(self) -> None:
        """Compile the modules, so that no measured start does."""
        command = [sys.executable, "-c", "import benchmarks.vtpm"]
        subprocess.run(command, check=True, env=self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        cache = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.directory / "pyc")}
        return os.environ | cache

    def _spawn(self) -> Child:
        with self._listen() as listener:
            listener.set_inheritable(True)
            fd = listener.fileno()
            command = [sys.executable, "-m", "benchmarks.vtpm", str(fd), str(self._state)]
            run = partial(os.execve, command[0], command, self._environment)
            return spawn("vtpm", run, [fd], self._log)


class Swtpm(Subject):
    """The peer."""

    name = "swtpm"

    def _spawn(self) -> Child:
        state = self.directory / "state"
        state.mkdir(exist_ok=True)
        command = [
            *("swtpm", "socket", "--tpmstate", f"dir={state}"),
            *("--server", f"type=unixio,path={self.socket}"),
            *("--flags", "not-need-init,startup-clear"),
        ]
        return spawn("swtpm", lambda: os.execvp(command[0], command), [], self._log)


class StackVtpm(Subject):
    """Ours in a whole stack: state encrypted, its key with a manager on a simulated chip."""

    name = "ours-in-a-stack"
    has_ek = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        # Sockets need a short path, state a disk.
        self._run = tempfile.TemporaryDirectory(prefix="vsb-")
        self._layout = Layout(directory / "state", Path(self._run.name))
        self.socket = self._layout.vtpm_run("bench") / "tpm.sock"

    def start(self) -> None:
        daemon.start(self._layout, "sim:", lambda _: None, tied=True)
        with daemon.control(self._layout) as stack:
            stack.call("vtpm_create", {"name": "bench", "engine": "engine"})

    def stop(self) -> None:
        daemon.stop(self._layout)
        self._run.cleanup()

    def _spawn(self) -> Child:
        raise UsageError("a stack starts its own processes")
