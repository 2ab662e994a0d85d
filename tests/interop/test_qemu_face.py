"""An unmodified QEMU with SeaBIOS boots on our control channel, with libtpms as the TPM behind it.

QEMU, SeaBIOS and libtpms were not written by us. What SeaBIOS logged has to be what the TPM holds.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwtpm.errors import ProtocolError, Timeout
from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.libtpms import LibtpmsTpm
from hwtpm.tpm12 import eventlog
from vstack.qemu_tis.face import QemuFace
from vstack.qemu_tis.machine import QemuGuest, find_qemu

PATIENCE_S = 30.0


class LibtpmsPort:
    """The face's view of libtpms; keeps count of what the machine did with it."""

    def __init__(self) -> None:
        self.tpm = LibtpmsTpm(MemoryStorage())
        self.powered_on = 0
        self.ordinals: list[int] = []

    def power_on(self) -> None:
        self.powered_on += 1
        self.tpm.power_on()

    def power_off(self) -> None:
        """Nothing to do: `power_on` is a power cycle."""

    def execute(self, command: bytes, locality: int) -> bytes:
        self.ordinals.append(int.from_bytes(command[6:10], "big"))
        return self.tpm.execute(command, locality)

    def established(self) -> bool:
        return self.tpm.established

    def reset_established(self, locality: int) -> int:
        return self.tpm.reset_established(locality)

    def cancel(self) -> None:
        """libtpms cannot cut a command short."""

    def pcrs(self) -> dict[int, bytes]:
        read = bytes.fromhex("00c10000000e00000015")
        return {pcr: self.tpm.execute(read + pcr.to_bytes(4, "big"))[10:] for pcr in range(8)}


class Service:
    """A face on a socket in its own directory, served in a thread."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "control, with a comma"
        self.port = LibtpmsPort()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(4)
        self.face = QemuFace(self.listener, self.port)
        self.thread = threading.Thread(target=self.face.serve)
        self.thread.start()

    def ended(self) -> bool:
        self.thread.join(PATIENCE_S)
        return not self.thread.is_alive()

    def close(self) -> None:
        self.face.stop()
        assert self.ended()
        self.face.close()
        self.listener.close()
        self.port.tpm.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


def test_guest_boots_is_measured_resets_and_quits(service: Service) -> None:
    with QemuGuest(service.path) as guest:
        guest.wait_for_text()
        events = eventlog.parse(guest.event_log())
        first = service.port.pcrs()
        assert eventlog.replay(events) == first, "8 of 8 PCRs"
        texts = [event.description for event in events if event.pcr == 4]
        assert 'EV_ACTION: "Calling INT 19h"' in texts
        booted = service.port.powered_on

        guest.system_reset()
        guest.wait_for_text()
        assert service.port.powered_on > booted
        assert service.port.pcrs() == first, "the reset was a power cycle of the TPM"
        assert eventlog.replay(eventlog.parse(guest.event_log())) == first

        guest.quit()
        assert service.ended(), "QEMU's SHUTDOWN ends the service"


def test_next_machine_boots_after_one_was_killed_and_others_sent_garbage(
    service: Service,
) -> None:
    with QemuGuest(service.path) as guest:
        os.kill(guest.pid, signal.SIGKILL)
        with pytest.raises(ProtocolError, match="ended with status -9"):
            guest.wait_for_text("never written", timeout_s=PATIENCE_S)
    for number in range(20):
        with socket.socket(socket.AF_UNIX) as garbage:
            garbage.connect(str(service.path))
            garbage.sendall(number.to_bytes(4, "little") + os.urandom(number * 300))
    with QemuGuest(service.path) as guest:
        guest.wait_for_text()
        log = eventlog.parse(guest.event_log())
        assert eventlog.replay(log) == service.port.pcrs()
        guest.quit()


def test_guest_without_a_served_socket_fails_with_what_qemu_said(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"nobody.*No such file or directory") as caught:
        QemuGuest(tmp_path / "nobody")
    assert "socket" in caught.value.hint


def test_guest_that_does_not_say_it_is_a_timeout_and_leaves_no_process(service: Service) -> None:
    with QemuGuest(service.path) as guest:
        guest.wait_for_text()
        with pytest.raises(Timeout, match=r"not on COM1 within 0\.05 s.*QEMU runs"):
            guest.wait_for_text("never written", timeout_s=0.05)
        pid = guest.pid
    assert not Path(f"/proc/{pid}").exists()
    assert find_qemu() is not None


def test_qemu_ends_with_the_process_that_started_it(service: Service, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from vstack.qemu_tis.machine import QemuGuest\n"
        "print(QemuGuest(Path(sys.argv[1])).pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(service.path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        qemu = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    try:
        assert select.select([qemu], [], [], PATIENCE_S)[0], "QEMU outlived its parent"
    finally:
        os.close(qemu)
