"""Our TIS cores against QEMU's tpm-tis: our driver drives it, our device behaves like it.

QEMU runs with its CPU stopped; register accesses go in through qtest. The TPM behind is swtpm.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwtpm.clock import RealClock
from hwtpm.tis import QEMU_TPM12, TisHost, TisTransport, drive
from hwtpm.tis.registers import LOCALITIES, LPC_BASE, STS, Sts
from hwtpm.tis.states import State
from hwtpm.tis_lpc_sim import ExecutorTpm, LpcPort, LpcWindow, SimulatedChip

DEADLINE_S = 60.0
STARTUP = bytes.fromhex("00c1 0000000c 00000099 0001")
GET_RANDOM = bytes.fromhex("00c1 0000000e 00000046 00000020")
UNKNOWN = bytes.fromhex("00c1 0000000a 00001234")
BAD_ORDINAL = bytes.fromhex("00c4 0000000a 0000000a")


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


class QtestWindow(LpcWindow):
    """The memory window of a QEMU machine."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rw", newline="\n")

    def _ask(self, line: str) -> str:
        self._stream.write(line + "\n")
        self._stream.flush()
        while (answer := self._stream.readline().strip()).startswith("IRQ"):
            pass
        assert answer.startswith("OK"), answer
        return answer[2:].strip()

    def read(self, address: int, size: int) -> int:
        return int(self._ask(f"read{'?bw?l'[size]} {address:#x}"), 16)

    def write(self, address: int, value: int, size: int) -> None:
        self._ask(f"write{'?bw?l'[size]} {address:#x} {value:#x}")


@pytest.fixture
def qemu() -> Iterator[LpcWindow]:
    # Unix socket paths are short; pytest's own directories are not always.
    directory = Path(tempfile.mkdtemp(prefix="tis"))
    (directory / "state").mkdir()
    control, qtest = directory / "ctrl", directory / "qtest"
    processes: list[subprocess.Popen[bytes]] = []
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(qtest))
        listener.listen(1)
        listener.settimeout(DEADLINE_S)
        tpm = f"socket --tpmstate dir={directory / 'state'} --ctrl type=unixio,path={control}"
        processes.append(subprocess.Popen(["swtpm", *tpm.split()], stderr=subprocess.DEVNULL))
        eventually(control.exists)
        machine = (
            "-M pc -accel tcg -S -display none -nodefaults "
            f"-chardev socket,id=c,path={control} -tpmdev emulator,id=t,chardev=c "
            f"-device tpm-tis,tpmdev=t -qtest unix:{qtest}"
        )
        processes.append(
            subprocess.Popen(
                ["qemu-system-x86_64", *machine.split()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        connection, _ = listener.accept()
        connection.settimeout(DEADLINE_S)
        with connection:
            yield QtestWindow(connection)
    finally:
        listener.close()
        for process in reversed(processes):
            process.kill()
            process.wait(DEADLINE_S)
        shutil.rmtree(directory)


def test_driver_runs_commands_on_qemus_device(qemu: LpcWindow) -> None:
    transport = TisTransport(LpcPort(qemu), RealClock(), duration_s=lambda _: 20.0, locality=1)
    with transport:
        info = transport.probe()
        assert (info.did_vid, info.capability, info.tpm20) == (0x00011014, 0x20000697, False)
        assert transport.execute(STARTUP) == bytes.fromhex("00c4 0000000a 00000000")
        first, second = (transport.execute(GET_RANDOM) for _ in range(2))
        assert first[:14] == second[:14] == bytes.fromhex("00c4 0000002e 00000000 00000020")
        assert first != second
        transport.set_locality(0)
        assert transport.execute(UNKNOWN) == BAD_ORDINAL


def test_driver_seizes_qemus_device_from_a_lower_locality(qemu: LpcWindow) -> None:
    port, clock = LpcPort(qemu), RealClock()
    low, high = TisHost(), TisHost()
    drive(low.request_locality(0), port, clock)
    drive(high.seize(2), port, clock)
    assert drive(high.transmit(STARTUP, 20.0), port, clock)[6:] == bytes(4)
    drive(high.release_locality(), port, clock)
    drive(low.request_locality(0), port, clock)
    assert drive(low.transmit(UNKNOWN, 20.0), port, clock) == BAD_ORDINAL


def registers_of(window: LpcWindow) -> list[int]:
    """What a guest can see without changing anything, in every locality."""
    offsets = [(0x00, 1), (0x08, 4), (0x0C, 1), (0x10, 4), (0x14, 4), (0x18, 4), (0x30, 4)]
    offsets += [(0x19, 1), (0x1A, 1), (0xF00, 4), (0xF04, 1), (0x34, 4), (0xF80, 4)]
    return [
        window.read(LPC_BASE + 0x1000 * locality + offset, size)
        for locality in range(LOCALITIES)
        for offset, size in offsets
    ]


@pytest.mark.parametrize("seed", range(2))
def test_device_behaves_like_qemus_under_random_traffic(qemu: LpcWindow, seed: int) -> None:
    chip = SimulatedChip(ExecutorTpm(lambda *_: BAD_ORDINAL), QEMU_TPM12)
    ours = LpcWindow(chip)
    for window in (qemu, ours):  # swtpm knows ordinals only after TPM_Startup
        transport = TisTransport(LpcPort(window), RealClock(), duration_s=lambda _: 20.0)
        transport.execute(STARTUP)
        drive(transport.host.abort(), LpcPort(window), RealClock())
        transport.close()
    rng = random.Random(seed)
    executed = 0

    def both(locality: int, offset: int, value: int, size: int) -> None:
        for window in (qemu, ours):
            window.write(LPC_BASE + 0x1000 * locality + offset, value, size)

    for step in range(250):
        locality = rng.choice([0, 0, 1, 2, 3, 4])
        match rng.randrange(7):
            case 0:
                both(
                    locality,
                    0x00,
                    rng.choice([0x02, 0x02, 0x20, 0x08, 0x10, rng.randrange(256)]),
                    1,
                )
            case 1:
                both(locality, 0x18, rng.choice([0x40, 0x02, 0x62, rng.randrange(256) & ~0x20]), 1)
            case 2:
                size = rng.choice([1, 2, 4])
                both(locality, rng.choice([0x24, 0x80]), rng.getrandbits(8 * size), size)
            case 3:
                both(locality, 0x08, rng.choice([0x80000087, rng.getrandbits(32)]), 4)
                both(locality, 0x10, rng.choice([0, 0x87, rng.randrange(256)]), 4)
            case 4:
                size = rng.choice([1, 2, 4])
                address = LPC_BASE + 0x1000 * locality + 0x24
                assert qemu.read(address, size) == ours.read(address, size), step
            case 5 if chip.core.active_locality is not None:
                locality = chip.core.active_locality
                both(locality, 0x18, 0x40, 1)
                for byte in UNKNOWN:
                    both(locality, 0x24, byte, 1)
                running = chip.core.state(locality) is State.RECEPTION
                both(locality, 0x18, 0x20, 1)
                if running:
                    executed += 1
                    status = LPC_BASE + 0x1000 * locality + STS.offset
                    eventually(lambda at=status: bool(qemu.read(at, 4) & Sts.DATA_AVAIL))
            case _:
                both(rng.randrange(5), 0x30, rng.getrandbits(32), 4)
        assert registers_of(qemu) == registers_of(ours), step
    assert executed > 5
