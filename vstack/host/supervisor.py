"""The supervisor: starts manager and vTPMs, connects them, starts them again when they die.

It is the stack's toolstack: the only one who says which ring belongs to which vTPM, so no vTPM can
claim to be another. It holds no key and no state of a TPM.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from hwtpm.errors import Busy, DeviceNotFound, HwtpmError, StateError, Timeout, UsageError
from hwtpm.loop import Loop
from hwtpm.softtpm.keypool import KeyPool
from vstack.host import processes
from vstack.host.layout import Layout, StackConfig, VtpmConfig, check_engine
from vstack.ipc.children import Child, allow_descriptors, spawn
from vstack.ipc.rpc import Answer, Client, Json, Peer, Server, error_to_json, listen
from vstack.xen.local import FrontEnd, LocalRing

__all__ = ["NOTHING", "Permit", "Supervisor"]

_LOG: Final = logging.getLogger(__name__)
_START_TIMEOUT_S: Final = 300.0  # a real chip makes an EK and an SRK in minutes, not seconds
_GLANCE_TIMEOUT_S: Final = 2.0
_STOP_TIMEOUT_S: Final = 5.0
_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 10.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Permit:
    """What the administrator allows a start to do beyond starting.

    `new_manager`: make a new manager although there has been one before. `take_chip`: take a real
    chip that nobody owns into ownership. `key_pool`: make RSA keys ahead, in a process of its own.
    """

    new_manager: bool = False
    take_chip: bool = False
    key_pool: bool = False


NOTHING: Final = Permit()


@dataclass(frozen=True)
class _Sockets:
    """What a vTPM listens on; there while it runs or is about to be started again."""

    raw: socket.socket
    host: socket.socket
    qemu: socket.socket

    @classmethod
    def listen(cls, directory: Path) -> _Sockets:
        """Bind the three sockets in a vTPM's run directory."""
        return cls(
            raw=listen(directory / "tpm.sock", socket.SOCK_STREAM),
            host=listen(directory / "host.sock"),
            qemu=listen(directory / "qemu.sock", socket.SOCK_STREAM),
        )

    def close(self) -> None:
        """Stop listening, so that callers are refused and do not wait."""
        for channel in (self.raw, self.host, self.qemu):
            Path(channel.getsockname()).unlink(missing_ok=True)
            channel.close()


@dataclass
class _Vtpm:
    """A vTPM that should run. `problem` says why it does not."""

    name: str
    config: VtpmConfig
    ring: LocalRing
    sockets: _Sockets | None = None
    child: Child | None = None
    face: Child | None = None
    restarts: int = 0
    problem: HwtpmError | None = None


