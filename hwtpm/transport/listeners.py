"""Where raw clients connect: a TCP port, by default of this machine only, or a Unix socket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hwtpm.errors import AccessDenied, Busy, HwtpmError, Refused, UsageError

__all__ = ["listening_tcp", "listening_unix"]

_BACKLOG: Final = 16
_PROBE_S: Final = 1.0
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC)


@contextmanager
def listening_tcp(
    host: str, port: int, *, allow_remote: bool = False
) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens on a TCP port, and its address as clients of ours write it.

    Args:
        host: name or address of an interface of this machine.
        port: 0 for any that is free.
        allow_remote: whether it may be an interface that other machines reach.

    Raises:
        Refused: other machines reach it, and that is not allowed.
        Busy: the port is in use.
        AccessDenied: the system forbids it.
        UsageError: this is no interface of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, where = found[0]
        if not (allow_remote or ipaddress.ip_address(str(where[0]).partition("%")[0]).is_loopback):
            raise Refused(
                f"tcp {host}: other machines reach that address, and raw commands have no password",
                hint="listen on 127.0.0.1, or add --allow-remote if a firewall or tunnel guards it",
            )
        listener = socket.create_server((str(where[0]), port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        raise _listen_error(error, f"tcp {host} port {port}") from error
    with listener:
        name = listener.getsockname()
        shown = f"[{name[0]}]" if family == socket.AF_INET6 else name[0]
        yield listener, f"tcp:{shown}:{name[1]}"


@contextmanager
def listening_unix(path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A Unix socket at `path`, for its owner only, and its address; the file goes at the end.

    A socket file that nobody listens on any more is replaced. Beside it, while this lasts, lies a
    lock file, so that two that start at once do not both replace it.

    Raises:
        Busy: somebody listens there.
        Refused: something else than a socket is there.
        AccessDenied: the system forbids it.
        UsageError: the path is too long, or its directory is not there.
    """
    with _locked(path.with_name(f"{path.name}.lock"), path):
        _remove_stale(path)
        with socket.socket(socket.AF_UNIX) as listener:
            os.fchmod(listener.fileno(), 0o600)  # before bind: the file never has another mode
            try:
                listener.bind(str(path))
                listener.listen(_BACKLOG)
                ours = _identity(path)
            except OSError as error:
                raise _listen_error(error, f"unix {path}") from error
            try:
                yield listener, f"unix:{path}"
            finally:
                with contextlib.suppress(OSError):
                    if _identity(path) == ours:
                        path.unlink()


@contextmanager
def _locked(lock: Path, path: Path) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            fd = os.open(lock, flags, 0o600)
        except OSError as error:
            raise _listen_error(error, f"unix {path}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(fd)
            # Whoever held it before may have removed it between our two calls.
            with contextlib.suppress(FileNotFoundError):
                if (held.st_dev, held.st_ino) == _identity(lock):
                    break
        except OSError as error:
            os.close(fd)
            raise (
                _busy(path)
                if isinstance(error, BlockingIOError)
                else _listen_error(error, f"unix {path}")
            ) from error
        os.close(fd)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(fd)


def _remove_stale(path: Path) -> None:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _listen_error(error, f"unix {path}") from error
    if not stat.S_ISSOCK(there.st_mode):
        raise Refused(
            f"unix {path}: there is something that is no socket; it stays",
            hint="name a path that is free",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            # It may be full, or of another kind: nothing says that it is dead.
            raise _busy(path) from error
    raise _busy(path)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _busy(path: Path) -> Busy:
    return Busy(
        f"unix {path}: somebody listens there already",
        hint="end the other server, or name another path",
    )


def _listen_error(error: OSError | UnicodeError, where: str) -> HwtpmError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    message = f"{where}: cannot listen: {reason}"
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return AccessDenied(
            message, hint="name a port above 1023, or a directory that you may write to"
        )
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return Busy(
            message, hint="end who listens there, or listen elsewhere; port 0 is any that is free"
        )
    return UsageError(message, hint="name an address of this machine, or a path that can be made")
