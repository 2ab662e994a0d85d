"""The kernel's TPM character devices: /dev/tpmN, one command a write, one response a read."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
from pathlib import Path
from typing import Final

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import (
    AccessDenied,
    BusError,
    Busy,
    DeviceNotFound,
    HwtpmError,
    ProtocolError,
    Timeout,
    UsageError,
)
from hwtpm.tpm12.const import MAX_FRAME
from hwtpm.transport.base import Attached
from hwtpm.transport.deadlines import Deadlines
from hwtpm.transport.frames import check_command, missing

__all__ = ["DeviceTransport", "open_device"]

_SYSFS: Final = Path("/sys/class/tpm")


class DeviceTransport:
    """An open TPM device, held under an exclusive lock. Made by `open_device`."""

    def __init__(
        self,
        descriptor: int,
        attached: Attached,
        *,
        deadlines: Deadlines | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._descriptor: int | None = descriptor
        self._attached = attached
        self._deadlines = deadlines or Deadlines()
        self._clock = clock or RealClock()

    @property
    def attached(self) -> Attached:
        """The device and its kernel driver."""
        return self._attached

    def execute(self, command: bytes) -> bytes:
        """See `Transport.execute`.

        Raises:
            UsageError: `command` is no TPM frame, or the device is closed.
            BusError: the kernel's driver failed.
            ProtocolError: the answer cannot be one.
            Timeout: no answer within the command's deadline; the device is closed then.
        """
        address = self._attached.address
        check_command(command, address)
        if self._descriptor is None:
            raise UsageError(f"{address}: it is closed", hint="open it again")
        wait_s = self._deadlines.of(command)
        try:
            os.write(self._descriptor, command)
            return self._read(self._descriptor, self._clock.now() + wait_s)
        except TimeoutError as error:
            self.close()
            raise Timeout(
                f"{address}: no answer to {command[:10].hex()} within {wait_s:g} s",
                hint="read the kernel's log for the driver's own complaint",
            ) from error
        except OSError as error:
            self.close()
            raise BusError(
                f"{address}: {error.strerror or error}",
                hint="read the kernel's log for the driver's own complaint",
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `Transport.close`; the lock goes with the descriptor."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _read(self, descriptor: int, deadline: float) -> bytes:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        response = bytearray()
        while missing(response, self._attached.address):
            left = deadline - self._clock.now()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError
            # The whole buffer at once: the kernel drops what one read leaves behind.
            chunk = os.read(descriptor, MAX_FRAME)
            if not chunk:
                raise ProtocolError(
                    f"{self._attached.address}: the answer ends after {len(response)} bytes",
                    hint="is this the device of a TPM?",
                )
            response += chunk
        return bytes(response)


def open_device(
    address: str, path: Path, *, deadlines: Deadlines | None = None, sysfs: Path = _SYSFS
) -> DeviceTransport:
    """Open a TPM device and lock it against other users of this project.

    Raises:
        DeviceNotFound: there is no such device, or it is none.
        AccessDenied: its permissions forbid it.
        Busy: somebody else has it.
    """
    try:
        # Non-blocking: the answer is then waited for in poll, which has a deadline.
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise _open_error(error, address, path) from error
    try:
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
            raise DeviceNotFound(
                f"{address}: {path} is no device",
                hint="name a character device such as /dev/tpm0",
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _open_error(error, address, path) from error
    except BaseException:
        os.close(descriptor)
        raise
    return DeviceTransport(descriptor, _attached(address, path, sysfs), deadlines=deadlines)


def _attached(address: str, path: Path, sysfs: Path) -> Attached:
    """What sysfs says about the device: one without a parent, or on a Xen bus, is virtual."""
    parent = sysfs / path.resolve().name / "device"
    if not parent.exists():
        return Attached(address, "dev", False, "no hardware behind it that sysfs knows")
    bus = _link_name(parent / "subsystem")
    driver = _link_name(parent / "driver")
    return Attached(address, "dev", bus != "xen", f"kernel driver {driver} on bus {bus}")


def _link_name(link: Path) -> str:
    return link.resolve().name if link.exists() else "unknown"


def _open_error(error: OSError, address: str, path: Path) -> HwtpmError:
    if isinstance(error, FileNotFoundError) or error.errno in (errno.ENXIO, errno.ENODEV):
        return DeviceNotFound(
            f"{address}: there is no device {path}",
            hint="load the kernel's TPM driver, or enable the TPM in the firmware's setup",
        )
    if isinstance(error, PermissionError):
        return AccessDenied(
            f"{address}: no permission to open {path}",
            hint="become a member of the device's group (often tss), or run as root",
        )
    if error.errno in (errno.EBUSY, errno.EWOULDBLOCK):
        return Busy(
            f"{address}: somebody else uses {path}",
            hint="stop the other user, often a resource manager or tcsd",
        )
    return DeviceNotFound(
        f"{address}: cannot open {path}: {error.strerror or error}",
        hint="name a TPM character device such as /dev/tpm0",
    )
