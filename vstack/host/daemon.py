"""Starting and stopping a whole stack from a command line."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
from collections.abc import Callable
from typing import Final

import msgspec

from hwtpm.errors import HwtpmError, ProtocolError, Timeout
from vstack.host.layout import Layout
from vstack.host.supervisor import NOTHING, Permit, Supervisor
from vstack.ipc.children import close_descriptors, end_with_parent, log_to
from vstack.ipc.rpc import Client, Json, error_from_json, error_to_json

__all__ = ["control", "serve", "start", "stop"]

_LOG: Final = logging.getLogger(__name__)
_STOP_TIMEOUT_S: Final = 60.0


def serve(
    layout: Layout,
    chip: str | None,
    progress: Callable[[str], None],
    *,
    permit: Permit = NOTHING,
) -> None:
    """Run a stack in this process until it is told to stop (for systemd and the like)."""
    supervisor = Supervisor(layout, chip, progress, permit)
    supervisor.start()
    progress("ready")
    supervisor.run()


def start(
    layout: Layout,
    chip: str | None,
    progress: Callable[[str], None],
    *,
    permit: Permit = NOTHING,
    tied: bool = False,
) -> Json:
    """Start a stack in the background; returns its status once everything answers.

    Args:
        layout: where it lies.
        chip: the chip's address; None for the one used before.
        progress: told one line about each step.
        permit: what it may do beyond starting.
        tied: it ends with the caller's process instead of outliving it.

    The caller must have one thread only: the supervisor is forked from it.

    Raises:
        HwtpmError: what kept it from starting; nothing is left running.
    """
    layout.prepare()
    parent = os.getpid()
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(reading)
        _become_supervisor(layout, chip, writing, permit, parent if tied else None)
    os.close(writing)
    outcome: Json = {}
    with os.fdopen(reading, "rb") as lines:
        for line in lines:
            outcome = msgspec.json.decode(line, type=dict[str, object])
            if "progress" in outcome:
                progress(str(outcome["progress"]))
    if not tied:
        os.waitpid(pid, 0)
    status = outcome.get("status")
    if isinstance(status, dict):
        return status
    error = outcome.get("error")
    if isinstance(error, dict):
        raise error_from_json(error)
    raise ProtocolError(
        "the supervisor ended without a word", hint=f"look at {layout.log / 'supervisor.log'}"
    )


def _become_supervisor(
    layout: Layout, chip: str | None, report: int, permit: Permit, parent: int | None
) -> None:
    """In the child: leave the terminal, start the stack, report, serve. Never returns."""
    code = 1
    try:
        os.setsid()
        if parent is not None:
            end_with_parent(parent)
        elif os.fork():
            os._exit(0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        log_to(layout.log / "supervisor.log")
        close_descriptors([report])  # a lock or pipe of whoever started us is not ours to hold

        with os.fdopen(report, "wb", buffering=0) as reporting:

            def tell(message: Json) -> None:
                if not reporting.closed:  # whoever started us has stopped listening by then
                    reporting.write(msgspec.json.encode(message) + b"\n")

            def progress(text: str) -> None:
                _LOG.info("%s", text)
                tell({"progress": text})

            supervisor = Supervisor(layout, chip, progress, permit)
            try:
                tell({"status": supervisor.start()})
            except HwtpmError as error:
                tell({"error": error_to_json(error)})
                raise
        supervisor.run()
        code = 0
    except HwtpmError as error:
        _LOG.error("%s", error)
    except BaseException:
        _LOG.exception("the supervisor failed")
    finally:
        os._exit(code)


def control(layout: Layout) -> Client:
    """A connection to the running supervisor.

    Raises:
        DeviceNotFound: the stack is not up.
    """
    return Client.connect(layout.control, "the stack", timeout_s=300.0)


def stop(layout: Layout) -> None:
    """Stop a stack and return when all its processes have ended.

    Raises:
        DeviceNotFound: the stack is not up.
        Timeout: it does not end.
    """
    with control(layout) as client:
        pid = int(str(client.call("where").get("pid")))
        watch = os.pidfd_open(pid)
        client.call("down")
    try:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        if not poll.poll(_STOP_TIMEOUT_S * 1000):
            raise Timeout(
                f"the supervisor ({pid}) still runs {_STOP_TIMEOUT_S:.0f} s after `down`",
                hint=f"look at {layout.log / 'supervisor.log'}",
            )
    finally:
        os.close(watch)
        with contextlib.suppress(ChildProcessError):  # it is ours only if it is tied to us
            os.waitpid(pid, os.WNOHANG)
