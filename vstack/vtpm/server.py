"""The process of one vTPM: guest ring, raw command socket, and the host's socket.

- the **guest ring** (tpmif) is handed to whoever calls `attach` on the host's socket, one at a
  time; it ends with that connection, and the next one gets a new page.
- the **raw socket** takes plain TPM commands at locality 0 (`hwtpm --on unix:PATH`).
- the **host's socket** takes the calls of `VtpmServer.OPS` (see `vstack.ipc.rpc`).

All in one thread: one command at a time, in the order in which they arrive.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from hwtpm.errors import Busy, HwtpmError, Refused, UsageError
from hwtpm.loop import Loop
from hwtpm.tpm12.frame import error_response
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PubKey
from hwtpm.transport.serve import FrameServer
from vstack.ipc.rpc import Answer, Json, Peer, Server
from vstack.vtpm.instance import VtpmInstance
from vstack.xen.local import BackEnd, LocalRing

__all__ = ["VtpmServer"]

_LOG: Final = logging.getLogger(__name__)


class VtpmServer:
    """Serves one instance on a loop.

    Args:
        loop: the process's loop.
        instance: a started instance.
        raw: listening stream socket for raw commands.
        host: listening SOCK_SEQPACKET socket for the host's calls.
        about: what `status` says besides (name, uuid).
    """

    def __init__(
        self,
        loop: Loop,
        instance: VtpmInstance,
        raw: socket.socket,
        host: socket.socket,
        about: Json,
    ) -> None:
        self._loop = loop
        self._instance = instance
        self._about = about
        self._guest: Peer | None = None
        self._ring: BackEnd | None = None
        self._ops: dict[str, Callable[[Peer, Json], Answer]] = {
            "status": self._status,
            "attach": self._attach,
            "power_on": self._power_on,
            "power_off": self._power_off,
            "established": self._established,
            "reset_established": self._reset_established,
            "deep_quote": self._deep_quote,
        }
        self._raw = FrameServer(loop, raw, instance.execute)
        self._host = Server(loop, self._call, host)

    def _call(self, peer: Peer, request: Json, fds: list[int]) -> Answer:
        op = self._ops.get(str(request.get("op")))
        if op is None or fds:
            raise UsageError(f"a vTPM has no call {request.get('op')!r}")
        return op(peer, request)

    # --- calls -------------------------------------------------------------------------------

    def _status(self, peer: Peer, request: Json) -> Answer:
        del peer, request
        return Answer(
            self._about
            | {
                "pid": os.getpid(),
                "engine": self._instance.description,
                "guest_attached": self._guest is not None,
                "ek": self._instance.ek.digest().hex(),
            }
        )

    def _attach(self, peer: Peer, request: Json) -> Answer:
        del request
        if self._guest is not None:
            raise Busy(
                f"vTPM {self._about.get('name')} has a guest already",
                hint="stop that guest first; a vTPM belongs to one guest at a time",
            )
        ring = LocalRing.create()
        self._ring = BackEnd(ring.fds)
        self._loop.watch(self._ring, self._serve_ring)
        self._guest = peer
        peer.on_close.append(self._detach)
        peer.on_close.append(ring.close)
        return Answer(fds=ring.fds)

    def _detach(self) -> None:
        if self._ring is not None:
            self._loop.unwatch(self._ring)
            self._ring.close()
        self._ring = None
        self._guest = None

    def _power_on(self, peer: Peer, request: Json) -> Answer:
        del request
        self._require_guest(peer)
        self._instance.power_on()
        return Answer()

    def _power_off(self, peer: Peer, request: Json) -> Answer:
        del request
        self._require_guest(peer)
        self._instance.power_off()
        return Answer()

    def _require_guest(self, peer: Peer) -> None:
        if peer is not self._guest:
            raise Refused("only the connection that attached the guest may switch its vTPM")

    def _established(self, peer: Peer, request: Json) -> Answer:
        del peer, request
        return Answer({"established": self._instance.established})

    def _reset_established(self, peer: Peer, request: Json) -> Answer:
        self._require_guest(peer)
        return Answer({"rc": self._instance.reset_established(_integer(request, "locality"))})

    def _deep_quote(self, peer: Peer, request: Json) -> Answer:
        del peer
        pcrs = request.get("pcrs")
        if not isinstance(pcrs, list) or not all(isinstance(i, int) for i in pcrs):
            raise UsageError("deep_quote: pcrs must be a list of indices")
        quote = self._instance.deep_quote(
            _hex(request, "challenge"),
            pcrs,
            PubKey.decode(_hex(request, "aik")),
            _hex(request, "signature"),
        )
        return Answer(
            {
                "ek": quote.ek.encode().hex(),
                "pcrs": {str(index): value.hex() for index, value in quote.pcrs.items()},
                "chip": {
                    "pcrs": sorted(quote.chip.pcrs),
                    "answer": quote.chip.encode().hex(),
                },
            }
        )

    # --- guest ring ----------------------------------------------------------------------------

    def _serve_ring(self) -> None:
        ring = self._ring
        if ring is None:
            return
        try:
            request = ring.take()
        except HwtpmError as error:
            _LOG.warning("the guest broke the ring's rules: %s", error)
            return
        if request is not None:
            answer = self._instance.execute(request.command, request.locality)
            try:
                ring.finish(answer)
            except UsageError:  # the guest's end says how much of the page is free
                ring.finish(error_response(Rc.SIZE))


def _hex(request: Json, name: str) -> bytes:
    value = request.get(name)
    try:
        return bytes.fromhex(value if isinstance(value, str) else "?")
    except ValueError:
        raise UsageError(f"{name} must be hexadecimal") from None


def _integer(request: Json, name: str) -> int:
    value = request.get(name)
    if not isinstance(value, int):
        raise UsageError(f"{name} must be an integer")
    return value
