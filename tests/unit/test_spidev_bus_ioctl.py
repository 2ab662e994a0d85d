"""The spidev bus through the real `spidev` package and real ioctls, on the virtual device."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from spidev_rig import Wire, run_program, served

from hwtpm.tis import PC_CLIENT_TPM20
from hwtpm.tis_lpc_sim import ExecutorTpm
from hwtpm.tis_spi.virtual import PROFILES, Habits, VirtualSpiChip
from hwtpm.tis_spi.virtual.habits import Miso

SLB9670 = Habits(PROFILES["slb9670"].personality)
RANDOM = bytes.fromhex("8001 0000002c 00000000 0020") + bytes(range(32))


def chip(habits: Habits = SLB9670) -> VirtualSpiChip:
    made = VirtualSpiChip(ExecutorTpm(lambda command, locality: RANDOM), habits)
    made.power_on()
    return made


def run(what: str, environment: dict[str, str], *arguments: str) -> object:
    return run_program("spidev_bus_program.py", [what, *arguments], environment)


def test_a_batch_is_one_ioctl(spidev_shim: Path) -> None:
    slave = chip()
    with served(spidev_shim, slave) as (device, environment):
        seen, counters = run("batch", environment)  # type: ignore[misc]
    assert seen == ["01 d1151b00", "01", "01 a1"]
    assert counters == {"ioctls": 1, "transfers": 3, "bytes": 18, "releases": 0}
    assert (device.counters.calls, device.counters.transfers) == (1, 3)
    assert (slave.counters.transactions, slave.counters.cs_edges) == (3, 6)


@pytest.mark.parametrize("alignment", [8, 64, 128])
def test_the_limits_hold_on_every_kernel(spidev_shim: Path, alignment: int) -> None:
    with served(spidev_shim, chip(), alignment=alignment) as (device, environment):
        assert run("widest", environment) == [32, 1, 2]
    assert device.counters.calls == 3


def test_a_known_alignment_makes_messages_longer(spidev_shim: Path) -> None:
    with served(spidev_shim, chip(), alignment=8) as (device, environment):
        assert run("widest", environment, "8") == [56, 1, 1]
    assert device.counters.calls == 2


@pytest.mark.parametrize(("waits", "ioctls"), [(0, 8), (2, 12)])
def test_wait_states_are_polled_under_one_chip_select(
    spidev_shim: Path, waits: int, ioctls: int
) -> None:
    wire = Wire(chip(replace(SLB9670, read_waits=(waits,), write_waits=(waits,))))
    with served(spidev_shim, wire) as (device, environment):
        seen, counters = run("stretch", environment)  # type: ignore[misc]
    assert seen == ["d1151b00", "", "a1"]
    assert (counters["ioctls"], counters["releases"]) == (ioctls, 0)
    assert device.counters.calls == ioctls
    assert wire.slave.counters.transactions == 4
    assert not wire.low


@pytest.mark.parametrize("waits", [0, 1, 3])
def test_the_driver_runs_a_command_by_single_accesses(spidev_shim: Path, waits: int) -> None:
    habits = Habits(PC_CLIENT_TPM20, busy_polls=2, read_waits=(waits,), write_waits=(0, waits))
    with served(spidev_shim, chip(habits)) as (_, environment):
        assert run("host", environment) == [
            f"{PC_CLIENT_TPM20.did_vid:08x}",
            RANDOM.hex(),
        ]


def test_the_planner_runs_commands_in_two_ioctls_and_in_one(spidev_shim: Path) -> None:
    habits = Habits(replace(PC_CLIENT_TPM20, burst_limit=64))
    with served(spidev_shim, chip(habits)) as (_, environment):
        assert run("planned", environment) == [RANDOM.hex(), {"STRICT": 2, "FAST": 1}]


@pytest.mark.parametrize(
    ("habits", "kind"),
    [
        (replace(SLB9670, read_waits=(9,)), "timeout"),
        (replace(SLB9670, miso=Miso.ALL_ZEROS), "timeout"),
    ],
)
def test_a_chip_that_never_gets_ready_is_released(
    spidev_shim: Path, habits: Habits, kind: str
) -> None:
    wire = Wire(chip(habits))
    with served(spidev_shim, wire) as (_, environment):
        stretched, again = run("faulty", environment)  # type: ignore[misc]
    assert stretched["kind"] == kind
    assert again.startswith("[Captured(status=0")
    assert not wire.low


class Failing(Wire):
    """The device fails at one byte, as the kernel would tell it."""

    def __init__(self, slave: VirtualSpiChip, at: int, code: int) -> None:
        super().__init__(slave)
        self.at = at
        self.code = code

    def shift(self, mosi: int) -> int:
        if self.shifted == self.at:
            self.shifted += 1
            raise OSError(self.code, "it broke")
        return super().shift(mosi)


@pytest.mark.parametrize(
    ("at", "code", "kind"),
    [
        (0, errno.EIO, "bus"),
        (5, errno.ENODEV, "not-found"),
        (9, errno.EIO, "bus"),
        (12, errno.ESHUTDOWN, "not-found"),
    ],
)
def test_a_device_that_fails_is_released(spidev_shim: Path, at: int, code: int, kind: str) -> None:
    wire = Failing(chip(), at, code)
    with served(spidev_shim, wire) as (_, environment):
        failed, again = run("faulty", environment)  # type: ignore[misc]
    assert failed["kind"] == kind
    assert "d1" in again
    assert not wire.low


def test_an_unplugged_chip_reads_all_ones_and_is_released(spidev_shim: Path) -> None:
    wire = Wire(chip(replace(SLB9670, unplug_after_bytes=6)))
    with served(spidev_shim, wire) as (_, environment):
        seen, again = run("faulty", environment)  # type: ignore[misc]
    assert seen == str(b"\xff" * 4)
    assert "status=255" in again
    assert not wire.low


def test_no_such_device(spidev_shim: Path) -> None:
    with served(spidev_shim, chip()) as (_, environment):
        pass
    del environment["HWTPM_VIRTUAL_SPIDEV"]
    seen = run("opening", environment)
    assert isinstance(seen, dict)
    assert seen["kind"] == "not-found"
    assert "there is no such device" in seen["message"]


def test_a_device_that_went_away_while_it_was_opened(spidev_shim: Path) -> None:
    with served(spidev_shim, chip()) as (_, environment):
        pass
    seen = run("opening", environment)
    assert isinstance(seen, dict)
    assert (seen["kind"], "gone" in seen["message"]) == ("not-found", True)
