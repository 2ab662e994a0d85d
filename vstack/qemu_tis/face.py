"""The face a vTPM shows an unmodified QEMU: the control channel served on a Unix socket.

One loop waits on everything; the vTPM itself works in one thread of its own, so QEMU (which freezes
while a control request is unanswered) is answered while a command runs.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import socket
import threading
from collections.abc import Sequence
from typing import Final, Protocol

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import ProtocolError
from hwtpm.tpm12.const import MAX_FRAME
from vstack.qemu_tis.control import (
    Attach,
    CancelRunning,
    Effect,
    Execute,
    FaceCore,
    Outcome,
    PortCall,
    Power,
    ReadEstablished,
    ReplyControl,
    ReplyData,
    ResetEstablished,
    Run,
    ShutDown,
)

__all__ = ["QemuFace", "VtpmPort"]

HALF_REQUEST_TIMEOUT_S: Final = 2.0  # for the rest of a control request that has begun
CLOSE_TIMEOUT_S: Final = 10.0  # for the vTPM to end its last command and to power off
ACCEPT_PAUSE_S: Final = 0.1  # when we ran out of descriptors, which nobody frees in no time

_RECEIVE_SIZE: Final = 4096
_MAX_FDS: Final = 4
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

_log = logging.getLogger(__name__)


class VtpmPort(Protocol):
    """The vTPM behind the face. All calls come from one thread, except `cancel`.

    What a method raises is logged and told to QEMU as TPM_FAIL. Every call must end in bounded
    time: QEMU waits for it.
    """

    def power_on(self) -> None:
        """TPM_Init; when it is on already, a power cycle."""
        ...

    def power_off(self) -> None:
        """Forget the volatile state; the permanent one has been stored already."""
        ...

    def execute(self, command: bytes, locality: int) -> bytes:
        """Answer one whole command frame with one whole response frame."""
        ...

    def established(self) -> bool:
        """The TPM established flag."""
        ...

    def reset_established(self, locality: int) -> int:
        """Reset the TPM established flag; a TPM return code."""
        ...

    def cancel(self) -> None:
        """Cut short the command that `execute` works on, if that is possible; from any thread."""
        ...


class QemuFace:
    """Serves `port` to one client after the other on a listening Unix stream socket.

    The socket stays the caller's, who decides on its path and permissions: whoever can connect
    can switch the vTPM off. With `one_client`, a client that hangs up ends `serve` as SHUTDOWN
    does: it was the one that this face was made for.
    """

    def __init__(
        self,
        listener: socket.socket,
        port: VtpmPort,
        *,
        one_client: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._one_client = one_client
        self._listener = listener
        self._port = port
        self._clock = clock or RealClock()
        self._core = FaceCore()
        self._client: socket.socket | None = None
        self._data: socket.socket | None = None
        self._offered: socket.socket | None = None
        self._half_request_since: float | None = None
        self._ending = False
        self._calls: queue.SimpleQueue[PortCall | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        self._done_bell = os.eventfd(0, flags)
        self._stop_bell = os.eventfd(0, flags)
        self._worker = threading.Thread(target=self._work, name="vtpm", daemon=True)

    def stop(self) -> None:
        """Make `serve` return soon; from any thread or signal handler, before or during it."""
        os.eventfd_write(self._stop_bell, 1)

    def close(self) -> None:
        """Free the face's own descriptors, once `serve` has returned."""
        os.close(self._stop_bell)
        if not self._worker.is_alive():  # else the stuck vTPM would ring somebody else's bell
            os.close(self._done_bell)

    def serve(self) -> None:
        """Serve until a client sends SHUTDOWN or somebody calls `stop`; leaves the vTPM off.

        Once in the face's life.
        """
        self._listener.setblocking(False)
        self._worker.start()
        try:
            while not self._ending:
                self._turn()
        finally:
            self._hang_up(None)
            self._switch_off()

    def _switch_off(self) -> None:
        self._apply(self._core.hung_up(shutting_down=True))
        deadline = self._clock.now() + CLOSE_TIMEOUT_S
        while not self._core.idle:
            try:
                outcome = self._outcomes.get(timeout=max(deadline - self._clock.now(), 0))
            except queue.Empty:
                _log.error("the vTPM does not switch off within %s s", CLOSE_TIMEOUT_S)
                return
            self._apply(self._core.done(outcome))
        self._calls.put(None)
        self._worker.join(CLOSE_TIMEOUT_S)

    # The vTPM's thread

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                outcome: Outcome = self._perform(call)
            except Exception:
                _log.exception("the vTPM failed at %s", type(call).__name__)
                outcome = None
            self._outcomes.put(outcome)
            os.eventfd_write(self._done_bell, 1)

    def _perform(self, call: PortCall) -> bytes | int:
        match call:
            case Execute(command, locality):
                return self._port.execute(command, locality)
            case ReadEstablished():
                return self._port.established()
            case ResetEstablished(locality):
                return self._port.reset_established(locality)
            case Power.ON:
                self._port.power_on()
            case Power.OFF:
                self._port.power_off()
        return 0

    # The loop

    def _turn(self) -> None:
        """Wait for something to happen and deal with it."""
        poll = select.poll()
        poll.register(self._stop_bell, select.POLLIN)
        poll.register(self._done_bell, select.POLLIN)
        if self._client is None and self._core.idle:
            poll.register(self._listener, select.POLLIN)
        if self._client is not None and self._core.wants_control:
            poll.register(self._client, select.POLLIN)
        if self._data is not None and self._core.wants_data:
            poll.register(self._data, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(self._patience_ms())}
        if self._stop_bell in ready:
            self._ending = True
        if self._done_bell in ready:
            os.eventfd_read(self._done_bell)
            self._apply(self._core.done(self._outcomes.get()))
        if self._listener.fileno() in ready:
            self._accept()
        elif self._client is not None and self._client.fileno() in ready:
            self._receive_control(self._client)
        if self._data is not None and self._data.fileno() in ready:
            self._receive_data(self._data)
        self._watch_half_request()

    def _patience_ms(self) -> float | None:
        if self._half_request_since is None:
            return None
        left_s = self._half_request_since + HALF_REQUEST_TIMEOUT_S - self._clock.now()
        return max(left_s, 0.0) * 1000 + 1

    def _watch_half_request(self) -> None:
        if not self._core.half_request or not self._core.wants_control:
            self._half_request_since = None
        elif self._half_request_since is None:
            self._half_request_since = self._clock.now()
        elif self._clock.now() - self._half_request_since >= HALF_REQUEST_TIMEOUT_S:
            self._hang_up("it left a control request unfinished")

    def _accept(self) -> None:
        try:
            self._client, _ = self._listener.accept()
        except BlockingIOError:  # it went away again
            return
        except OSError as error:
            _log.warning("cannot accept a client: %s", error)
            self._clock.sleep(ACCEPT_PAUSE_S)

    def _receive_control(self, client: socket.socket) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(
                client, _RECEIVE_SIZE, _MAX_FDS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError as error:
            self._hang_up(str(error))
            return
        self._offer(fds)
        if not data:
            self._hang_up(None)
            return
        burst_end = len(data) < _RECEIVE_SIZE or not _is_readable(client)
        try:
            self._apply(self._core.control(data, burst_end=burst_end))
        except ProtocolError as error:
            self._hang_up(error.message)

    def _offer(self, fds: Sequence[int]) -> None:
        for fd in fds:
            if self._offered is not None:
                self._offered.close()
                self._offered = None
            try:
                self._offered = socket.socket(fileno=fd)
            except OSError:  # no socket at all
                os.close(fd)
        if fds:
            self._core.offered = self._offered is not None

    def _receive_data(self, data: socket.socket) -> None:
        try:
            # One byte more than the longest command shows an oversize one.
            frame = data.recv(MAX_FRAME + 1, socket.MSG_DONTWAIT)
            if len(frame) > MAX_FRAME:
                self._drain(data)
        except BlockingIOError:
            return
        except OSError:
            frame = b""
        if frame:
            self._apply(self._core.data(frame))
        else:
            self._detach()

    def _drain(self, data: socket.socket) -> None:
        """Drop what is left of an oversize command, at most what a socket buffers."""
        for _ in range(64):
            try:
                if len(data.recv(MAX_FRAME, socket.MSG_DONTWAIT)) < MAX_FRAME:
                    return
            except BlockingIOError:
                return

    def _apply(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case ReplyControl(reply):
                    self._send(self._client, reply)
                case ReplyData(reply):
                    self._send(self._data, reply)
                case Run(call):
                    self._calls.put(call)
                case CancelRunning():
                    self._port.cancel()
                case Attach():
                    self._data, self._offered = self._offered, None
                case ShutDown():
                    self._ending = True

    def _send(self, channel: socket.socket | None, reply: bytes) -> None:
        if channel is None:
            return
        try:
            sent = channel.send(reply, _SEND_FLAGS)
        except OSError:
            sent = 0
        if sent == len(reply):
            return
        if channel is self._data:
            self._detach()
        else:
            self._hang_up("it does not read its replies")

    def _detach(self) -> None:
        """Close the data channel; QEMU gives its guest a TPM failure from now on."""
        if self._data is not None:
            self._data.close()
            self._data = None
        self._core.detached()

    def _hang_up(self, reason: str | None) -> None:
        """End the client's connection and go back to listening."""
        if reason is not None:
            _log.warning("hanging up on the vTPM's client: %s", reason)
        if self._one_client:
            self._ending = True
        for channel in (self._client, self._data, self._offered):
            if channel is not None:
                channel.close()
        self._client = self._data = self._offered = None
        self._half_request_since = None
        self._apply(self._core.hung_up())


def _is_readable(channel: socket.socket) -> bool:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    return bool(poll.poll(0))
