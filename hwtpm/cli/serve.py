"""`hwtpm serve`."""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Annotated, Final

from cyclopts import Parameter

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Origin
from hwtpm.cli.target import Named
from hwtpm.errors import HwtpmError, UsageError
from hwtpm.loop import Loop
from hwtpm.tpm12.frame import error_response
from hwtpm.tpm12.rc import Rc
from hwtpm.transport.address import host_and_port
from hwtpm.transport.base import Transport
from hwtpm.transport.listeners import listening_tcp, listening_unix
from hwtpm.transport.serve import FrameServer

__all__ = ["serve"]

_LOG: Final = logging.getLogger(__name__)
_DEFAULT: Final = Named()
_CLIENTS: Final = 16
_OFF: Final = Parameter(negative=())


@dataclass(frozen=True, slots=True)
class Ready:
    """`address` is where clients connect, as `--on` takes it; `port` is None for a Unix socket."""

    address: str
    port: int | None
    shared: bool


def serve(
    *,
    tcp: str | None = None,
    unix: Path | None = None,
    shared: Annotated[bool, _OFF] = False,
    allow_remote: Annotated[bool, _OFF] = False,
    common: Named = _DEFAULT,
) -> Job:
    """Give a TPM to programs that write raw commands to a socket, such as tcsd; at locality 0.

    It prints where it listens and stays until SIGTERM, SIGINT or SIGHUP. A command that the TPM
    does not answer is answered with TPM_FAIL.

    Parameters
    ----------
    tcp
        HOST:PORT to listen on; port 0 is any that is free.
    unix
        Path of a Unix socket to listen on, for its owner only.
    shared
        Serve the commands of all clients in turn. Otherwise a client has the TPM until it hangs up,
        as with the kernel's device, and the next ones wait.
    allow_remote
        Listen where other machines can connect: whoever does can do anything with the TPM.
    """

    def work(origin: Origin) -> Generator[Answer, None, None]:
        listening = _listening(tcp, unix, allow_remote=allow_remote)
        with (
            closing(common.open(origin)) as transport,
            closing(Loop()) as loop,
            loop.stopped_by(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
            listening as (listener, address),
        ):
            served = _Served(transport, loop)
            serving = FrameServer(
                loop, listener, served.execute, exclusive=not shared, most_clients=_CLIENTS
            )
            with closing(serving):
                port = None if tcp is None else int(address.rpartition(":")[2])
                yield Answer(Ready(address, port, shared), (f"serves {address}",))
                loop.run()
        if served.lost is not None:
            raise served.lost

    return Job("hwtpm.serve/1", work, as_json=common.json, trace=common.trace)


class _Served:
    """A TPM that always answers, until its transport is lost."""

    def __init__(self, transport: Transport, loop: Loop) -> None:
        self.lost: HwtpmError | None = None
        self._transport = transport
        self._loop = loop
        self._last: HwtpmError | None = None

    def execute(self, command: bytes) -> bytes:
        try:
            return self._transport.execute(command)
        except UsageError as error:
            # The command is whole, so it is the transport that takes none any more.
            self.lost = self._last or error
            self._loop.stop()
        except HwtpmError as error:
            _LOG.error("%s", error)
            self._last = error
        except Exception:
            _LOG.exception("a command failed inside this program")
        return error_response(Rc.FAIL)


def _listening(
    tcp: str | None, unix: Path | None, *, allow_remote: bool
) -> AbstractContextManager[tuple[socket, str]]:
    if tcp is not None and unix is None:
        host, port = host_and_port(tcp, f"--tcp {tcp}", lowest=0)
        return listening_tcp(host, port, allow_remote=allow_remote)
    if unix is not None and tcp is None:
        return listening_unix(unix)
    raise UsageError(
        "serve listens on one socket", hint="add --tcp 127.0.0.1:0 or --unix PATH, one of them"
    )
