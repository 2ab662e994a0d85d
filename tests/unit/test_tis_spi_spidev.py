"""The virtual spidev: the kernel's chip select rule, and unmodified programs on the device file."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from spidev_rig import PATH, run_program, served

from hwtpm.clock import FakeClock
from hwtpm.errors import BusError, Unsupported, UsageError
from hwtpm.tis import PC_CLIENT_TPM20
from hwtpm.tis_lpc_sim import ExecutorTpm
from hwtpm.tis_spi.virtual import PROFILES, Habits, VirtualSpiChip
from hwtpm.tis_spi.virtual import spidev as module
from hwtpm.tis_spi.virtual.spidev import (
    Mode,
    SpiTransfer,
    VirtualSpidev,
    build_preload,
)

OTHER, ELSEWHERE = "/dev/spidev0.1", "/dev/spidev1.0"
DID_VID = "d1 15 1b 00"
SLB9670 = Habits(PROFILES["slb9670"].personality)
RANDOM = bytes.fromhex("8001 0000002c 00000000 0020") + bytes(range(32))
MODE_NUMBER, SPEED_NUMBER = 1, 4


class Recorder:
    """A slave that writes down its chip select and echoes."""

    def __init__(self) -> None:
        self.seen = ""
        self.low = False

    def select(self, low: bool) -> None:
        if low != self.low:
            self.seen += "[" if low else "]"
        self.low = low

    def shift(self, mosi: int) -> int:
        self.seen += chr(mosi)
        return mosi


def transfer(text: str, *, cs_change: bool = False, **options: int) -> SpiTransfer:
    tx = text.encode()
    return SpiTransfer(len(tx), tx, cs_change=cs_change, **options)


# -- the driver and the controller


@pytest.mark.parametrize(
    ("messages", "wire"),
    [
        ([[("ab", 0), ("c", 0)]], "[abc]"),
        ([[("ab", 1), ("c", 0)]], "[ab][c]"),
        ([[("ab", 0), ("c", 1)]], "[abc"),
        ([[("ab", 1)], [("c", 1)], [("d", 0)]], "[abcd]"),
        ([[("ab", 1)], [("c", 0)], [("d", 0)]], "[abc][d]"),
        ([[("", 1)], [("a", 0), ("b", 1)], [("", 0)]], "[ab]"),
        ([[("", 0)]], "[]"),
        ([[("ab", 1)], []], "[ab]"),
    ],
)
def test_chip_select_follows_cs_change(messages: list[list[tuple[str, int]]], wire: str) -> None:
    slave = Recorder()
    device = VirtualSpidev({PATH: slave})
    for transfers in messages:
        device.message(PATH, [transfer(text, cs_change=bool(cs)) for text, cs in transfers])
    assert slave.seen == wire


def test_the_same_transfer_twice_is_two_transfers() -> None:
    slave = Recorder()
    VirtualSpidev({PATH: slave}).message(PATH, [transfer("a", cs_change=True)] * 3)
    assert slave.seen == "[a][a][a"


def test_a_kept_chip_select_ends_when_the_bus_turns_to_another_device() -> None:
    slaves = {path: Recorder() for path in (PATH, OTHER, ELSEWHERE)}
    device = VirtualSpidev(slaves)
    device.message(PATH, [transfer("a", cs_change=True)])
    device.message(ELSEWHERE, [transfer("b")])
    assert slaves[PATH].seen == "[a"
    device.message(OTHER, [transfer("c")])
    assert slaves[PATH].seen == "[a]"


@pytest.mark.parametrize(("number", "value"), [(MODE_NUMBER, 0), (SPEED_NUMBER, 1_000_000)])
def test_a_setting_ends_a_kept_chip_select(number: int, value: int) -> None:
    slave = Recorder()
    device = VirtualSpidev({PATH: slave})
    device.message(PATH, [transfer("a", cs_change=True)])
    device.set(PATH, number, value)
    assert slave.seen == "[a]"


def test_a_message_that_fails_releases_chip_select() -> None:
    class Failing(Recorder):
        def shift(self, mosi: int) -> int:
            raise BusError("gone")

    slave = Failing()
    device = VirtualSpidev({PATH: slave})
    with pytest.raises(BusError):
        device.message(PATH, [transfer("a", cs_change=True)])
    assert not slave.low


def test_without_chip_select_nothing_is_selected() -> None:
    slave = Recorder()
    device = VirtualSpidev({PATH: slave})
    device.set(PATH, MODE_NUMBER, Mode.NO_CS)
    device.message(PATH, [transfer("a")])
    assert slave.seen == "a"


def test_an_inverted_chip_select_selects_between_messages() -> None:
    slave = Recorder()
    device = VirtualSpidev({PATH: slave})
    device.set(PATH, MODE_NUMBER, Mode.CS_HIGH)
    device.message(PATH, [transfer("a")])
    assert slave.seen == "[]a["


def test_on_the_wrong_edge_nothing_comes_back() -> None:
    chip = VirtualSpiChip(ExecutorTpm(lambda command, locality: RANDOM), SLB9670)
    chip.power_on()
    device = VirtualSpidev({PATH: chip})
    read = SpiTransfer(8, bytes.fromhex("83 d4 0f 00") + bytes(4), reads=True)
    for mode, seen in ((0, DID_VID), (1, "ff ff ff ff"), (2, "ff ff ff ff"), (3, DID_VID)):
        device.set(PATH, MODE_NUMBER, mode)
        assert device.message(PATH, [read])[0][4:].hex(" ") == seen


def test_delays_pass_on_the_clock() -> None:
    clock = FakeClock()
    device = VirtualSpidev({PATH: Recorder()}, clock=clock)
    device.message(PATH, [transfer("a", delay_us=250)])
    assert clock.slept_s == [0.00025]


def test_each_transfer_takes_whole_units_of_the_buffer_in_each_direction() -> None:
    device = VirtualSpidev({PATH: Recorder()}, buffer_size=256, alignment=128)
    device.message(PATH, [transfer("a"), transfer("b"), SpiTransfer(128, reads=True)])
    with pytest.raises(OSError, match="384 bytes") as raised:
        device.message(PATH, [transfer("a"), transfer("b"), transfer("c")])
    assert raised.value.errno == errno.EMSGSIZE


def test_words_have_8_bits() -> None:
    device = VirtualSpidev({PATH: Recorder()})
    with pytest.raises(OSError, match="8 bits") as raised:
        device.message(PATH, [transfer("ab", bits_per_word=16)])
    assert raised.value.errno == errno.EINVAL


def test_only_paths_of_spidev_can_be_served() -> None:
    with pytest.raises(UsageError, match="/dev/tpm0"):
        VirtualSpidev({"/dev/tpm0": Recorder()})


# -- programs


def run(what: str, environment: dict[str, str]) -> object:
    return run_program("spidev_program.py", [what], environment)


def chip(habits: Habits = SLB9670) -> VirtualSpiChip:
    made = VirtualSpiChip(ExecutorTpm(lambda command, locality: RANDOM), habits)
    made.power_on()
    return made


def test_the_package_configures_the_device(spidev_shim: Path) -> None:
    with served(spidev_shim, chip()) as (device, environment):
        assert run("settings", environment) == [0, 10_000_000, 8, False, errno.EINVAL]
    assert device.counters.calls == 0


def test_the_package_moves_bytes(spidev_shim: Path) -> None:
    with served(spidev_shim, chip()) as (device, environment):
        whole, access, header_only = run("package", environment)  # type: ignore[misc]
    assert whole == f"00 00 00 01 {DID_VID}"
    assert access == "00 00 00 01 a1"
    # Four zeros are no header for the chip.
    assert header_only == "00 00 00 ff"
    counters = device.counters
    assert (counters.messages, counters.reads, counters.writes) == (2, 1, 1)


def test_a_batch_is_one_system_call_and_one_chip_select_for_each_transfer(
    spidev_shim: Path,
) -> None:
    slave = chip()
    with served(spidev_shim, slave) as (device, environment):
        assert run("batch", environment) == " ".join([f"00 00 00 01 {DID_VID}"] * 3)
    assert (device.counters.calls, device.counters.transfers) == (1, 3)
    assert (slave.counters.transactions, slave.counters.cs_edges) == (3, 6)


@pytest.mark.parametrize("waits", [0, 1, 3])
def test_wait_states_can_be_polled_under_one_chip_select(spidev_shim: Path, waits: int) -> None:
    slave = chip(Habits(SLB9670.personality, read_waits=(waits,)))
    with served(spidev_shim, slave) as (device, environment):
        assert run("polling", environment) == [waits, DID_VID]
    assert device.counters.calls == waits + 2
    assert slave.counters.transactions == 1


def test_a_copied_descriptor_is_the_device(spidev_shim: Path) -> None:
    with served(spidev_shim, chip()) as (_, environment):
        assert run("copies", environment) == [500_000, f"00 00 00 01 {DID_VID}"]


def test_what_the_driver_refuses(spidev_shim: Path) -> None:
    with served(spidev_shim, chip()) as (_, environment):
        assert run("refusals", environment) == [
            errno.EMSGSIZE,
            errno.EMSGSIZE,
            errno.EINVAL,
            errno.EINVAL,
            errno.ENOTTY,
            errno.EMSGSIZE,
            errno.EMSGSIZE,
            errno.ENOENT,
        ]
        assert run("empty_message", environment) == ""


def test_a_tpm_command_over_the_package(spidev_shim: Path) -> None:
    slave = chip(Habits(PC_CLIENT_TPM20, busy_polls=2))
    with served(spidev_shim, slave) as (device, environment):
        assert run("command", environment) == RANDOM.hex()
    assert device.counters.messages == slave.counters.transactions


def test_what_the_simulation_raises_is_an_io_error_there_and_raised_here(spidev_shim: Path) -> None:
    class Failing(Recorder):
        def shift(self, mosi: int) -> int:
            raise BusError("engine is gone")

    seen = []
    with (
        pytest.raises(BusError, match="engine is gone"),
        served(spidev_shim, Failing()) as (_, environment),
    ):
        seen.append(run("failing", environment))
    assert seen == [errno.EIO]


def test_without_its_server_there_is_no_device(spidev_shim: Path) -> None:
    with served(spidev_shim, chip()) as (_, environment):
        pass
    assert run("opening", environment) == errno.ENODEV
    del environment["HWTPM_VIRTUAL_SPIDEV"]
    assert run("opening", environment) == errno.ENOENT


def test_a_shim_that_does_not_build_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int main(void) { return nothing; }\n")
    monkeypatch.setattr(module, "_SOURCE", source)
    with pytest.raises(Unsupported, match="nothing"):
        build_preload(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="C compiler"):
        build_preload(tmp_path)
