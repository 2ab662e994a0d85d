"""The demo's guest: an unmodified QEMU with SeaBIOS, or our own firmware on our own TIS device."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hwtpm.client import pcr
from hwtpm.client.session import Tpm
from hwtpm.clock import RealClock
from hwtpm.tis import TisTransport
from hwtpm.tis_lpc_sim import ExecutorTpm, LpcPort, LpcWindow, SimulatedChip
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.eventlog import EventType, trim
from hwtpm.transport.base import Attached
from hwtpm.transport.deadlines import Deadlines
from vstack.qemu_tis.bootsector import boot_sector
from vstack.qemu_tis.machine import QemuGuest, find_qemu
from vstack.vtpm.guest import GuestPort

__all__ = ["Booted", "boot"]

_EVENT: Final = struct.Struct("<II20sI")


@dataclass(frozen=True)
class Booted:
    """A guest that has booted: what it is, and the event log of its firmware."""

    description: str
    log: bytes


@contextlib.contextmanager
def boot(run_directory: Path, name: str) -> Iterator[Booted]:
    """A guest with the vTPM whose sockets lie in `run_directory`, booted, until the block ends."""
    if find_qemu() is not None:
        with _boot_qemu(run_directory) as booted:
            yield booted
    else:
        with _boot_own(run_directory, name) as booted:
            yield booted


@contextlib.contextmanager
def _boot_qemu(run_directory: Path) -> Iterator[Booted]:
    with QemuGuest(run_directory / "qemu.sock") as guest:
        guest.wait_for_text()
        yield Booted(
            "an unmodified QEMU with SeaBIOS, booting a boot sector of ours",
            trim(guest.event_log()),
        )
        guest.quit()


@contextlib.contextmanager
def _boot_own(run_directory: Path, name: str) -> Iterator[Booted]:
    """The measurements of a BIOS through our TIS driver, register by register, to our TIS device
    and over the ring to the vTPM."""
    with GuestPort(run_directory / "host.sock", name) as port:
        port.power_on()
        chip = SimulatedChip(ExecutorTpm(port.execute, "vTPM"))
        chip.power_on()
        tis = TisTransport(LpcPort(LpcWindow(chip)), RealClock(), duration_s=Deadlines().of_ordinal)
        with contextlib.closing(_Firmware(tis)) as firmware:
            yield Booted(
                "no QEMU here (package qemu-system-x86): our own TIS driver on our own TIS "
                "device, with the measurements of a BIOS",
                firmware.measure(),
            )


class _Firmware:
    """What a BIOS does to a TPM between power-on and the first instruction of the boot sector."""

    attached = Attached("guest's TIS", "tis", real_hardware=False, detail="vTPM")

    def __init__(self, tis: TisTransport) -> None:
        self._tis = tis
        self._tpm = Tpm(self)

    def execute(self, command: bytes) -> bytes:
        return self._tis.execute(command)

    def close(self) -> None:
        self._tis.close()

    def measure(self) -> bytes:
        """Start the TPM and extend PCRs 0 to 7; returns the event log."""
        self._tpm.execute(Startup(StartupType.CLEAR))
        sector = boot_sector()
        code, table = sector[:440], sector[440:]
        events = [
            (0, EventType.S_CRTM_VERSION, b"vstack demo firmware\0", None),
            *((index, EventType.SEPARATOR, bytes(4), None) for index in range(8)),
            (4, EventType.ACTION, b"Calling INT 19h", None),
            (4, EventType.IPL, b"MBR", code),
            (5, EventType.IPL_PARTITION_DATA, b"MBR PARTITION TABLE", table),
        ]
        log = b""
        for index, kind, data, measured in events:
            digest = hashlib.sha1(data if measured is None else measured).digest()
            pcr.extend(self._tpm, index, digest)
            log += _EVENT.pack(index, kind, digest, len(data)) + data
        return log
