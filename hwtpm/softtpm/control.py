"""The control channel of swtpm, both sides, as a codec without I/O.

Source: swtpm's control commands as QEMU, cloud-hypervisor and swtpm_ioctl speak them (the names
are those of tpm_ioctl.h, without the CMD_ prefix). Everything is big-endian on a stream socket: a
request is a 32-bit command number and the command's body; a response is the body alone, and its
first word is always the result. There is no length, no tag and no sequence number, so exactly one
request may be outstanding and `COMMANDS` decides how long each message is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, IntFlag
from types import MappingProxyType
from typing import Final

from hwtpm.errors import ProtocolError, UsageError

__all__ = [
    "BLOB_LIMIT",
    "COMMANDS",
    "HASH_LIMIT",
    "INFO_LIMIT",
    "BlobFlag",
    "BlobType",
    "Capability",
    "Command",
    "CommandSpec",
    "ConfigFlag",
    "InitFlag",
    "Layout",
    "Power",
    "Request",
    "RequestParser",
    "Response",
    "ResponseDecoder",
    "Result",
    "UnknownRequest",
    "capabilities_for",
    "encode_request",
    "encode_response",
]

HASH_LIMIT: Final = 4096  # bytes in one HASH_DATA
BLOB_LIMIT: Final = 1 << 20  # bytes of one state blob; real ones are tens of kilobytes
INFO_LIMIT: Final = 3072  # bytes of JSON in one GET_INFO response


class Command(IntEnum):
    """Control commands by number."""

    GET_CAPABILITY = 1
    INIT = 2
    SHUTDOWN = 3
    GET_TPMESTABLISHED = 4
    SET_LOCALITY = 5
    HASH_START = 6
    HASH_DATA = 7
    HASH_END = 8
    CANCEL_TPM_CMD = 9
    STORE_VOLATILE = 10
    RESET_TPMESTABLISHED = 11
    GET_STATEBLOB = 12
    SET_STATEBLOB = 13
    STOP = 14
    GET_CONFIG = 15
    SET_DATAFD = 16
    SET_BUFFERSIZE = 17
    GET_INFO = 18
    LOCK_STORAGE = 19


class Result(IntEnum):
    """Results in use on the channel; other TPM 1.2 return codes may stand there too."""

    SUCCESS = 0
    BAD_PARAMETER = 0x03
    FAIL = 0x09
    BAD_ORDINAL = 0x0A  # unknown command, or one that the TPM's power state forbids
    SIZE = 0x17
    IOERROR = 0x1F
    BAD_LOCALITY = 0x3D
    RETRY = 0x800  # GET_STATEBLOB: there is no such blob, which is no failure


class Capability(IntFlag):
    """The bits that GET_CAPABILITY returns."""

    INIT = 1 << 0
    SHUTDOWN = 1 << 1
    GET_TPMESTABLISHED = 1 << 2
    SET_LOCALITY = 1 << 3
    HASHING = 1 << 4
    CANCEL_TPM_CMD = 1 << 5
    STORE_VOLATILE = 1 << 6
    RESET_TPMESTABLISHED = 1 << 7
    GET_STATEBLOB = 1 << 8
    SET_STATEBLOB = 1 << 9
    STOP = 1 << 10
    GET_CONFIG = 1 << 11
    SET_DATAFD = 1 << 12
    SET_BUFFERSIZE = 1 << 13
    GET_INFO = 1 << 14
    SEND_COMMAND_HEADER = 1 << 15  # of the data channel, TPM 2.0 only: no control command
    LOCK_STORAGE = 1 << 16


class InitFlag(IntFlag):
    """Flags of INIT."""

    DELETE_VOLATILE = 1  # forget the stored volatile state once it has been read


class BlobType(IntEnum):
    """State blobs by their number in GET_STATEBLOB and SET_STATEBLOB."""

    PERMANENT = 1
    VOLATILE = 2
    SAVESTATE = 3


class BlobFlag(IntFlag):
    """Flags of the state blob commands."""

    DECRYPTED = 1  # request: give it in clear if you can
    ENCRYPTED = 2  # response and SET_STATEBLOB: it is encrypted


class ConfigFlag(IntFlag):
    """Flags that GET_CONFIG returns."""

    FILE_KEY = 1
    MIGRATION_KEY = 2


class Power(Enum):
    """In which power state of the TPM a command is allowed; STOP ends and INIT begins running."""

    ANY = "any"
    RUNNING = "running"
    STOPPED = "stopped"
    STOPPED_TO_CHANGE = "stopped, unless the first field is 0, which only asks"


@dataclass(frozen=True, slots=True)
class Layout:
    """A message body: big-endian integers, then (if `data_limit`) bytes counted by the last one."""

    format: str = ""
    names: tuple[str, ...] = ()
    data_limit: int = 0
    padding: int = 0  # bytes of trailing padding that some clients send and some do not

    @property
    def size(self) -> int:
        """Bytes of the integers."""
        return struct.calcsize(f">{self.format}")

    def encode(self, values: Mapping[str, int], data: bytes) -> bytes:
        """The body with these integers; those left out are 0 and the data's length is filled in.

        Raises:
            UsageError: an unknown name, a value that does not fit, or too much data.
        """
        if unknown := values.keys() - set(self.names):
            raise UsageError(f"no such field: {', '.join(sorted(unknown))}")
        if len(data) > self.data_limit:
            raise UsageError(f"{len(data)} bytes of data, at most {self.data_limit} fit")
        numbers = [values.get(name, 0) for name in self.names]
        if self.data_limit:
            numbers[-1] = len(data)
        try:
            return struct.pack(f">{self.format}", *numbers) + data
        except struct.error as error:
            raise UsageError(f"a value does not fit its field: {error}") from error

    def measure(self, stream: bytes | bytearray, start: int = 0) -> int | None:
        """Bytes that the body at `start` takes, or None while some of them are missing.

        Raises:
            ProtocolError: it announces more data than `data_limit`.
        """
        there = len(stream) - start
        if there < self.size:
            return None
        if not self.data_limit:
            return self.size
        length = int(struct.unpack_from(f">{self.format}", stream, start)[-1])
        if length > self.data_limit:
            raise ProtocolError(
                f"control channel: {length} bytes announced, at most {self.data_limit} are allowed"
            )
        return self.size + length if there >= self.size + length else None

    def decode(self, body: bytes) -> tuple[dict[str, int], bytes]:
        """Integers by name, and the data; `body` is as long as `measure` says."""
        numbers = struct.unpack_from(f">{self.format}", body)
        return dict(zip(self.names, numbers, strict=True)), body[self.size :]


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One control command: when it is allowed, how it is announced, what it carries."""

    command: Command
    power: Power
    capability: Capability
    request: Layout
    response: Layout
    descriptor: bool = False  # one file descriptor travels beside the request (SCM_RIGHTS)
    full_errors: bool = False  # an error carries the whole header, not the result alone

    def refusal(self, request: Request, *, running: bool) -> Result | None:
        """BAD_ORDINAL if the TPM's power state forbids `request`, else None."""
        match self.power:
            case Power.ANY:
                allowed = True
            case Power.RUNNING:
                allowed = running
            case Power.STOPPED:
                allowed = not running
            case Power.STOPPED_TO_CHANGE:
                allowed = not running or request[self.request.names[0]] == 0
        return None if allowed else Result.BAD_ORDINAL


