"""The manager's process: rings of vTPMs on one side, the supervisor's calls on the other."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from hwtpm.client.session import Tpm
from hwtpm.errors import HwtpmError, UsageError
from hwtpm.loop import Loop
from hwtpm.transport.address import open_transport
from vstack.ipc.rpc import Answer, Handler, Json, Server
from vstack.ipc.rpc import Peer as RpcPeer
from vstack.vtpmmgr.manager import Manager, ManagerStatus, Peer
from vstack.vtpmmgr.root12 import Tpm12Root
from vstack.xen.local import BackEnd, RingFds

__all__ = ["run"]

_LOG: Final = logging.getLogger(__name__)


def run(channel: socket.socket, chip: str, store: Path, *, create: bool, take_chip: bool) -> None:
    """Serve until `stop` is called or the supervisor hangs up.

    If the manager cannot start, each call is answered with the reason.

    Args:
        channel: connected SOCK_SEQPACKET socket to the supervisor.
        chip: address of the chip.
        store: the manager's store.
        create: make a new manager if there is no store.
        take_chip: take a real chip that nobody owns into ownership.
    """
    loop = Loop()
    try:
        transport = open_transport(chip)
        try:
            root = Tpm12Root(Tpm(transport))
            manager = Manager.open(root, store, create=create, take_chip=take_chip)
            server = _ManagerServer(loop, manager)
            Server(loop, server.call).adopt(channel).on_close.append(loop.stop)
            loop.run()
            server.close()
        finally:
            transport.close()
    except HwtpmError as error:
        Server(loop, _only(error)).adopt(channel)
        loop.turn(60)
        raise


def _only(error: HwtpmError) -> Handler:
    def refuse(peer: RpcPeer, request: Json, fds: list[int]) -> Answer:
        del peer, request, fds
        raise error

    return refuse


@dataclass
class _Attached:
    peer: Peer
    ring: BackEnd


def _status_to_json(status: ManagerStatus) -> Json:
    chip = status.chip
    return {
        "manager": str(status.manager),
        "chip": {
            "kind": chip.kind,
            "address": chip.address,
            "description": chip.description,
            "real_hardware": chip.real_hardware,
            "name": chip.name,
            "ek": chip.endorsement_key.hex(),
        },
        "changes": status.changes,
        "vtpms": status.vtpms,
        "damaged": [str(uuid) for uuid in status.damaged],
        "groups": [
            {
                "uuid": str(group.uuid),
                "vtpms": group.vtpms,
                "aik": group.identity_key.hex(),
                "label": group.identity_label.hex(),
                "binding": group.identity_binding.hex(),
            }
            for group in status.groups
        ],
    }


class _ManagerServer:
    def __init__(self, loop: Loop, manager: Manager) -> None:
        self._loop = loop
        self._manager = manager
        self._attached: dict[UUID, _Attached] = {}

    def call(self, peer: RpcPeer, request: Json, fds: list[int]) -> Answer:
        """One of the supervisor's calls."""
        del peer
        match request.get("op"):
            case "status":
                return Answer(_status_to_json(self._manager.status()) | {"pid": os.getpid()})
            case "attach":
                return self._attach(UUID(str(request.get("uuid"))), fds)
            case "detach":
                return self._detach(UUID(str(request.get("uuid"))))
            case "forget":
                self._manager.forget(UUID(str(request.get("uuid"))))
                return Answer()
            case "activate":
                blob = bytes.fromhex(str(request.get("blob")))
                return Answer({"secret": self._manager.activate(blob).reveal().hex()})
            case "stop":
                self._loop.stop()
                return Answer()
        raise UsageError(f"the manager has no call {request.get('op')!r}")

    def _attach(self, uuid: UUID, fds: list[int]) -> Answer:
        if len(fds) != len(RingFds._fields):
            raise UsageError(f"attach takes the ring's 3 descriptors, got {len(fds)}")
        ring = BackEnd(RingFds(*fds))
        try:
            attached = _Attached(self._manager.bind(uuid), ring)
        except HwtpmError:
            ring.close()
            raise
        self._attached[uuid] = attached
        self._loop.watch(ring, lambda: self._serve(attached))
        return Answer()

    def _detach(self, uuid: UUID) -> Answer:
        attached = self._attached.pop(uuid, None)
        if attached is not None:
            self._loop.unwatch(attached.ring)
            attached.ring.close()
            self._manager.unbind(attached.peer)
        return Answer()

    def _serve(self, attached: _Attached) -> None:
        try:
            request = attached.ring.take()
        except HwtpmError as error:
            _LOG.warning("vTPM %s broke the ring's rules: %s", attached.peer.uuid, error)
            return
        if request is not None:
            attached.ring.finish(self._manager.handle(attached.peer, request.command))

    def close(self) -> None:
        """Detach everybody and close the store."""
        for uuid in tuple(self._attached):
            self._detach(uuid)
        self._manager.close()
