"""The whole stack under a guest that never stops: its manager and vTPM are killed as they write.

The supervisor is the real one. Each manager and vTPM that it starts gets a write at which it dies;
the other one lives on, keeps its ring and is connected again.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from crash_rounds import Belief, Shim, State
from crash_scenarios import TpmSubject, find_ek

from hwtpm.client.session import Tpm
from hwtpm.errors import DeviceNotFound, HwtpmError, TpmError
from hwtpm.tpm12.rc import Rc
from hwtpm.transport.address import open_transport
from vstack.host import supervisor as host
from vstack.host.layout import Layout
from vstack.ipc.children import Child, spawn
from vstack.ipc.rpc import Client, Json

__all__ = ["kill_stack"]

_GUEST: Final = "guest"
_MOST_CALLS: Final = 70  # a manager's start makes about 40, a vTPM's about 20, a command 5
_DEADLINE_S: Final = 60.0


class _Hazard:
    """Decides for each child of the supervisor where it dies, and counts those that did."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._shim = Shim()
        self._shared = mmap.mmap(-1, 2)  # the supervisor is another process: armed, kills

    @property
    def kills(self) -> int:
        return self._shared[1]

    @property
    def armed(self) -> bool:
        return self._shared[0] == 1

    @armed.setter
    def armed(self, armed: bool) -> None:
        self._shared[0] = armed

    def spawn(self, name: str, main: Callable[[], None], keep: Iterable[int], log: Path) -> Child:
        place = self._rng.randint(1, _MOST_CALLS), self._rng.choice(Shim.KILLS)

        def doomed() -> None:
            self._shim.arm(*place if self.armed else (0, 0))
            main()

        child = spawn(name, doomed, keep, log)
        return _Counted(child.name, child.pid, child.pidfd, self)

    def count(self) -> None:
        self._shared[1] += 1


class _Counted(Child):
    def __init__(self, name: str, pid: int, pidfd: int, hazard: _Hazard) -> None:
        super().__init__(name, pid, pidfd)
        self._hazard = hazard

    def reap(self) -> int:
        code = super().reap()
        if code == -signal.SIGKILL:
            self._hazard.count()
        return code


def kill_stack(directory: Path, seed: int, kills: int) -> State:
    """Kill that many managers and vTPMs under a working guest; reports as `kill_lives`."""
    hazard = _Hazard(seed)
    rng = random.Random(seed)
    belief = Belief()
    # Unix sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="crash-") as run:
        layout = Layout(directory / "state", Path(run))
        hazard.armed = True
        with _supervised(layout, hazard):
            _create(layout)
            while hazard.kills < kills and not belief.problems:
                _use(layout, belief, rng, lambda: hazard.kills < kills)
        hazard.armed = False
        with _supervised(layout, hazard):
            _use(layout, belief, rng, lambda: False)
    report = {"kills": str(hazard.kills)}
    if belief.problems:
        report["problem"] = "\n".join(belief.problems)
    return report


@contextmanager
def _supervised(layout: Layout, hazard: _Hazard) -> Iterator[None]:
    pid = os.fork()
    if pid == 0:
        try:
            host.spawn = hazard.spawn  # type: ignore[attr-defined]
            host._FIRST_DELAY_S = host._LONGEST_DELAY_S = 0.01  # type: ignore[misc]
            _supervise(layout)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _supervise(layout: Layout) -> None:
    """Start until it works, as an administrator would; then serve."""
    while True:
        supervisor = host.Supervisor(layout, "sim:", lambda text: None)
        try:
            supervisor.start()
        except HwtpmError:
            continue
        supervisor.run()
        return


def _running(status: Json) -> bool:
    vtpms = status["vtpms"]
    assert isinstance(vtpms, list)
    return any(one["name"] == _GUEST and one["running"] for one in vtpms)


def _create(layout: Layout) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        try:
            with Client.connect(layout.control, "the stack") as stack:
                if _running(stack.call("status")):
                    return
                stack.call("vtpm_create", {"name": _GUEST, "engine": "engine"})
        except DeviceNotFound:
            time.sleep(0.01)  # not up yet
        except HwtpmError:
            continue  # killed on the way; it is there, or it is not
    raise TimeoutError("the vTPM cannot be created")


def _use(layout: Layout, belief: Belief, rng: random.Random, more: Callable[[], bool]) -> None:
    """Attach to the vTPM, look, and work until it goes away or there is no `more`."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            tpm = Tpm(open_transport(f"unix:{layout.vtpm_run(_GUEST) / 'tpm.sock'}"))
            with tpm:
                subject = TpmSubject(tpm, find_ek(tpm))
                state = subject.read()
                belief.hear("found", state)
                while more() and not belief.problems:
                    change = subject.next_change(state, rng)
                    belief.hear("tries", [change.name, change.value])
                    change.make()
                    belief.hear("done", change.name)
                    state = change.of(state)
            return
        except HwtpmError as error:
            # A vTPM that lost its manager for good answers TPM_FAIL; nothing else is expected.
            if isinstance(error, TpmError) and error.rc != Rc.FAIL:
                raise
            if time.monotonic() > deadline:
                raise