@dataclass(frozen=True, slots=True)
class Request:
    """A decoded request; `request["offset"]` is one of its integers."""

    command: Command
    values: Mapping[str, int] = field(default_factory=dict)
    data: bytes = b""

    def __getitem__(self, name: str) -> int:
        return self.values[name]


@dataclass(frozen=True, slots=True)
class UnknownRequest:
    """A request with a number that is not in the table: answer it with BAD_ORDINAL."""

    number: int


@dataclass(frozen=True, slots=True)
class Response:
    """A decoded response; after an error the other integers may be missing."""

    command: Command
    result: int
    values: Mapping[str, int] = field(default_factory=dict)
    data: bytes = b""

    def __getitem__(self, name: str) -> int:
        return self.values[name]


_EMPTY = Layout()
_RESULT = Layout("I", ("result",))
# swtpm_ioctl sends the one byte, QEMU the four bytes of the union it stands in.
_LOCALITY = Layout("B", ("locality",), padding=3)


def _table(*specs: CommandSpec) -> Mapping[Command, CommandSpec]:
    return MappingProxyType({spec.command: spec for spec in specs})


COMMANDS: Final = _table(
    CommandSpec(
        Command.GET_CAPABILITY,
        Power.ANY,
        Capability(0),
        _EMPTY,
        # Old clients read both words as one 64-bit set of bits: the result must stay 0.
        Layout("II", ("result", "capabilities")),
    ),
    CommandSpec(Command.INIT, Power.ANY, Capability.INIT, Layout("I", ("flags",)), _RESULT),
    CommandSpec(Command.SHUTDOWN, Power.ANY, Capability.SHUTDOWN, _EMPTY, _RESULT),
    CommandSpec(
        Command.GET_TPMESTABLISHED,
        Power.RUNNING,
        Capability.GET_TPMESTABLISHED,
        _EMPTY,
        Layout("IB3x", ("result", "established")),
    ),
    CommandSpec(Command.SET_LOCALITY, Power.ANY, Capability.SET_LOCALITY, _LOCALITY, _RESULT),
    CommandSpec(Command.HASH_START, Power.RUNNING, Capability.HASHING, _EMPTY, _RESULT),
    CommandSpec(
        Command.HASH_DATA,
        Power.RUNNING,
        Capability.HASHING,
        Layout("I", ("length",), HASH_LIMIT),
        _RESULT,
    ),
    CommandSpec(Command.HASH_END, Power.RUNNING, Capability.HASHING, _EMPTY, _RESULT),
    CommandSpec(Command.CANCEL_TPM_CMD, Power.RUNNING, Capability.CANCEL_TPM_CMD, _EMPTY, _RESULT),
    CommandSpec(Command.STORE_VOLATILE, Power.RUNNING, Capability.STORE_VOLATILE, _EMPTY, _RESULT),
    CommandSpec(
        Command.RESET_TPMESTABLISHED,
        Power.RUNNING,
        Capability.RESET_TPMESTABLISHED,
        _LOCALITY,
        _RESULT,
    ),
    CommandSpec(
        Command.GET_STATEBLOB,
        Power.RUNNING,
        Capability.GET_STATEBLOB,
        Layout("III", ("flags", "type", "offset")),
        Layout("IIII", ("result", "flags", "total", "length"), BLOB_LIMIT),
        full_errors=True,
    ),
    CommandSpec(
        Command.SET_STATEBLOB,
        Power.STOPPED,
        Capability.SET_STATEBLOB,
        Layout("III", ("flags", "type", "length"), BLOB_LIMIT),
        _RESULT,
    ),
    CommandSpec(Command.STOP, Power.ANY, Capability.STOP, _EMPTY, _RESULT),
    CommandSpec(
        Command.GET_CONFIG,
        Power.ANY,
        Capability.GET_CONFIG,
        _EMPTY,
        Layout("II", ("result", "flags")),
    ),
    CommandSpec(
        Command.SET_DATAFD, Power.ANY, Capability.SET_DATAFD, _EMPTY, _RESULT, descriptor=True
    ),
    CommandSpec(
        Command.SET_BUFFERSIZE,
        Power.STOPPED_TO_CHANGE,
        Capability.SET_BUFFERSIZE,
        Layout("I", ("size",)),
        Layout("IIII", ("result", "size", "minimum", "maximum")),
    ),
    CommandSpec(
        Command.GET_INFO,
        Power.ANY,
        Capability.GET_INFO,
        Layout("QI4x", ("flags", "offset")),
        Layout("III", ("result", "total", "length"), INFO_LIMIT),
    ),
    CommandSpec(
        Command.LOCK_STORAGE,
        Power.ANY,
        Capability.LOCK_STORAGE,
        Layout("I", ("retries",)),
        _RESULT,
    ),
)


