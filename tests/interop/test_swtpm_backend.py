"""swtpm as a process: the engine contract, its life and death, its state directory."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from softtpm_contract import (
    CAP_VERSION,
    STARTUP_CLEAR,
    Reopen,
    SoftwareTpmContract,
    rc_of,
)

from hwtpm.errors import (
    AccessDenied,
    Busy,
    DeviceNotFound,
    ProtocolError,
    StateError,
    Timeout,
    UsageError,
)
from hwtpm.softtpm import swtpm
from hwtpm.softtpm.base import SoftwareTpm
from hwtpm.softtpm.swtpm import SwtpmTpm

DEADLINE_S = 10.0


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that only waits to be reaped is not running."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in "ZX"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long for a swtpm that is known not to react."""
    monkeypatch.setattr(swtpm, "_EXIT_WAIT_S", 0.1)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state, of=a guest"


@pytest.fixture
def tpm(state_dir: Path) -> Iterator[SwtpmTpm]:
    tpm = SwtpmTpm(state_dir)
    pid = tpm.pid
    tpm.power_on()
    yield tpm
    tpm.close()
    assert pid is not None
    assert not is_running(pid)


@pytest.fixture
def reopen(tpm: SwtpmTpm, state_dir: Path) -> Iterator[Reopen]:
    opened: list[SwtpmTpm] = []

    def again() -> SoftwareTpm:
        tpm.close()
        opened.append(SwtpmTpm(state_dir))
        return opened[-1]

    yield again
    for other in opened:
        other.close()


def fake_program(directory: Path, then: str) -> str:
    """A program that claims to be swtpm and then does `then` (shell, $fd is the channel)."""
    program = directory / "fake-swtpm"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "TPM emulator version 9.9" && exit\n'
        "for option; do case $option in *clientfd=*) fd=${option##*clientfd=};; esac; done\n"
        f"{then}\n"
    )
    program.chmod(0o755)
    return str(program)


class TestSwtpm(SoftwareTpmContract):
    def test_description_names_version_and_directory(self, tpm: SwtpmTpm, state_dir: Path) -> None:
        assert tpm.description.startswith("swtpm 0.")
        assert tpm.description.endswith(str(state_dir))

    def test_state_is_private(self, tpm: SwtpmTpm, state_dir: Path) -> None:
        assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE((state_dir / "tpm-00.permall").stat().st_mode) == 0o600

    def test_a_killed_swtpm_is_a_typed_error_and_leaves_nothing(
        self, tpm: SwtpmTpm, state_dir: Path
    ) -> None:
        tpm.execute(STARTUP_CLEAR)
        pid = tpm.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ProtocolError, match="lost during a TPM command"):
            tpm.execute(CAP_VERSION)
        assert not is_running(pid)
        assert tpm.pid is None
        with pytest.raises(ProtocolError, match="lost since an earlier failure"):
            tpm.power_on()
        tpm.close()
        again = SwtpmTpm(state_dir)
        again.power_on()
        assert rc_of(again.execute(STARTUP_CLEAR)) == 0
        again.close()

    @pytest.mark.parametrize("call", ["execute", "power_on"])
    def test_a_silent_swtpm_is_a_timeout_and_leaves_nothing(
        self, state_dir: Path, impatient: None, call: str
    ) -> None:
        tpm = SwtpmTpm(state_dir, command_timeout_s=0.2, control_timeout_s=5)
        tpm.power_on()
        tpm.execute(STARTUP_CLEAR)
        tpm._control_timeout_s = 0.2
        pid = tpm.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(Timeout, match=r"within 0\.2 s"):
            tpm.execute(CAP_VERSION) if call == "execute" else tpm.power_on()
        assert not is_running(pid)
        tpm.close()

    def test_close_ends_a_swtpm_that_does_not_listen(self, tpm: SwtpmTpm, impatient: None) -> None:
        pid = tpm.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        tpm.close()
        assert not is_running(pid)

    def test_a_directory_in_use_is_busy(self, tpm: SwtpmTpm, state_dir: Path) -> None:
        second = SwtpmTpm(state_dir)
        with pytest.raises(Busy, match="another swtpm"):
            second.power_on()
        tpm.close()
        second.power_on()
        assert rc_of(second.execute(STARTUP_CLEAR)) == 0
        second.close()

    def test_a_damaged_state_is_reported_and_kept(self, tpm: SwtpmTpm, state_dir: Path) -> None:
        path = state_dir / "tpm-00.permall"
        damaged = bytearray(path.read_bytes())
        damaged[500] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(StateError, match="Could not initialize"):
            tpm.power_on()
        assert path.read_bytes() == damaged
        with pytest.raises(UsageError, match="off"):
            tpm.execute(CAP_VERSION)


def test_nothing_is_left_when_the_user_of_swtpm_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, signal\n"
        "from hwtpm.softtpm.swtpm import SwtpmTpm\n"
        "tpm = SwtpmTpm(pathlib.Path(sys.argv[1]))\n"
        "tpm.power_on()\n"
        "print(tpm.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "state"], stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        pid = int(user.stdout.readline())
        assert is_running(pid)
        user.kill()
    wait_until_gone(pid)


def test_a_missing_program_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFound, match="absent-swtpm") as caught:
        SwtpmTpm(tmp_path, program="absent-swtpm")
    assert "package swtpm" in caught.value.hint


def test_a_program_that_is_not_swtpm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="prints no version"):
        SwtpmTpm(tmp_path, program="true")


def test_a_swtpm_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    program = fake_program(tmp_path, "echo no such luck >&2; exit 3")
    with pytest.raises(ProtocolError, match=r"exit status 3.*no such luck"):
        SwtpmTpm(tmp_path / "state", program=program)


def test_a_swtpm_that_never_answers_is_a_timeout(tmp_path: Path, impatient: None) -> None:
    program = fake_program(tmp_path, "exec sleep 60")
    with pytest.raises(Timeout, match=r"no answer to SET_DATAFD within 0\.2 s"):
        SwtpmTpm(tmp_path / "state", program=program, control_timeout_s=0.2)


def test_a_swtpm_that_talks_nonsense_is_a_protocol_error(tmp_path: Path) -> None:
    echo = "import os, sys; fd = int(sys.argv[1]); os.write(fd, os.read(fd, 64))"
    program = fake_program(tmp_path, f"exec {sys.executable} -c '{echo}' $fd")
    with pytest.raises(ProtocolError, match=r"SET_DATAFD failed \(result 0x10\)"):
        SwtpmTpm(tmp_path / "state", program=program)


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AccessDenied, match="file/state"):
        SwtpmTpm(tmp_path / "file" / "state")
