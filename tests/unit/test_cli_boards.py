"""`hwtpm boards` and `hwtpm list` as programs and people see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from spi_address_rig import URL, Counting, plugged
from spidev_rig import PATH, served

from hwtpm.boards import shelf
from hwtpm.boards.attached import attached
from hwtpm.cli.app import APP
from hwtpm.cli.program import run
from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engine import Engine
from hwtpm.tis_spi.virtual import PROFILES, Habits, VirtualSpiChip
from hwtpm.tis_spi.virtual.habits import Miso
from hwtpm.tis_spi.virtual.usb import VirtualUsb, installed

Call = Callable[..., tuple[int, str]]
OURS = shelf.search_path()[-1]


@pytest.fixture
def hwtpm(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    """The program, with boards of its user's own in `tmp_path`: exit code, and all it said."""
    monkeypatch.setattr(shelf, "search_path", lambda: (tmp_path, OURS))

    def call(*arguments: str) -> tuple[int, str]:
        code = run(APP, "hwtpm", arguments)
        out, err = capfd.readouterr()
        return code, out + err

    return call


def _data(answered: tuple[int, str]) -> dict[str, list[dict[str, object]]]:
    code, text = answered
    assert code == 0, text
    loaded = json.loads(text)["data"]
    assert isinstance(loaded, dict)
    return loaded


def test_list_has_every_board_and_marks_what_is_simulated(hwtpm: Call) -> None:
    boards = {
        str(each["name"]): each for each in _data(hwtpm("boards", "list", "--json"))["boards"]
    }
    assert set(boards) == set(shelf.board_files((OURS,)))
    for name, board in boards.items():
        assert board["simulated"] is name.startswith("sim-")
        assert board["verified"] is False
        assert board["problem"] == ""
    code, text = hwtpm("boards", "list")
    assert code == 0
    assert "board:sim-slb9670-ftdi" in text
    assert f"0 of {len(boards)} have been verified on hardware" in text


def test_a_wrong_file_does_not_hide_the_others_and_check_names_it(
    hwtpm: Call, tmp_path: Path
) -> None:
    wrong = tmp_path / "mine.toml"
    wrong.write_text('summary = ""')
    boards = _data(hwtpm("boards", "list", "--json"))["boards"]
    problems = {each["name"]: each["problem"] for each in boards if each["problem"]}
    assert set(problems) == {"mine"}
    for arguments in ([str(wrong)], []):
        code, text = hwtpm("boards", "check", *arguments)
        assert code == 2
        assert f"{wrong}: summary: " in text
    assert hwtpm("boards", "check", str(OURS / "letstrust-tpm.toml"))[0] == 0


def test_show_has_the_fields_by_the_names_that_errors_use(hwtpm: Call) -> None:
    code, text = hwtpm("boards", "show", "letstrust-tpm")
    assert code == 0
    assert "bus.reset.line" in text
    assert "this project has not run on this board" in text
    shown = _data(hwtpm("boards", "show", "letstrust-tpm", "--json"))
    assert shown["bus"]["path"] == "/dev/spidev0.1"  # type: ignore[call-overload]
    assert hwtpm("boards", "show", "nobodys")[0] == 3


def test_what_is_plugged_in_is_listed_untouched_with_the_address_to_paste(hwtpm: Call) -> None:
    tpm = Counting()
    with installed(plugged(tpm)) as usb:
        (device,) = [
            each
            for each in _data(hwtpm("list", "--json"))["devices"]
            if str(each["address"]).startswith("ftdi:")
        ]
        assert usb.devices[0].ports[0].counters.selects == 0
        assert (device["address"], device["chip"]) == (URL, "")
        code, text = hwtpm("list", "--probe")
        assert code == 0
        assert "TPM 1.2, SLB9670, DID_VID 001B15D1 revision 16" in text
        assert tpm.ordinals == []
        assert hwtpm("info", "--on", str(device["address"]))[0] == 0


def test_an_adapter_without_a_tpm_is_listed_with_what_is_wrong(hwtpm: Call) -> None:
    nobody = Habits(miso=Miso.ALL_ONES)
    with installed(plugged(Engine(MemoryStorage()), nobody)):
        devices = _data(hwtpm("list", "--probe", "--json"))["devices"]
    (problem,) = [each["problem"] for each in devices if each["address"] == URL]
    assert "nobody drives MISO" in str(problem)


def test_the_kernels_tpms_and_spidev_devices_are_found_by_their_files(tmp_path: Path) -> None:
    for name in ("tpm0", "tpmrm0", "spidev0.1", "tty0"):
        (tmp_path / name).touch()
    with installed(VirtualUsb()):
        found, not_looked = attached(tmp_path, tmp_path)
    assert [each.address for each in found] == [
        f"dev:{tmp_path}/tpm0",
        f"spidev:{tmp_path}/spidev0.1",
    ]
    assert not_looked == []


def test_info_through_the_real_spidev_package_says_that_the_device_is_simulated(
    spidev_shim: Path,
) -> None:
    chip = VirtualSpiChip(Engine(MemoryStorage()), PROFILES["slb9670-tpm12"])
    chip.power_on()
    with served(spidev_shim, chip) as (device, environment):
        done = subprocess.run(
            [sys.executable, "-m", "hwtpm.cli", "info", "--on", f"spidev:{PATH}", "--json"],
            env=os.environ | environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    answered = json.loads(done.stdout)
    assert answered["data"]["manufacturer"] == "HWTP"
    assert (answered["backend"], answered["real_hardware"]) == ("spidev", False)
    assert device.counters.messages > 0
