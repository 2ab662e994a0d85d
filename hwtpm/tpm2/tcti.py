"""Our transports as a TCTI, the interface through which tpm2-tss reaches a TPM.

Source: TCG TSS 2.0 TPM Command Transmission Interface (TCTI) API Specification 1.0; the C side is
`tpm2_pytss.TCTI`.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Final

from tpm2_pytss import PollData, PyTCTI, TSS2_Exception
from tpm2_pytss.constants import TSS2_RC

from hwtpm.errors import (
    AccessDenied,
    BusError,
    Busy,
    DeviceNotFound,
    HwtpmError,
    ProtocolError,
    Timeout,
    TpmError,
    Unsupported,
    UsageError,
)
from hwtpm.tpm20.const import MAX_FRAME
from hwtpm.tpm20.rc import error as tpm_error
from hwtpm.transport.base import Transport, cancel, set_locality
from hwtpm.transport.frames import check_command, command_name

__all__ = ["MAGIC", "TransportTcti", "error_of"]

MAGIC: Final = b"hwtpm\0\0\1"

_CODES: Final[tuple[tuple[type[BaseException], TSS2_RC], ...]] = (
    (Timeout, TSS2_RC.TCTI_RC_IO_ERROR),
    (ProtocolError, TSS2_RC.TCTI_RC_MALFORMED_RESPONSE),
    (BusError, TSS2_RC.TCTI_RC_IO_ERROR),
    (DeviceNotFound, TSS2_RC.TCTI_RC_NO_CONNECTION),
    (AccessDenied, TSS2_RC.TCTI_RC_NOT_PERMITTED),
    (Unsupported, TSS2_RC.TCTI_RC_NOT_IMPLEMENTED),
    (UsageError, TSS2_RC.TCTI_RC_BAD_VALUE),
    # Not TRY_AGAIN: the ESAPI would ask for the response of a command that was not sent.
    (Busy, TSS2_RC.TCTI_RC_IO_ERROR),
)
_LAYER: Final = 0xFF0000
_TPM_LAYERS: Final = (0x000000, 0x0B0000, 0x0C0000)  # the TPM, or a resource manager for it
_ERRORS: Final[dict[int, type[HwtpmError]]] = {
    TSS2_RC.TCTI_RC_IO_ERROR & ~_LAYER: BusError,
    TSS2_RC.TCTI_RC_MALFORMED_RESPONSE & ~_LAYER: ProtocolError,
    TSS2_RC.TCTI_RC_NO_CONNECTION & ~_LAYER: DeviceNotFound,
    TSS2_RC.TCTI_RC_NOT_PERMITTED & ~_LAYER: AccessDenied,
    TSS2_RC.TCTI_RC_NOT_IMPLEMENTED & ~_LAYER: Unsupported,
    TSS2_RC.TCTI_RC_NOT_SUPPORTED & ~_LAYER: Unsupported,
    TSS2_RC.TCTI_RC_TRY_AGAIN & ~_LAYER: Busy,
}


class TransportTcti(PyTCTI):  # type: ignore[misc]  # tpm2-pytss is not typed
    """A TCTI on a transport, which stays open when the TCTI is finalized.

    A command executes on a thread of this object, so that `receive` can give up for a while
    (TSS2_TCTI_RC_TRY_AGAIN) and `cancel` can reach a command under way; both leave the response for
    a later `receive`, and so does a buffer that is too small for it. The one poll handle becomes
    readable when the response is there, on any transport.

    What went wrong below the last call is in `failure`: the C side only passes numbers on.
    """

    def __init__(self, transport: Transport) -> None:
        super().__init__(max_size=MAX_FRAME, magic=MAGIC)
        self.failure: BaseException | None = None
        self.last_command = b""
        self._transport = transport
        self._worker = ThreadPoolExecutor(1, "tcti")
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._awaited: Future[bytes] | None = None
        self._handed_out: Future[bytes] | None = None
        self._open = True

    @property
    def transport(self) -> Transport:
        """Where the commands go."""
        return self._transport

    def do_transmit(self, command: bytes) -> None:
        with self._mapped():
            self._sequence(self._awaited is None)
            check_command(command, self._transport.attached.address)
            self._handed_out = None
            self._not_ready()
            self.last_command = command
            self._awaited = self._worker.submit(self._transport.execute, command)
            self._awaited.add_done_callback(lambda _: os.eventfd_write(self._ready, 1))

    def do_receive(self, timeout: int) -> bytes:
        with self._mapped():
            self._sequence(self._awaited is not None)
            assert self._awaited is not None
            if not wait([self._awaited], None if timeout < 0 else timeout / 1000).done:
                raise TSS2_Exception(TSS2_RC.TCTI_RC_TRY_AGAIN)
            self._handed_out, self._awaited = self._awaited, None
            self._not_ready()
            return self._handed_out.result()

    def do_cancel(self) -> None:
        with self._mapped():
            self._sequence(self._awaited is not None)
            cancel(self._transport)

    def do_set_locality(self, locality: int) -> None:
        with self._mapped():
            self._sequence(self._awaited is None)
            set_locality(self._transport, locality)

    def do_get_poll_handles(self) -> tuple[PollData, ...]:
        return (PollData(self._ready, select.POLLIN),)

    def do_make_sticky(self, handle: int, is_sticky: bool) -> None:  # noqa: ARG002
        # There is no resource manager here to keep anything from.
        raise TSS2_Exception(TSS2_RC.TCTI_RC_NOT_IMPLEMENTED)

    def do_finalize(self) -> None:
        """A command under way is cancelled, or comes to its end; a second call does nothing."""
        if not self._open:
            return
        self._open = False
        if self._awaited is not None and not self._awaited.done():
            with suppress(HwtpmError):
                cancel(self._transport)
        self._worker.shutdown()
        self._awaited = None
        os.close(self._ready)

    def _set_last_exception(self, exc: BaseException) -> None:
        # The only word from the C wrapper that the caller's buffer was too small: it has thrown the
        # response away by then.
        super()._set_last_exception(exc)
        short = isinstance(exc, TSS2_Exception) and exc.rc == TSS2_RC.TCTI_RC_INSUFFICIENT_BUFFER
        if short and self._handed_out is not None:
            self._awaited, self._handed_out = self._handed_out, None
            os.eventfd_write(self._ready, 1)

    def _not_ready(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._ready)

    def _sequence(self, right: bool) -> None:
        if not self._open or not right:
            raise TSS2_Exception(TSS2_RC.TCTI_RC_BAD_SEQUENCE)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        self.failure = None
        try:
            yield
        except TSS2_Exception:
            raise
        except BaseException as error:
            # An interrupt too: the C wrapper would answer it with success and no response.
            self.failure = error
            raise TSS2_Exception(_code_of(error)) from error


def error_of(error: TSS2_Exception, tcti: TransportTcti) -> BaseException:
    """What an exception of tpm2-pytss means, as an error of ours: what failed below if that is
    known, else by its code."""
    if tcti.failure is not None:
        return tcti.failure
    where = tcti.transport.attached.address
    code = int(error.rc)
    command = command_name(tcti.last_command) if tcti.last_command else "TPM2_Startup"
    if code & _LAYER in _TPM_LAYERS:
        failed: TpmError = tpm_error(code & ~_LAYER, command, where)
        return failed
    kind: Callable[[str], HwtpmError] = _ERRORS.get(code & ~_LAYER, UsageError)
    return kind(f"{where}: tpm2-tss: {error} ({code:#x}), after {command}")


def _code_of(error: BaseException) -> TSS2_RC:
    known = (code for kind, code in _CODES if isinstance(error, kind))
    return next(known, TSS2_RC.TCTI_RC_GENERAL_FAILURE)
