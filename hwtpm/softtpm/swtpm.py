"""swtpm as a software TPM, 1.2 or 2.0: a process of its own, driven over its control channel.

Source: swtpm(8) and the channel as `hwtpm.softtpm.control` declares it. Both sockets are pairs that
the child inherits, so there is no port to collide on and no path to race for; swtpm ends by itself
when they close, which they do however this process ends.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from hwtpm.clock import RealClock
from hwtpm.errors import (
    AccessDenied,
    Busy,
    DeviceNotFound,
    HwtpmError,
    ProtocolError,
    StateError,
    Timeout,
    Unsupported,
    UsageError,
)
from hwtpm.softtpm.base import Family
from hwtpm.softtpm.control import (
    HASH_LIMIT,
    Capability,
    Command,
    InitFlag,
    Response,
    ResponseDecoder,
    Result,
    capabilities_for,
    encode_request,
)
from hwtpm.softtpm.peer import checked_response, failure, frame_size, is_locality, refusal
from hwtpm.tpm12.const import MAX_FRAME
from hwtpm.tpm12.rc import Rc

__all__ = ["SwtpmTpm"]

_NEEDED: Final = capabilities_for(
    [
        Command.INIT,
        Command.SHUTDOWN,
        Command.STOP,
        Command.SET_LOCALITY,
        Command.GET_TPMESTABLISHED,
        Command.RESET_TPMESTABLISHED,
        Command.HASH_DATA,
    ]
)
_LOG_TAIL: Final = 2000  # bytes of swtpm's log that an error quotes
_EXIT_WAIT_S: Final = 2.0  # how long swtpm may take to obey, at each step of close
_VERSION_TIMEOUT_S: Final = 10.0

_T = TypeVar("_T")


class SwtpmTpm:
    """A `SoftwareTpm` whose engine is a swtpm process that keeps its own state.

    `state` is a directory, which is created (mode 0700) if it is missing, or the descriptor of a
    file, which stays the caller's. `control_timeout_s` bounds every control
    command, INIT (which may make keys) included; `command_timeout_s` bounds every TPM command.
    After a lost or silent swtpm the object is only good for `close`. A command under way cannot be
    cancelled: swtpm hears of it only when the command has ended.

    Raises:
        DeviceNotFound: `program` is not installed.
        AccessDenied: `state` or `program` cannot be used.
        ProtocolError, Timeout: swtpm ended or did not answer.
        Unsupported: this swtpm lacks a control command that is needed.
    """

    def __init__(
        self,
        state: Path | int,
        *,
        family: Family = Family.TPM12,
        program: str = "swtpm",
        control_timeout_s: float = 30.0,
        command_timeout_s: float = 120.0,
    ) -> None:
        self._state = state
        self.family = family
        where = f" in {state}" if isinstance(state, Path) else ""
        self._description = f"swtpm{where}"
        self._control_timeout_s = control_timeout_s
        self._command_timeout_s = command_timeout_s
        self._clock = RealClock()
        self._locality: int | None = None
        self._powered = False
        self._measuring = False
        self._closed = False
        if isinstance(state, Path):
            self._make(state)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._control, control_peer = socket.socketpair()
        self._data, data_peer = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with data_peer:
                with control_peer:  # held any longer, it would hide that swtpm is gone
                    executable = _find(program)
                    kind = "" if family is Family.TPM12 else f" as {family}"
                    self._description = f"swtpm {_version(executable)}{kind}{where}"
                    self._process = self._spawn(executable, control_peer)
                self._attach(data_peer)
        except BaseException:
            self.close()
            raise

    @property
    def description(self) -> str:
        """`swtpm`, its version, the family if it is not TPM 1.2, and the state directory if any."""
        return self._description

    @property
    def pid(self) -> int | None:
        """The process id of this TPM's swtpm, None once it is closed or lost."""
        return None if self._process is None else self._process.pid

    def power_on(self) -> None:
        """See `SoftwareTpm.power_on`.

        Raises:
            Busy: another swtpm uses the state directory.
            StateError: the state there is unusable.
        """
        self._powered = self._measuring = False
        self._locality = None
        self._obey(Command.STOP)
        # The volatile state that somebody may have stored here is good for one start at most.
        response = self._control_call(Command.INIT, flags=InitFlag.DELETE_VOLATILE)
        if response.result != Result.SUCCESS:
            raise self._init_error(response.result)
        self._powered = True

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        """See `SoftwareTpm.execute`.

        Raises:
            UsageError: it is not powered on.
            ProtocolError, Timeout: swtpm ended, broke the protocol or did not answer.
        """
        self._require_power()
        if (refused := refusal(command, locality, self.family)) is not None:
            return refused
        if (rc := self._set_locality(locality)) != Result.SUCCESS:
            return failure(self.family, rc)
        response = self._exchange(
            self._data, bytes(command), _whole_frame(), self._command_timeout_s, "a TPM command"
        )
        try:
            return checked_response(response, self._description)
        except ProtocolError:
            self._end()
            raise

    def stand_by(self) -> None:
        """See `StandbyTpm.stand_by`; `power_on` takes up what is stored, and deletes it."""
        self._require_power()
        self._obey(Command.STORE_VOLATILE)

    @property
    def established(self) -> bool:
        """See `SoftwareTpm.established`."""
        self._require_power()
        return bool(self._obey(Command.GET_TPMESTABLISHED)["established"])

    def reset_established(self, locality: int) -> int:
        """See `SoftwareTpm.reset_established`."""
        self._require_power()
        if not is_locality(locality):
            return Rc.BAD_LOCALITY
        return self._control_call(Command.RESET_TPMESTABLISHED, locality=locality).result

    def hash_start(self) -> None:
        """See `SoftwareTpm.hash_start`."""
        self._require_power()
        self._measuring = self._control_call(Command.HASH_START).result == Result.SUCCESS

    def hash_data(self, data: bytes) -> None:
        """See `SoftwareTpm.hash_data`; ignored outside a measurement, as on the bus."""
        self._require_power()
        # Outside a measurement libtpms would go into failure mode, which a bus cycle never does.
        if self._measuring:
            for start in range(0, len(data), HASH_LIMIT):
                self._control_call(Command.HASH_DATA, bytes(data[start : start + HASH_LIMIT]))

    def hash_end(self) -> None:
        """See `SoftwareTpm.hash_end`; ignored outside a measurement, as on the bus."""
        self._require_power()
        if self._measuring:
            self._measuring = False
            self._control_call(Command.HASH_END)

    def close(self) -> None:
        """See `SoftwareTpm.close`; returns with the process gone, closing twice is allowed."""
        self._closed = True
        if self._process is not None and self._process.poll() is None:
            try:
                self._control.settimeout(_EXIT_WAIT_S)
                self._control.sendall(encode_request(Command.SHUTDOWN))
                self._process.wait(_EXIT_WAIT_S)
            except (OSError, subprocess.TimeoutExpired):
                self._process.terminate()
        self._end()
        self._log.close()

    def _make(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AccessDenied(
                f"{self._description}: cannot make the state directory: {error}",
                hint="name a directory that you may write to",
            ) from error

    def _spawn(self, executable: Path, control: socket.socket) -> subprocess.Popen[bytes]:
        options = ["--terminate", "--ctrl", f"type=unixio,clientfd={control.fileno()}"]
        if self.family is Family.TPM20:
            options.append("--tpm2")
        given = [control.fileno()]
        if isinstance(self._state, Path):
            # Running in the state directory keeps its name, whatever is in it, out of the options.
            cwd, state = self._state, "dir=.,mode=0600"
        else:
            cwd, state = None, f"backend-uri=file:///proc/self/fd/{self._state}"
            given.append(self._state)
        try:
            return subprocess.Popen(
                [executable, "socket", *options, "--tpmstate", state],
                cwd=cwd,
                pass_fds=given,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is ours to handle, with an orderly close
            )
        except OSError as error:
            raise AccessDenied(
                f"{self._description}: cannot start {executable} there: {error}",
                hint="check who may use the program and the directory",
            ) from error

    def _attach(self, data: socket.socket) -> None:
        self._obey(Command.SET_DATAFD, descriptors=[data.fileno()])
        there = self._obey(Command.GET_CAPABILITY)["capabilities"]
        if missing := _NEEDED & ~Capability(there):
            raise Unsupported(
                f"{self._description}: its control channel lacks {missing!r}",
                hint="use a newer swtpm",
            )

    def _set_locality(self, locality: int) -> int:
        if locality == self._locality:
            return Result.SUCCESS
        result = self._control_call(Command.SET_LOCALITY, locality=locality).result
        if result == Result.SUCCESS:
            self._locality = locality
        return result

    def _obey(self, command: Command, *, descriptors: Sequence[int] = ()) -> Response:
        """The response to a control command that has no reason to fail."""
        response = self._control_call(command, descriptors=descriptors)
        if response.result != Result.SUCCESS:
            raise ProtocolError(
                f"{self._description}: {command.name} failed (result {response.result:#x})"
                f"{self._log_tail()}"
            )
        return response

    def _control_call(
        self,
        command: Command,
        data: bytes = b"",
        *,
        descriptors: Sequence[int] = (),
        **values: int,
    ) -> Response:
        return self._exchange(
            self._control,
            encode_request(command, data, **values),
            ResponseDecoder(command).feed,
            self._control_timeout_s,
            command.name,
            descriptors,
        )

    def _exchange(
        self,
        channel: socket.socket,
        request: bytes,
        feed: Callable[[bytes], _T | None],
        timeout_s: float,
        what: str,
        descriptors: Sequence[int] = (),
    ) -> _T:
        """Send `request` and receive until `feed` has its answer; a failure ends the process."""
        self._require_open()
        deadline = self._clock.now() + timeout_s
        try:
            channel.settimeout(timeout_s)
            sent = socket.send_fds(channel, [request], list(descriptors)) if descriptors else 0
            channel.sendall(request[sent:])
            while True:
                if (left := deadline - self._clock.now()) <= 0:
                    raise TimeoutError
                channel.settimeout(left)
                chunk = channel.recv(MAX_FRAME)
                if not chunk:
                    raise ConnectionResetError("it closed the channel")
                if (answer := feed(chunk)) is not None:
                    return answer
        except TimeoutError as error:
            self._end()
            raise Timeout(
                f"{self._description}: no answer to {what} within {timeout_s:g} s"
                f"{self._log_tail()}",
                hint="close this TPM and open it again; its permanent state is on disk",
            ) from error
        except OSError as error:
            status = self._end()
            raise ProtocolError(
                f"{self._description}: lost during {what}: {error} (exit status {status})"
                f"{self._log_tail()}",
                hint="close this TPM and open it again; its permanent state is on disk",
            ) from error
        except BaseException:
            # Half an answer may be left in the channel: nothing after it could be trusted.
            self._end()
            raise

    def _init_error(self, result: int) -> HwtpmError:
        tail = self._log_tail()
        if "lockfile" in tail:
            return Busy(
                f"{self._description}: another swtpm uses this state directory",
                hint="stop the other one, or name another directory",
            )
        return StateError(
            f"{self._description}: cannot start from its stored state (result {result:#x}){tail}",
            hint="restore the directory from a backup; nothing was overwritten",
        )

    def _log_tail(self) -> str:
        if self._log.closed:
            return ""
        # pread: the child shares the file offset and must go on appending.
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _LOG_TAIL, max(size - _LOG_TAIL, 0))
        text = tail.decode(errors="replace").strip()
        return f"; its log ends: {text}" if text else ""

    def _end(self) -> int | None:
        """Close both channels and reap the process, killing it if it will not go."""
        self._powered = False
        self._control.close()
        self._data.close()
        if self._process is None:
            return None
        process, self._process = self._process, None
        try:
            return process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self._description}: it is closed", hint="open a new one")
        if self._process is None:
            raise ProtocolError(
                f"{self._description}: it is lost since an earlier failure{self._log_tail()}",
                hint="close this TPM and open it again; its permanent state is on disk",
            )

    def _require_power(self) -> None:
        self._require_open()
        if not self._powered:
            raise UsageError(f"{self._description}: it is off", hint="call power_on first")