def capabilities_for(commands: Iterable[Command]) -> Capability:
    """The bits of GET_CAPABILITY that announce these commands."""
    bits = Capability(0)
    for command in commands:
        bits |= COMMANDS[command].capability
    return bits


def encode_request(command: Command, data: bytes = b"", **values: int) -> bytes:
    """A request as it goes on the wire; integers left out are 0, a data length fills itself in.

    Raises:
        UsageError: an unknown field, a value that does not fit, or data beyond the limit.
    """
    return struct.pack(">I", command) + COMMANDS[command].request.encode(values, data)


def encode_response(
    command: Command, result: int = Result.SUCCESS, data: bytes = b"", **values: int
) -> bytes:
    """A response as it goes on the wire.

    An error is the result alone, except where clients read a whole header first (GET_STATEBLOB).
    QEMU before 9.2 waits for ever on a short error of GET_TPMESTABLISHED or SET_BUFFERSIZE, newer
    ones choke on a padded one: a server must let these (and GET_CAPABILITY) never fail and close
    the channel instead.

    Raises:
        UsageError: an unknown field, a value that does not fit, or data beyond the limit.
    """
    spec = COMMANDS[command]
    if result != Result.SUCCESS and not spec.full_errors:
        return _RESULT.encode({"result": result}, b"")
    return spec.response.encode({**values, "result": result}, data)


