"""What the supervisor's children do. Each function runs in a process of its own."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from hwtpm.errors import HwtpmError
from hwtpm.loop import Loop
from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engines import make_engine
from hwtpm.softtpm.keypool import KeyPool
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.frame import build_request
from vstack.ipc.rpc import Answer, Json, Peer, Server
from vstack.qemu_tis.face import QemuFace
from vstack.vtpm.guest import GuestPort
from vstack.vtpm.instance import VtpmInstance
from vstack.vtpm.server import VtpmServer
from vstack.vtpm.state import SealedState, StateFolder
from vstack.vtpmmgr import server as manager_server
from vstack.vtpmmgr.protocol import ManagerClient
from vstack.xen.local import FrontEnd, RingFds

__all__ = ["ManagerTask", "VtpmTask", "face", "manager", "prepare", "vtpm"]

_LOG: Final = logging.getLogger(__name__)
_MANAGER_TIMEOUT_S: Final = 60.0
_WARM_UP: Final = 20  # the interpreter specialises code that has run a few times
_REFUSE_FOR_S: Final = 2.0  # long enough for the supervisor, and for a QEMU that came first


def prepare() -> None:
    """Load and use what all children need, once, and keep the collector from touching it: a child
    shares each page of it until it writes to it."""

    from hwtpm.softtpm.engine import Engine

    # What the first commands make anew in every process (layouts, specialised code) is then shared.
    engine = Engine(MemoryStorage())
    engine.power_on()
    for request in (Startup(StartupType.CLEAR), *[PcrRead(0)] * _WARM_UP):
        engine.execute(build_request(request.command.ordinal, request.encode()))
    engine.close()
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class ManagerTask:
    """What the manager's process is told; see `vstack.vtpmmgr.server.run`."""

    channel: socket.socket
    chip: str
    store: Path
    create: bool
    take_chip: bool


def manager(task: ManagerTask) -> None:
    """The vTPM manager."""
    manager_server.run(
        task.channel, task.chip, task.store, create=task.create, take_chip=task.take_chip
    )


@dataclass(frozen=True)
class VtpmTask:
    """What a vTPM's process is told."""

    name: str
    uuid: UUID
    manager: UUID
    engine: str
    directory: Path
    fresh: bool
    ring: RingFds
    raw: socket.socket
    host: socket.socket
    pool: KeyPool | None


def vtpm(task: VtpmTask) -> None:
    """One vTPM. If it cannot start, its host's socket tells callers why, and it ends."""
    loop = Loop()
    try:
        instance = _start_instance(task)
    except HwtpmError as error:
        _answer_with(loop, task.host, error)
        raise
    about: Json = {"name": task.name, "uuid": str(task.uuid)}
    VtpmServer(loop, instance, task.raw, task.host, about)
    loop.run()


def _start_instance(task: VtpmTask) -> VtpmInstance:
    ring = FrontEnd(task.ring)

    def ask(request: bytes) -> bytes:
        return ring.execute(request, timeout_s=_MANAGER_TIMEOUT_S)

    keeper = ManagerClient(ask)
    folder = StateFolder(task.directory, task.name, task.uuid, task.manager)
    state = SealedState(folder, keeper, fresh=task.fresh)
    instance = VtpmInstance(make_engine(task.engine, state, task.pool), state, keeper)
    instance.start()
    return instance


def _answer_with(loop: Loop, host: socket.socket, error: HwtpmError) -> None:
    def refuse(peer: Peer, request: Json, fds: list[int]) -> Answer:
        del peer, request, fds
        raise error

    server = Server(loop, refuse, host)
    loop.after(_REFUSE_FOR_S, loop.stop)
    loop.run()
    server.close()


def face(listener: socket.socket, host_socket: Path, name: str) -> None:
    """The control channel for one QEMU, until it says SHUTDOWN or is gone."""
    try:
        port = GuestPort(host_socket, name)
    except HwtpmError:
        listener.setblocking(False)
        with contextlib.suppress(OSError):
            listener.accept()[0].close()  # the QEMU that asked sees a closed channel
        raise
    with port:
        served = QemuFace(listener, port, one_client=True)
        signal.signal(signal.SIGTERM, lambda *_: served.stop())
        served.serve()
        served.close()
