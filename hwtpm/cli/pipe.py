"""A TPM on stdin and stdout, for the `cmd` TCTI of tpm2-tss.

Its protocol, which `tss2_tcti_cmd(7)` leaves to the TPM's own framing: raw commands come in, one at
a time, and their raw responses go out. In the end it sends SIGTERM, waits, and only then closes its
ends of the pipes; so that signal means an orderly end.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Final

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Origin
from hwtpm.clock import Clock, RealClock
from hwtpm.errors import Busy, ProtocolError, Unsupported
from hwtpm.tpm20.frame import is_tpm2
from hwtpm.transport.address import open_transport
from hwtpm.transport.base import Transport
from hwtpm.transport.frames import command_name, to_come
from hwtpm.transport.retry import Retry
from hwtpm.transport.tidy import Tidy
from hwtpm.transport.trace import Trace

__all__ = ["job", "serve_pipe"]

_STDIN: Final = 0
_STDOUT: Final = 1
_PATIENCE_S: Final = 10.0
"""How long to wait for another user of the TPM: a script's next tool, or one beside it."""

_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.2


def job(address: str, *, trace: str | None = None, locality: int = 0) -> Job:
    """The job to serve the TPM at `address` on stdin and stdout until their other end is done."""

    def work(origin: Origin) -> Generator[Answer, None, None]:
        origin.address = address
        with _ending() as ended, closing(_open(address, locality)) as transport:
            origin.attached = transport.attached
            tidy = Tidy(Retry(Trace(transport)))
            serve_pipe(tidy, _STDIN, _STDOUT, ended)
            tidy.tidy()
        yield from ()

    return Job("hwtpm.tcti/1", work, trace=trace)


def serve_pipe(transport: Transport, source: int, sink: int, ended: int) -> None:
    """Execute the commands that come from `source` and write the responses to `sink`, until
    `source` ends or `ended` becomes readable. All three are file descriptors.

    Raises:
        ProtocolError: what came is no command, or ends within one.
        Unsupported: a TPM 2.0 command, and the TPM is a TPM 1.2; and as `Transport.execute`.
    """
    for command in _commands(source, ended):
        response = transport.execute(command)
        if is_tpm2(command) and not is_tpm2(response):
            raise Unsupported(
                f"{transport.attached.address} is a TPM 1.2: it refuses {command_name(command)}",
                hint="use tpm-tools and `hwtpm serve` for it, or name a TPM 2.0",
            )
        while response:
            response = response[os.write(sink, response) :]


def _commands(source: int, ended: int) -> Iterator[bytes]:
    received = bytearray()
    while True:
        wanted = to_come(received)
        if wanted is None:
            raise ProtocolError(
                f"stdin: {bytes(received[:10]).hex()} starts no TPM command",
                hint="write whole TPM commands, as the cmd TCTI of tpm2-tss does",
            )
        if not wanted:
            yield bytes(received)
            received.clear()
            continue
        if ended in select.select([source, ended], [], [])[0]:
            return
        if not (chunk := os.read(source, wanted)):
            break
        received += chunk
    if received:
        raise ProtocolError(f"stdin: it ends after {len(received)} bytes of a command")


@contextmanager
def _ending() -> Iterator[int]:
    """A descriptor that becomes readable when we are asked to end; a command comes to its end."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    descriptor = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, before)
        os.close(read)
        os.close(write)


def _open(address: str, locality: int, clock: Clock | None = None) -> Transport:
    """The TPM, waited for while somebody else has it."""
    clock = clock or RealClock()
    deadline = clock.now() + _PATIENCE_S
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return open_transport(address, locality=locality)
        except Busy:
            if clock.now() + pause_s > deadline:
                raise
        clock.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
