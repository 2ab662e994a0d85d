"""An unmodified QEMU with SeaBIOS, a TPM TIS device on our control channel, and our boot sector."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import DeviceNotFound, HwtpmError, ProtocolError, Timeout, UsageError
from vstack.qemu_tis.acpi import read_event_log
from vstack.qemu_tis.bootsector import BOOT_TEXT, boot_sector
from vstack.qemu_tis.qmp import Qmp

__all__ = ["QemuGuest", "find_qemu"]

PROGRAM: Final = "qemu-system-x86_64"
BOOT_TIMEOUT_S: Final = 60.0  # SeaBIOS under TCG takes under two seconds on an idle core
EXIT_TIMEOUT_S: Final = 10.0  # for each step of making QEMU end
READ_LIMIT: Final = 16 << 20  # bytes of guest memory in one read

_POLL_S: Final = 0.02
_TAIL: Final = 2000  # bytes of QEMU's messages that an error quotes
_PR_SET_PDEATHSIG: Final = 1
_prctl: Final = ctypes.CDLL(None).prctl  # looked up here: nothing may be loaded after a fork


def find_qemu() -> Path | None:
    """The QEMU on PATH, or None."""
    path = shutil.which(PROGRAM)
    return None if path is None else Path(path)


class QemuGuest:
    """A guest of the machine type `pc` under TCG, whose TPM 1.2 is at the Unix socket `control`.

    QEMU is started here and boots at once; the kernel ends it when the thread that made this
    object ends. `extra` is appended to its command line.

    Raises:
        DeviceNotFound: QEMU is not installed.
        ProtocolError, Timeout: QEMU did not start; its messages are quoted.
    """

    def __init__(
        self,
        control: Path,
        *,
        memory_mib: int = 64,
        extra: Sequence[str] = (),
        qemu: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        program = qemu or find_qemu()
        if program is None:
            raise DeviceNotFound(
                f"{PROGRAM} is not on PATH",
                hint="install the Debian packages qemu-system-x86 and seabios",
            )
        self._clock = clock or RealClock()
        self._seen = 0  # bytes of serial output that earlier waits have used up
        self._directory = tempfile.TemporaryDirectory(prefix="vstack-guest-")
        directory = Path(self._directory.name)
        self._serial = directory / "serial.log"
        self._messages = directory / "qemu.log"
        self._memory = directory / "memory.bin"
        disk = directory / "boot.img"
        disk.write_bytes(boot_sector())
        ours, theirs = socket.socketpair()
        self._qmp = Qmp(ours, clock=self._clock)
        arguments = [
            *(str(program), "-no-user-config", "-nodefaults", "-display", "none"),
            *("-machine", "pc", "-accel", "tcg", "-m", str(memory_mib), "-boot", "order=c"),
            *("-drive", f"if=ide,format=raw,file={_escape(disk)}"),
            *("-serial", f"file:{self._serial}"),
            *("-chardev", f"socket,id=tpm-control,path={_escape(control)}"),
            *("-tpmdev", "emulator,id=tpm,chardev=tpm-control"),
            *("-device", "tpm-tis,tpmdev=tpm"),
            *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}"),
            *("-mon", "chardev=qmp,mode=control"),
            *extra,
        ]
        with theirs, self._messages.open("wb") as messages:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                preexec_fn=_die_with_parent,
            )
        try:
            self._qmp.negotiate()
        except HwtpmError as error:
            explained = self._explain("starting QEMU", error)
            self.close()
            raise explained from error

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @property
    def serial_output(self) -> bytes:
        """Everything the guest has written to COM1 so far."""
        return self._serial.read_bytes() if self._serial.exists() else b""

    def wait_for_text(self, text: str = BOOT_TEXT, *, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Return once the guest has written `text` to COM1 after what was waited for before.

        Raises:
            Timeout: it did not within `timeout_s` seconds.
            ProtocolError: QEMU ended.
        """
        wanted = text.encode()
        deadline = self._clock.now() + timeout_s
        while True:
            ended = self._process.poll() is not None
            found = self.serial_output.find(wanted, self._seen)
            if found >= 0:
                self._seen = found + len(wanted)
                return
            if ended:
                raise self._explain(f"waiting for {text!r}", ProtocolError("QEMU ended"))
            if self._clock.now() >= deadline:
                tail = self.serial_output[self._seen :][-200:]
                error = Timeout(f"not on COM1 within {timeout_s} s; there is {tail!r}")
                raise self._explain(f"waiting for {text!r}", error)
            self._clock.sleep(_POLL_S)

    def system_reset(self) -> None:
        """Press the reset button; firmware boots the guest once more."""
        self._command("system_reset")

    def read_memory(self, address: int, length: int) -> bytes:
        """`length` bytes of guest memory from the physical `address` on.

        Raises:
            UsageError: more than 16 MiB at once.
            ProtocolError: QEMU refused or ended.
        """
        if not 0 < length <= READ_LIMIT:
            raise UsageError(f"{length} bytes of guest memory at once; 1 to {READ_LIMIT} work")
        try:
            self._command(
                "pmemsave", {"val": address, "size": length, "filename": str(self._memory)}
            )
            return self._memory.read_bytes()
        finally:
            self._memory.unlink(missing_ok=True)

    def event_log(self) -> bytes:
        """The TCPA event log area that firmware filled (see `hwtpm.tpm12.eventlog.parse`).

        Raises:
            ProtocolError: there is none, or its tables are damaged.
        """
        return read_event_log(self.read_memory)

    def quit(self) -> None:
        """End QEMU in order: it tells its vTPM to shut down.

        Raises:
            ProtocolError: QEMU ended with an error, or had ended before.
            Timeout: it does not end; `close` will kill it.
        """
        self._command("quit")
        try:
            status = self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise Timeout(f"QEMU still runs {EXIT_TIMEOUT_S} s after quit") from error
        if status:
            raise self._explain("quitting QEMU", ProtocolError(f"exit status {status}"))

    def close(self) -> None:
        """Make sure that QEMU has ended, by force if it must be, and remove its files."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:  # frozen on an unanswered control request
                self._process.kill()
                self._process.wait()
        self._qmp.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _command(self, command: str, arguments: dict[str, object] | None = None) -> object:
        try:
            return self._qmp.execute(command, arguments)
        except HwtpmError as error:
            raise self._explain(command, error) from error

    def _explain(self, doing: str, error: HwtpmError) -> HwtpmError:
        """The same kind of error, with QEMU's exit status and last messages."""
        status = self._process.poll()
        state = "QEMU runs" if status is None else f"QEMU ended with status {status}"
        said = self._messages.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        return type(error)(
            f"{doing}: {error.message} ({state}{f', said: {said}' if said else ''})",
            hint=error.hint or "see QEMU's messages, and whether the vTPM's socket is served",
        )


def _escape(path: Path) -> str:
    """A path as a value in QEMU's comma-separated options."""
    return str(path).replace(",", ",,")


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
