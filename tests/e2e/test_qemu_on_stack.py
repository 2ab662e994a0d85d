"""An unmodified QEMU with SeaBIOS on a vTPM of a running stack: boot, reset, quit, kill, boot."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from e2e_stack import Stack, wait_until

from hwtpm.client import pcr
from hwtpm.client.session import Tpm
from hwtpm.tpm12 import eventlog
from hwtpm.transport.address import open_transport
from vstack.qemu_tis.machine import QemuGuest

BOOT_PCRS = range(8)


def _pcrs(address: str) -> dict[int, bytes]:
    with Tpm(open_transport(address)) as tpm:
        return pcr.read_many(tpm, BOOT_PCRS).by_index()


@pytest.mark.parametrize("engine", ["engine", "libtpms"])
def test_boot_reset_quit_and_boot_again_measure_the_same(stack: Stack, engine: str) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    shown = stack.json("vstack", "vtpm", "create", "a", "--engine", engine)
    with QemuGuest(Path(shown["qemu"])) as guest:
        guest.wait_for_text()
        first = _pcrs(shown["tpm"])
        assert eventlog.replay(eventlog.parse(guest.event_log())) == first
        assert stack.json("vstack", "vtpm", "show", "a")["guest_attached"] is True
        with Tpm(open_transport(shown["tpm"])) as tpm:
            pcr.extend(tpm, 0, b"\x01" * 20)
        guest.system_reset()
        guest.wait_for_text()
        assert _pcrs(shown["tpm"]) == first
        guest.quit()
    wait_until(lambda: not stack.json("vstack", "vtpm", "show", "a")["guest_attached"])
    with QemuGuest(Path(shown["qemu"])) as guest:
        guest.wait_for_text()
        assert _pcrs(shown["tpm"]) == first
        os.kill(guest.pid, signal.SIGKILL)
    wait_until(lambda: not stack.json("vstack", "vtpm", "show", "a")["guest_attached"])
    with QemuGuest(Path(shown["qemu"])) as guest:
        guest.wait_for_text()
        assert _pcrs(shown["tpm"]) == first


def test_a_guest_whose_vtpm_dies_goes_on_and_has_it_back_after_its_reset(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    shown = stack.json("vstack", "vtpm", "create", "a")
    with QemuGuest(Path(shown["qemu"])) as guest:
        guest.wait_for_text()
        first = _pcrs(shown["tpm"])
        os.kill(shown["pid"], signal.SIGKILL)
        wait_until(lambda: stack.json("vstack", "vtpm", "show", "a").get("pid", 0) != shown["pid"])
        guest.system_reset()
        guest.wait_for_text()
        assert _pcrs(shown["tpm"]) == first
        guest.quit()