class RequestParser:
    """The server's side: bytes of the stream in, complete requests out.

    The two locality commands are ambiguous: their body is 1 to 4 bytes long and nothing says how
    long. Where four or more bytes follow the locality the stream itself decides (a command number
    is below 256, so padding and the start of the next request never look like one). Otherwise the
    end of a burst decides: what came with the locality is padding, and zero bytes that are still
    owed may trickle in before the next request.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._late_padding = 0

    @property
    def pending(self) -> int:
        """Bytes of an incomplete request; more than 0 at the end of the stream is a truncation."""
        return len(self._buffer)

    def feed(self, data: bytes, *, burst_end: bool = True) -> list[Request | UnknownRequest]:
        """Requests that `data` completes, in order.

        `burst_end` says that nothing more is to be read right now (a receive call returned less
        than it could have). An unknown command swallows the rest of its burst, for its length is
        unknown. SET_DATAFD's descriptor is the caller's to take from the same receive call.

        Raises:
            ProtocolError: more data announced or sent than allowed; the channel is unusable then.
        """
        self._buffer += data
        requests: list[Request | UnknownRequest] = []
        while (request := self._next(burst_end)) is not None:
            requests.append(request)
        return requests

    def _next(self, burst_end: bool) -> Request | UnknownRequest | None:
        while self._late_padding and len(self._buffer) >= 4 and not any(self._buffer[:4]):
            del self._buffer[0]
            self._late_padding -= 1
        if len(self._buffer) < 4:
            return None
        (number,) = struct.unpack_from(">I", self._buffer)
        if number not in COMMANDS:
            return self._unknown(number, burst_end)
        command = Command(number)
        layout = COMMANDS[command].request
        size = layout.measure(self._buffer, 4)
        if size is None:
            return None
        end = 4 + size
        padding = self._padding(layout, end, burst_end)
        if padding is None:
            return None
        self._late_padding = layout.padding - padding
        values, payload = layout.decode(bytes(self._buffer[4:end]))
        del self._buffer[: end + padding]
        return Request(command, values, payload)

    def _unknown(self, number: int, burst_end: bool) -> UnknownRequest | None:
        if len(self._buffer) > BLOB_LIMIT:
            raise ProtocolError(f"control channel: endless request with unknown command {number}")
        if not burst_end:
            return None
        self._buffer.clear()
        return UnknownRequest(number)

    def _padding(self, layout: Layout, end: int, burst_end: bool) -> int | None:
        if not layout.padding:
            return 0
        following = len(self._buffer) - end
        if following > layout.padding:
            (number,) = struct.unpack_from(">I", self._buffer, end)
            return 0 if number in COMMANDS else layout.padding
        return following if burst_end else None


class ResponseDecoder:
    """The client's side: bytes of one response in, the response out."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Response | None:
        """The response once it is complete, None before.

        An error is complete with its result; more of its header is taken if it came along.

        Raises:
            ProtocolError: more bytes than the response has, or more data announced than allowed.
        """
        self._buffer += data
        if len(self._buffer) < _RESULT.size:
            return None
        layout = COMMANDS[self._command].response
        (result,) = struct.unpack_from(">I", self._buffer)
        size = layout.measure(self._buffer)
        if size is None:
            return Response(self._command, result) if result != Result.SUCCESS else None
        if len(self._buffer) > size:
            raise ProtocolError(
                f"control channel: {len(self._buffer) - size} bytes too many"
                f" in the response to {self._command.name}"
            )
        values, payload = layout.decode(bytes(self._buffer))
        return Response(self._command, values.pop("result"), values, payload)
