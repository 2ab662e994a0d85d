"""Child processes by fork: start quickly, share memory with the parent, end with it.

A forked child keeps only the descriptors that it was given. It must be forked from a process with
one thread; the supervisor is one.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hwtpm.errors import Busy, HwtpmError

__all__ = [
    "Child",
    "allow_descriptors",
    "close_descriptors",
    "end_with_parent",
    "log_to",
    "spawn",
]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_DESCRIPTORS: Final = 1 << 16  # a vTPM takes about eight

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass
class Child:
    """A running child; `pidfd` becomes readable when it ends."""

    name: str
    pid: int
    pidfd: int

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to exactly this process; nothing happens if it has ended."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def reap(self) -> int:
        """Wait for the end and return the exit code, negative for a signal."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        return os.waitstatus_to_exitcode(status)


def log_to(path: Path) -> None:
    """Send this process's standard output, standard error and logging to the end of a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )


def spawn(name: str, main: Callable[[], None], keep: Iterable[int], log: Path) -> Child:
    """Fork a child that runs `main` and exits: 0, or the error's exit code.

    Args:
        name: shown by ps, at most 15 bytes of it.
        main: the child's work; what it raises is logged.
        keep: descriptors that stay open in the child; all others above 2 are closed.
        log: where its standard output and standard error go.

    Raises:
        Busy: the host does not let another process start.
    """
    parent = os.getpid()
    try:
        pid = os.fork()
        if pid:
            return _known(name, pid)
    except OSError as error:
        raise Busy(
            f"cannot start process {name}: {error.strerror}", hint="the host has no room for it"
        ) from error
    code = 1
    try:
        _settle(name, parent, keep, log)
        main()
        code = 0
    except HwtpmError as error:
        logging.getLogger(name).error("%s", error)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _known(name: str, pid: int) -> Child:
    try:
        return Child(name, pid, os.pidfd_open(pid))
    except OSError:  # nobody would notice its end
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def allow_descriptors() -> None:
    """Raise this process's limit of open descriptors as far as that is allowed and sane."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Not to a billion: some programs close them all, one by one.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, min(most, _DESCRIPTORS)), most))


def close_descriptors(keep: Iterable[int]) -> None:
    """Close all descriptors above 2 but those."""
    lowest = 3
    for fd in sorted(fd for fd in keep if fd >= lowest):
        os.closerange(lowest, fd)
        lowest = fd + 1
    os.closerange(lowest, max(lowest, os.sysconf("SC_OPEN_MAX")))


def end_with_parent(parent: int) -> None:
    """Get SIGTERM when `parent`, the process that forked this one, ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above took effect
        os._exit(1)


def _settle(name: str, parent: int, keep: Iterable[int], log: Path) -> None:
    end_with_parent(parent)
    _LIBC.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no core dumps, no ptrace by the same user
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    log_to(log)
    close_descriptors(keep)