def _whole_frame() -> Callable[[bytes], bytes | None]:
    """A `feed` that collects one TPM response frame, or what cannot be one."""
    frame = bytearray()

    def feed(chunk: bytes) -> bytes | None:
        frame.extend(chunk)
        size = frame_size(frame)
        incomplete = size is None or len(frame) < size <= MAX_FRAME
        return None if incomplete else bytes(frame)

    return feed


def _find(program: str) -> Path:
    found = shutil.which(program)
    if found is None:
        raise DeviceNotFound(
            f"swtpm: there is no program {program}",
            hint="install the Debian package swtpm, or use another engine",
        )
    return Path(found).absolute()  # it is started from another directory


def _version(executable: Path) -> str:
    try:
        answer = subprocess.run(
            [executable, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_VERSION_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise Timeout(
            f"swtpm: {executable} --version does not return", hint="name the swtpm program itself"
        ) from error
    except OSError as error:
        raise AccessDenied(
            f"swtpm: cannot run {executable}: {error}", hint="check who may execute it"
        ) from error
    match = re.search(rb"TPM emulator version (\d[\w.]*)", answer.stdout)
    if match is None:
        raise ProtocolError(
            f"swtpm: {executable} --version prints no version",
            hint="name the swtpm program itself",
        )
    return match[1].decode()
