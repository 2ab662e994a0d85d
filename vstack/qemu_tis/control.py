"""What a vTPM answers QEMU on its control and data channels, sans-IO.

Source: QEMU's tpm_emulator backend and swtpm, as clients and server of the channel that
`hwtpm.softtpm.control` encodes. QEMU has no timeout on it and leaves the machine on a short answer,
so three commands (GET_CAPABILITY, GET_TPMESTABLISHED, SET_BUFFERSIZE) never fail, and whatever
needs no vTPM is answered at once, even while the vTPM works on a command.

Bytes go in, effects come out; the vTPM itself is reached through `Run` effects, one at a time, each
answered with `done`.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from hwtpm.softtpm.control import (
    COMMANDS,
    Command,
    Request,
    RequestParser,
    Result,
    UnknownRequest,
    capabilities_for,
    encode_response,
)
from hwtpm.tpm12.const import MAX_FRAME
from hwtpm.tpm12.frame import HEADER_SIZE, error_response
from hwtpm.tpm12.rc import Rc

__all__ = [
    "Attach",
    "CancelRunning",
    "Effect",
    "Execute",
    "FaceCore",
    "Outcome",
    "PortCall",
    "Power",
    "ReadEstablished",
    "ReplyControl",
    "ReplyData",
    "ResetEstablished",
    "Run",
    "ShutDown",
]

LOCALITIES: Final = range(5)


class Power(Enum):
    """Port calls that switch the vTPM; they return 0."""

    ON = auto()
    OFF = auto()


@dataclass(frozen=True)
class Execute:
    """Port call: answer a command; returns the response frame."""

    command: bytes
    locality: int


@dataclass(frozen=True)
class ReadEstablished:
    """Port call: the TPM established flag; returns 0 or 1."""


@dataclass(frozen=True)
class ResetEstablished:
    """Port call: reset the TPM established flag; returns a TPM return code."""

    locality: int


PortCall = Power | Execute | ReadEstablished | ResetEstablished
Outcome = bytes | int | None
"""What a port call returned; None if the vTPM failed to do it."""


@dataclass(frozen=True)
class ReplyControl:
    """Send these bytes on the control channel."""

    data: bytes


@dataclass(frozen=True)
class ReplyData:
    """Send these bytes on the data channel, in one write."""

    data: bytes


@dataclass(frozen=True)
class Run:
    """Have the vTPM do this and give the outcome to `FaceCore.done`."""

    call: PortCall


@dataclass(frozen=True)
class CancelRunning:
    """Ask the vTPM to cut the command short that it works on."""


@dataclass(frozen=True)
class Attach:
    """The descriptor that was offered is the data channel from now on."""


@dataclass(frozen=True)
class ShutDown:
    """The client asked the vTPM to end; its reply has been given."""


Effect = ReplyControl | ReplyData | Run | CancelRunning | Attach | ShutDown


class FaceCore:
    """State of one vTPM towards its client.

    Feed `control` while `wants_control` and `data` while `wants_data`, so that neither queue can
    grow beyond what one receive call brought.
    """

    def __init__(self) -> None:
        self.running = False
        self.offered = False  # a descriptor came along that SET_DATAFD may use
        self._attached = False
        self._is_machine = False  # the client has had a data channel
        self._locality = 0
        self._established = False
        self._parser = RequestParser()
        self._requests: deque[Request | UnknownRequest] = deque()
        self._frames: deque[bytes] = deque()
        self._call: PortCall | None = None
        self._finish: _Finish | None = None
        self._power_off_due = False
        self._answers = {
            Command.GET_CAPABILITY: self._get_capability,
            Command.INIT: self._init,
            Command.SHUTDOWN: self._shutdown,
            Command.GET_TPMESTABLISHED: self._get_established,
            Command.SET_LOCALITY: self._set_locality,
            Command.CANCEL_TPM_CMD: self._cancel,
            Command.RESET_TPMESTABLISHED: self._reset_established,
            Command.STOP: self._stop,
            Command.SET_DATAFD: self._set_datafd,
            Command.SET_BUFFERSIZE: self._set_buffersize,
        }

    @property
    def idle(self) -> bool:
        """The vTPM works on nothing and has nothing to do: a new client can be served."""
        return self._call is None and not self._power_off_due

    @property
    def wants_control(self) -> bool:
        """Every control request received so far has been answered."""
        return not self._requests and not self._answering_control

    @property
    def wants_data(self) -> bool:
        """No command is being worked on or waiting."""
        return not self._frames and not isinstance(self._call, Execute)

    @property
    def half_request(self) -> bool:
        """The client has begun a control request and owes the rest of it."""
        return self._parser.pending > 0

    def control(self, data: bytes, *, burst_end: bool = True) -> list[Effect]:
        """Bytes from the control channel; see `RequestParser.feed` for `burst_end`.

        Raises:
            ProtocolError: no further request can be told apart; hang up.
        """
        self._requests.extend(self._parser.feed(data, burst_end=burst_end))
        return list(self._advance())

    def data(self, frame: bytes) -> list[Effect]:
        """One command from the data channel, as one receive call brought it."""
        self._frames.append(frame)
        return list(self._advance())

    def done(self, outcome: Outcome) -> list[Effect]:
        """The outcome of the `Run` that is out; None if the vTPM failed to do it."""
        call, finish = self._call, self._finish
        self._call = self._finish = None
        if isinstance(call, Power):
            self.running = call is Power.ON and outcome is not None
        effects = () if finish is None else finish(outcome)
        return [*effects, *self._advance()]

    def detached(self) -> None:
        """The data channel has been closed; the answer to a command from it goes nowhere."""
        self._attached = False
        self._frames.clear()
        if isinstance(self._call, Execute):
            self._finish = None

    def hung_up(self, *, shutting_down: bool = False) -> list[Effect]:
        """The client closed the control channel, or was thrown out.

        A client that had a data channel was a machine, and its power is gone; one without was a
        tool that asked something, and changes nothing by leaving (unless we are `shutting_down`).
        """
        if self._is_machine:
            self._locality = 0
        self._power_off_due = self._power_off_due or self._is_machine or shutting_down
        self._attached = self._is_machine = self.offered = False
        self._parser = RequestParser()
        self._requests.clear()
        self._frames.clear()
        self._finish = None
        cancel = (CancelRunning(),) if isinstance(self._call, Execute) else ()
        return [*cancel, *self._advance()]

    @property
    def _answering_control(self) -> bool:
        return self._finish is not None and not isinstance(self._call, Execute)

    def _advance(self) -> Iterator[Effect]:
        """Everything that can be done now, control requests first."""
        if self._power_off_due and self._call is None:
            self._power_off_due = False
            if self.running:
                yield self._run(Power.OFF, None)
        while self._requests and not self._answering_control:
            request = self._requests[0]
            if self._call is not None and _is_any(request, _NEEDS_REST):
                if isinstance(self._call, Execute) and _is_any(request, _SWITCHES_POWER):
                    yield CancelRunning()
                return
            self._requests.popleft()
            yield from self._answer(request)
        if self._frames and self._call is None:
            yield from self._command(self._frames.popleft())

    def _run(self, call: PortCall, finish: _Finish | None) -> Run:
        self._call, self._finish = call, finish
        return Run(call)

    # The data channel

    def _command(self, frame: bytes) -> Iterator[Effect]:
        if not self.running:
            # This is also how QEMU learns before INIT that it talks to a TPM 1.2.
            yield ReplyData(error_response(Rc.FAIL))
            return
        size = int.from_bytes(frame[2:6], "big")
        if not HEADER_SIZE <= size <= min(len(frame), MAX_FRAME) or len(frame) > MAX_FRAME:
            yield ReplyData(error_response(Rc.BAD_PARAM_SIZE))
            return
        # QEMU's FIFO passes on what a wide write put behind the command; a chip drops it.
        yield self._run(Execute(frame[:size], self._locality), self._answered)

    def _answered(self, outcome: Outcome) -> Iterator[Effect]:
        # QEMU copies what we claim into a buffer of its own without a bound: never claim too much.
        if isinstance(outcome, bytes) and _is_response(outcome):
            yield ReplyData(outcome)
        else:
            yield ReplyData(error_response(Rc.FAIL))

    # The control channel

    def _answer(self, request: Request | UnknownRequest) -> Iterator[Effect]:
        if isinstance(request, UnknownRequest):
            yield ReplyControl(struct.pack(">I", Result.BAD_ORDINAL))
            return
        command = request.command
        answer = self._answers.get(command)
        refused = COMMANDS[command].refusal(request, running=self.running)
        if answer is None or (refused and command not in _NEVER_FAIL):
            yield _reply(command, Result.BAD_ORDINAL)
            return
        yield from answer(request)

    def _get_capability(self, request: Request) -> Iterator[Effect]:
        yield _reply(request.command, capabilities=capabilities_for(self._answers))

    def _set_buffersize(self, request: Request) -> Iterator[Effect]:
        yield _reply(request.command, size=MAX_FRAME, minimum=MAX_FRAME, maximum=MAX_FRAME)

    def _set_locality(self, request: Request) -> Iterator[Effect]:
        if request["locality"] not in LOCALITIES:
            yield _reply(request.command, Result.BAD_LOCALITY)
            return
        self._locality = request["locality"]
        yield _reply(request.command)

    def _set_datafd(self, request: Request) -> Iterator[Effect]:
        if self._attached:
            yield _reply(request.command, Result.IOERROR)
        elif not self.offered:
            yield _reply(request.command, Result.BAD_PARAMETER)
        else:
            self._attached = self._is_machine = True
            self.offered = False
            yield Attach()
            yield _reply(request.command)

    def _cancel(self, request: Request) -> Iterator[Effect]:
        if isinstance(self._call, Execute):
            yield CancelRunning()
        yield _reply(request.command)

    def _init(self, request: Request) -> Iterator[Effect]:
        yield self._run(Power.ON, lambda outcome: (_judge(request, outcome),))

    def _stop(self, request: Request) -> Iterator[Effect]:
        if not self.running:
            yield _reply(request.command)
            return
        yield self._run(Power.OFF, lambda outcome: (_judge(request, outcome),))

    def _shutdown(self, request: Request) -> Iterator[Effect]:
        if not self.running:
            yield from (_reply(request.command), ShutDown())
            return
        yield self._run(Power.OFF, lambda outcome: (_judge(request, outcome), ShutDown()))

    def _get_established(self, request: Request) -> Iterator[Effect]:
        def finish(outcome: Outcome) -> Iterator[Effect]:
            if isinstance(outcome, int):
                self._established = bool(outcome)
            yield _reply(request.command, established=self._established)

        if self.running and self._call is None:
            yield self._run(ReadEstablished(), finish)
        else:
            yield from finish(None)  # what we knew last is better than a frozen QEMU

    def _reset_established(self, request: Request) -> Iterator[Effect]:
        yield self._run(
            ResetEstablished(request["locality"]),
            lambda outcome: (_judge(request, outcome),),
        )


_Finish = Callable[[Outcome], Iterable[Effect]]

_NEVER_FAIL = frozenset(
    {Command.GET_CAPABILITY, Command.GET_TPMESTABLISHED, Command.SET_BUFFERSIZE}
)
_SWITCHES_POWER = frozenset({Command.INIT, Command.STOP, Command.SHUTDOWN})
_NEEDS_REST = _SWITCHES_POWER | {Command.RESET_TPMESTABLISHED}  # the vTPM has to be free


def _is_any(request: Request | UnknownRequest, commands: frozenset[Command]) -> bool:
    return isinstance(request, Request) and request.command in commands


def _is_response(frame: bytes) -> bool:
    return HEADER_SIZE <= len(frame) <= MAX_FRAME and int.from_bytes(frame[2:6], "big") == len(
        frame
    )


def _reply(command: Command, result: int = Result.SUCCESS, **values: int) -> ReplyControl:
    return ReplyControl(encode_response(command, result, b"", **values))


def _judge(request: Request, outcome: Outcome) -> ReplyControl:
    return _reply(request.command, outcome if isinstance(outcome, int) else Result.FAIL)
