"""A TPM behind `hwtpm serve`, TrouSerS' tcsd on it, and the tools that talk to tcsd.

tcsd takes a configuration only from root with mode 0640, drops to the user tss, and holds its one
connection to the TPM for its life (which is why `serve` gives the TPM to one client at a time).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hwtpm.client import Tpm, owner
from hwtpm.transport import open_transport

__all__ = ["Ran", "Served", "Tools", "assert_presence", "serving", "tcsd_on"]

TIMEOUT_S = 60
_TRIES = 20


@dataclass(frozen=True)
class Served:
    """A running `hwtpm serve`; `errors` is what it has written to stderr so far."""

    address: str
    port: int
    process: subprocess.Popen[str]
    stderr: Path

    @property
    def errors(self) -> str:
        return self.stderr.read_text()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(TIMEOUT_S)


@contextmanager
def serving(on: str, directory: Path, *options: str) -> Iterator[Served]:
    """`hwtpm serve` on any free port of this machine."""
    stderr = directory / "serve.err"
    command = [sys.executable, "-m", "hwtpm.cli", "serve", "--on", on, "--json"]
    with (
        stderr.open("wb") as log,
        subprocess.Popen(
            [*command, "--tcp", "127.0.0.1:0", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline() or "null")
            assert ready is not None, stderr.read_text()
            yield Served(ready["data"]["address"], ready["data"]["port"], process, stderr)
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str


@dataclass(frozen=True)
class Tools:
    """Runs programs of tpm-tools and tpm-quote-tools in `directory`."""

    directory: Path
    env: dict[str, str]

    def run(self, *command: str, typed: str = "") -> Ran:
        """What a program says; `typed` goes to its questions."""
        done = subprocess.run(
            command,
            input=typed.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env=self.env,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(errors="replace"))

    def __call__(self, *command: str, typed: str = "") -> str:
        """The output of a program that works."""
        ran = self.run(*command, typed=typed)
        assert ran.code == 0, f"{' '.join(command)}: {ran.code}: {ran.out}"
        return ran.out

    def refused(self, reason: str, *command: str, typed: str = "") -> None:
        """Run a program that does not work, for a reason that it says."""
        ran = self.run(*command, typed=typed)
        assert ran.code != 0, f"{' '.join(command)}: {ran.out}"
        assert reason in ran.out, f"{command}: {ran.out}"


def assert_presence(address: str) -> None:
    """What firmware does before it starts a system: tpm-tools cannot (TCS has no such call)."""
    with Tpm(open_transport(address)) as tpm:
        owner.assert_presence(tpm)


@contextmanager
def tcsd_on(port: int) -> Iterator[Tools]:
    """tcsd on a TPM at a TCP port of this machine."""
    directory = Path(tempfile.mkdtemp(prefix="tcsd-"))
    directory.chmod(0o711)  # tss has to reach its storage in it
    try:
        (directory / "ps").mkdir(mode=0o700)
        shutil.chown(directory / "ps", "tss")
        process, own_port = _start(directory, port)
        with process:
            try:
                env = os.environ | {
                    "TSS_TCSD_HOSTNAME": "localhost",
                    "TSS_TCSD_PORT": str(own_port),
                    "HOME": str(directory),  # of the user's key storage
                    "PATH": f"{os.environ['PATH']}:/usr/sbin",
                    "LC_ALL": "C",
                }
                yield Tools(directory, env)
            finally:
                process.terminate()
                process.wait(TIMEOUT_S)
    finally:
        shutil.rmtree(directory)


def _start(directory: Path, tpm_port: int) -> tuple[subprocess.Popen[str], int]:
    """tcsd cannot be given a socket, nor port 0: a port that is free now is tried, then another."""
    said = ""
    for _ in range(_TRIES):
        port = _free_port()
        config = directory / "tcsd.conf"
        config.write_text(f"port = {port}\nsystem_ps_file = {directory}/ps/system.data\n")
        shutil.chown(config, "root", "tss")
        config.chmod(0o640)
        process = subprocess.Popen(
            # Line by line: its "up and running" has to come before its buffer is full.
            ["stdbuf", "-oL", "/usr/sbin/tcsd", "-e", "-f", "-c", str(config)],
            env=os.environ
            | {"TCSD_TCP_DEVICE_HOSTNAME": "127.0.0.1", "TCSD_TCP_DEVICE_PORT": str(tpm_port)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "up and running" in line:
                return process, port
        process.stdout.close()
        process.wait(TIMEOUT_S)
    raise AssertionError(f"tcsd does not start: {said}")


def _free_port() -> int:
    """Free now, and below those that the system gives to anybody who asks for any."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(10_000, 32_000)))
            except OSError:
                continue
            number: int = probe.getsockname()[1]
            return number