class Supervisor:
    """One stack on one host.

    Args:
        layout: where it lies.
        chip: the chip's address as the administrator gave it, None for the one used before.
        progress: told one line about each step.
        permit: what it may do beyond starting.
    """

    def __init__(
        self, layout: Layout, chip: str | None, progress: Progress, permit: Permit = NOTHING
    ) -> None:
        self._layout = layout
        self._permit = permit
        self._chip = chip or ""
        self._progress = progress
        self._loop = Loop()
        self._vtpms: dict[str, _Vtpm] = {}
        self._broken: dict[str, HwtpmError] = {}  # vTPMs whose description cannot be read
        self._manager: Child | None = None
        self._manager_client: Client | None = None
        self._manager_restarts = 0
        self._stopping = False
        self._locks: list[int] = []
        self._server: Server | None = None
        self._pool: KeyPool | None = None
        self._pool_watch = -1  # becomes readable when nobody fills it any more

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> Json:
        """Start everything; returns what `status` says.

        Raises:
            HwtpmError: the manager cannot start; nothing is left running.
        """
        self._layout.prepare()
        self._locks = self._layout.lock()
        known = self._layout.read_stack()
        self._chip = self._chip or (known.chip if known else "")
        if not self._chip:
            raise UsageError(
                "no chip is named", hint="name one, for a software chip: vstack up --chip sim:"
            )
        try:
            allow_descriptors()
            processes.prepare()
            if self._permit.key_pool:
                self._open_pool()
            self._start_manager(create=known is None or self._permit.new_manager)
            if known is None or known.chip != self._chip:
                self._layout.write_stack(StackConfig(self._chip))
            for name in self._layout.vtpm_names():
                self._begin_known(name)
            self._server = Server(self._loop, self._call, listen(self._layout.control))
        except BaseException:
            self.stop()
            raise
        return self._status()

    def run(self) -> None:
        """Serve until `down` or SIGTERM."""
        with self._loop.stopped_by(signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.run()
            self.stop()

    def stop(self) -> None:
        """End all children, the guests' faces first, the manager last; let go of the state."""
        self._stopping = True
        for vtpm in self._vtpms.values():
            self._end(vtpm.face)
        for vtpm in tuple(self._vtpms.values()):
            self._remove(vtpm)
        if self._manager_client is not None:
            with contextlib.suppress(HwtpmError):
                self._manager_client.call("stop", timeout_s=_STOP_TIMEOUT_S)
            self._manager_client.close()
        self._end(self._manager, graceful=True)
        self._manager = None
        if self._server is not None:
            self._server.close()
        self._close_pool()
        self._layout.control.unlink(missing_ok=True)
        while self._locks:
            os.close(self._locks.pop())

    def _open_pool(self) -> None:
        self._pool = KeyPool()
        self._pool_watch = os.pidfd_open(self._pool.filler_pid)
        self._loop.watch(self._pool_watch, self._pool_ended)

    def _pool_ended(self) -> None:
        """The vTPMs use what is left, and then make keys themselves."""
        assert self._pool is not None
        self._loop.unwatch(self._pool_watch)
        _LOG.error("no more keys are made ahead: their process ended with %d", self._pool.reap())

    def _close_pool(self) -> None:
        if self._pool is not None:
            with contextlib.suppress(KeyError):  # it ended before
                self._loop.unwatch(self._pool_watch)
            if self._pool_watch >= 0:
                os.close(self._pool_watch)
            self._pool.close()
            self._pool = None

    def _end(self, child: Child | None, *, graceful: bool = False) -> None:
        if child is None:
            return
        with contextlib.suppress(KeyError):
            self._loop.unwatch(child.pidfd)
        if not graceful:
            child.signal(signal.SIGTERM)
        ended = Loop()
        over: list[None] = []
        ended.watch(child.pidfd, lambda: over.append(None))
        ended.turn(_STOP_TIMEOUT_S)
        ended.close()
        if not over:
            child.signal(signal.SIGKILL)
        child.reap()

    # --- manager -------------------------------------------------------------------------------

    def _start_manager(self, *, create: bool = False) -> None:
        address = self._layout.chip_address(self._chip)
        self._progress(f"starting the vTPM manager on chip {address}")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        task = processes.ManagerTask(
            theirs, address, self._layout.store, create, self._permit.take_chip
        )
        self._manager = spawn(
            "vtpmmgr",
            partial(processes.manager, task),
            [theirs.fileno()],
            self._layout.log / "manager.log",
        )
        theirs.close()
        self._manager_client = Client(ours, "the vTPM manager", _START_TIMEOUT_S)
        self._loop.watch(self._manager.pidfd, self._manager_ended)
        status = self._manager_client.call("status")
        self._progress(f"manager {status.get('manager')} is ready")

    def _manager_ended(self) -> None:
        assert self._manager is not None
        self._loop.unwatch(self._manager.pidfd)
        code = self._manager.reap()
        self._manager = None
        self._manager_restarts += 1
        _LOG.error("the manager ended with %d; starting it again", code)
        self._loop.after(_delay(self._manager_restarts), self._restart_manager)

    def _restart_manager(self) -> None:
        if self._manager_client is not None:
            self._manager_client.close()
        try:
            self._start_manager()
        except HwtpmError as error:
            _LOG.error("the manager does not start: %s", error)
            return
        for vtpm in self._vtpms.values():
            try:
                self._attach(vtpm)
            except HwtpmError as error:
                _LOG.error("vTPM %s cannot be attached: %s", vtpm.name, error)
        for vtpm in self._vtpms.values():
            if vtpm.child is not None and vtpm.problem is not None:
                self._greet(vtpm)

    def _look_at_manager(self) -> Json:
        """What the manager says of itself, if it is not busy."""
        if self._manager_client is None or self._manager is None:
            raise _no_manager()
        return self._manager_client.call("status", timeout_s=_GLANCE_TIMEOUT_S)

    def _ask_manager(self, op: str, params: Json | None = None, fds: tuple[int, ...] = ()) -> Json:
        if self._manager_client is None or self._manager is None:
            raise _no_manager()
        try:
            return self._manager_client.call(op, params, fds)
        except Timeout:
            # Stuck on its chip: the next one starts from what is durable.
            self._manager.signal(signal.SIGKILL)
            raise

    # --- vTPMs ---------------------------------------------------------------------------------

    def _begin_known(self, name: str) -> None:
        """Start a vTPM that is on disk; one that cannot be read must not keep the others down."""
        try:
            self._begin(name, self._layout.read_vtpm(name))
        except HwtpmError as error:
            if name not in self._vtpms:
                self._broken[name] = error
            self._progress(f"vTPM {name} is down: {error.message}")

    def _begin(self, name: str, config: VtpmConfig) -> _Vtpm:
        for other in self._vtpms.values():
            if other.config.uuid == config.uuid:
                raise StateError(
                    f"vTPMs {name!r} and {other.name!r} have the same uuid {config.uuid}: one is a "
                    "copy of the other",
                    hint="move the copy out of the state directory; nothing was changed",
                )
        self._layout.vtpm_run(name).mkdir(mode=0o700, exist_ok=True)
        vtpm = _Vtpm(name, config, LocalRing.create())
        self._vtpms[name] = vtpm
        self._progress(f"starting vTPM {name} ({config.uuid})")
        try:
            self._attach(vtpm)
            self._run_vtpm(vtpm)
        except HwtpmError:
            self._restart_later(vtpm)
            raise
        return vtpm

    def _remove(self, vtpm: _Vtpm) -> None:
        """End a vTPM's processes and forget it; what is on disk stays."""
        del self._vtpms[vtpm.name]
        self._end(vtpm.face)
        vtpm.face = None
        self._end(vtpm.child)
        vtpm.child = None
        self._close_sockets(vtpm)
        vtpm.ring.close()

    def _take_down(self, vtpm: _Vtpm) -> None:
        """Remove a vTPM, and have the manager let go of its ring."""
        self._remove(vtpm)
        with contextlib.suppress(HwtpmError):  # a manager that is started again knows no rings
            self._ask_manager("detach", {"uuid": str(vtpm.config.uuid)})

    def _open_sockets(self, vtpm: _Vtpm) -> _Sockets:
        if vtpm.sockets is None:
            vtpm.sockets = _Sockets.listen(self._layout.vtpm_run(vtpm.name))
            self._loop.watch(vtpm.sockets.qemu, partial(self._start_face, vtpm))
        return vtpm.sockets

    def _close_sockets(self, vtpm: _Vtpm) -> None:
        if vtpm.sockets is not None:
            with contextlib.suppress(KeyError):  # a face has it
                self._loop.unwatch(vtpm.sockets.qemu)
            vtpm.sockets.close()
            vtpm.sockets = None

    def _attach(self, vtpm: _Vtpm) -> None:
        self._ask_manager("attach", {"uuid": str(vtpm.config.uuid)}, vtpm.ring.fds)

    def _run_vtpm(self, vtpm: _Vtpm) -> None:
        """Start the process and wait until it answers."""
        manager = str(self._ask_manager("status").get("manager"))
        sockets = self._open_sockets(vtpm)
        task = processes.VtpmTask(
            name=vtpm.name,
            uuid=vtpm.config.uuid,
            manager=UUID(manager),
            engine=vtpm.config.engine,
            directory=self._layout.vtpm_state(vtpm.name),
            fresh=not vtpm.config.provisioned,
            ring=vtpm.ring.fds,
            raw=sockets.raw,
            host=sockets.host,
            pool=self._pool,
        )
        keep = [*vtpm.ring.fds, sockets.raw.fileno(), sockets.host.fileno()]
        if self._pool is not None:
            keep.append(self._pool.fileno())
        log = self._layout.log / f"vtpm-{vtpm.name}.log"
        vtpm.child = spawn(f"vtpm:{vtpm.name}", partial(processes.vtpm, task), keep, log)
        self._loop.watch(vtpm.child.pidfd, partial(self._vtpm_ended, vtpm))
        self._greet(vtpm)

    def _greet(self, vtpm: _Vtpm) -> None:
        """Wait until a vTPM that was started answers, or cannot any more."""
        try:
            self._ask_vtpm(vtpm, "status")
            vtpm.problem = None
            if not vtpm.config.provisioned:
                vtpm.config = VtpmConfig(vtpm.config.uuid, vtpm.config.engine, provisioned=True)
                self._layout.write_vtpm(vtpm.name, vtpm.config)
        except HwtpmError as error:
            if isinstance(error, Timeout) and vtpm.child is not None:
                vtpm.child.signal(signal.SIGKILL)  # it hangs; the next one may not
            vtpm.problem = error
            self._progress(f"vTPM {vtpm.name} does not start: {error.message}")

    def _ask_vtpm(
        self,
        vtpm: _Vtpm,
        op: str,
        params: Json | None = None,
        timeout_s: float = _START_TIMEOUT_S,
    ) -> Json:
        path = self._layout.vtpm_run(vtpm.name) / "host.sock"
        # The socket stays when the vTPM dies, and without a manager a vTPM does not go on.
        needed = [child.pidfd for child in (vtpm.child, self._manager) if child is not None]
        with Client.connect(path, f"vTPM {vtpm.name}", timeout_s, needed) as client:
            return client.call(op, params)

    def _vtpm_ended(self, vtpm: _Vtpm) -> None:
        assert vtpm.child is not None
        self._loop.unwatch(vtpm.child.pidfd)
        code = vtpm.child.reap()
        vtpm.child = None
        if isinstance(vtpm.problem, StateError):
            _LOG.error("vTPM %s stays down: %s", vtpm.name, vtpm.problem)
            self._close_sockets(vtpm)
            return
        _LOG.error("vTPM %s ended with %d; starting it again", vtpm.name, code)
        self._restart_later(vtpm)

    def _restart_later(self, vtpm: _Vtpm) -> None:
        vtpm.restarts += 1
        self._loop.after(_delay(vtpm.restarts), partial(self._restart_vtpm, vtpm))

    def _restart_vtpm(self, vtpm: _Vtpm) -> None:
        if self._stopping or vtpm.child is not None or self._vtpms.get(vtpm.name) is not vtpm:
            return
        with FrontEnd(vtpm.ring.fds) as left_over:
            left_over.reset()
        try:
            self._run_vtpm(vtpm)
        except HwtpmError as error:
            _LOG.error("vTPM %s cannot be started now: %s", vtpm.name, error)
            self._restart_later(vtpm)

    def _start_face(self, vtpm: _Vtpm) -> None:
        """A QEMU has connected: give it a process of its own."""
        qemu = self._open_sockets(vtpm).qemu
        self._loop.unwatch(qemu)
        path = self._layout.vtpm_run(vtpm.name) / "host.sock"
        try:
            vtpm.face = spawn(
                f"qemu:{vtpm.name}",
                partial(processes.face, qemu, path, vtpm.name),
                [qemu.fileno()],
                self._layout.log / f"qemu-{vtpm.name}.log",
            )
        except HwtpmError as error:
            _LOG.error("vTPM %s has a QEMU waiting: %s", vtpm.name, error)
            self._loop.after(_FIRST_DELAY_S, partial(self._await_qemu, vtpm))
            return
        self._loop.watch(vtpm.face.pidfd, partial(self._face_ended, vtpm))

    def _face_ended(self, vtpm: _Vtpm) -> None:
        assert vtpm.face is not None
        self._loop.unwatch(vtpm.face.pidfd)
        vtpm.face.reap()
        vtpm.face = None
        self._await_qemu(vtpm)

    def _await_qemu(self, vtpm: _Vtpm) -> None:
        if vtpm.sockets is not None and vtpm.face is None:
            with contextlib.suppress(FileExistsError):  # new sockets are watched already
                self._loop.watch(vtpm.sockets.qemu, partial(self._start_face, vtpm))

    # --- calls ---------------------------------------------------------------------------------

    def _call(self, peer: Peer, request: Json, fds: list[int]) -> Answer:
        del peer, fds
        match request.get("op"):
            case "where":
                return Answer({"state": str(self._layout.state), "pid": os.getpid()})
            case "status":
                return Answer(self._status())
            case "vtpm_create":
                return Answer(self._create(str(request.get("name")), str(request.get("engine"))))
            case "vtpm_start":
                return Answer(self._start_again(str(request.get("name"))))
            case "vtpm_show":
                return Answer(self._show(self._find(str(request.get("name")))))
            case "deep_quote":
                vtpm = self._find(str(request.get("name")))
                self._look_at_manager()  # without it the vTPM would wait, and we with it
                return Answer(self._ask_vtpm(vtpm, "deep_quote", request))
            case "activate":
                return Answer(self._ask_manager("activate", {"blob": request.get("blob")}))
            case "down":
                self._loop.after(0, self._loop.stop)
                return Answer()
        raise UsageError(f"the supervisor has no call {request.get('op')!r}")

    def _status(self) -> Json:
        return {
            "pid": os.getpid(),
            "state": str(self._layout.state),
            "run": str(self._layout.run),
            "manager": self._manager_status() | {"restarts": self._manager_restarts},
            "vtpms": [
                *(self._show(vtpm) for vtpm in self._vtpms.values()),
                *(
                    {"name": name, "running": False, "problem": error_to_json(error)}
                    for name, error in self._broken.items()
                ),
            ],
        }

    def _manager_status(self) -> Json:
        try:
            return self._look_at_manager()
        except HwtpmError as error:
            return {"problem": error_to_json(error)}

    def _find(self, name: str) -> _Vtpm:
        if name not in self._vtpms:
            self._layout.read_vtpm(name)  # says that there is none, or what is wrong with it
            raise Busy(f"vTPM {name!r} is not running yet", hint=f"vstack vtpm start {name}")
        return self._vtpms[name]

    def _create(self, name: str, engine: str) -> Json:
        check_engine(engine)
        if name in self._vtpms:
            raise UsageError(
                f"there is a vTPM {name!r} already", hint=f"see it: vstack vtpm show {name}"
            )
        try:
            config = self._layout.read_vtpm(name)
        except DeviceNotFound:
            config = VtpmConfig(uuid4(), engine)
            self._layout.vtpm_run(name)  # says that the name is too long before anything is kept
            self._layout.write_vtpm(name, config)
        if config.provisioned:
            raise UsageError(
                f"there is a vTPM {name!r} already", hint=f"start it: vstack vtpm start {name}"
            )
        return self._begin_or_remove(name, config)

    def _start_again(self, name: str) -> Json:
        """Try once more to start a vTPM that is down."""
        if (vtpm := self._vtpms.get(name)) is not None:
            if vtpm.child is not None and vtpm.problem is None:
                return self._show(vtpm)
            self._take_down(vtpm)
        config = self._layout.read_vtpm(name)
        self._broken.pop(name, None)
        return self._begin_or_remove(name, config)

    def _begin_or_remove(self, name: str, config: VtpmConfig) -> Json:
        """Start a vTPM for somebody who waits for it; if it does not start, it can be retried."""
        try:
            vtpm = self._begin(name, config)
            if vtpm.problem is not None:
                raise vtpm.problem
        except HwtpmError as error:
            if (failed := self._vtpms.get(name)) is not None:
                self._take_down(failed)
            self._broken[name] = error
            raise
        self._broken.pop(name, None)
        return self._show(vtpm)

    def _show(self, vtpm: _Vtpm) -> Json:
        run = self._layout.vtpm_run(vtpm.name)
        shown: Json = {
            "name": vtpm.name,
            "uuid": str(vtpm.config.uuid),
            "engine": vtpm.config.engine,
            "running": vtpm.child is not None and vtpm.problem is None,
            "restarts": vtpm.restarts,
            "tpm": f"unix:{run / 'tpm.sock'}",
            "qemu": str(run / "qemu.sock"),
            "host": str(run / "host.sock"),
        }
        if vtpm.problem is not None:
            shown["problem"] = error_to_json(vtpm.problem)
        elif vtpm.child is not None:
            with contextlib.suppress(HwtpmError):  # it is busy, or being started again
                shown |= self._ask_vtpm(vtpm, "status", timeout_s=_GLANCE_TIMEOUT_S)
        return shown


def _no_manager() -> Busy:
    return Busy("the vTPM manager is not running", hint="look at log/manager.log")


def _delay(restarts: int) -> float:
    return min(_FIRST_DELAY_S * 2.0 ** min(restarts, 10), _LONGEST_DELAY_S)
