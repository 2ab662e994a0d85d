"""Chips on SPI by their address: simulated boards whole, and what happens where there is no chip.

Real adapters are played by the virtual ones, which a real address then finds.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from spi_address_rig import URL, Counting, plugged

from hwtpm.boards import shelf
from hwtpm.client import Tpm, nv, pcr
from hwtpm.errors import Busy, DeviceNotFound, HwtpmError, Refused, UsageError
from hwtpm.tis_lpc_sim import ExecutorTpm
from hwtpm.tis_spi.virtual.usb import VirtualUsb, installed
from hwtpm.tpm12.const import NvPermission
from hwtpm.tpm12.frame import error_response, ordinal_of
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm20 import commands as tpm20
from hwtpm.transport import open_transport

BUSES = ["ftdi", "spidev"]
FREE_FOR_ALL = NvPermission.OWNERREAD | NvPermission.OWNERWRITE
STARTUP, FORCE_CLEAR = 0x99, bytes.fromhex("00c1 0000000a 0000005d")

MINE = """
summary = "a bench"
source = "this test"
[bus]
kind = "ftdi"
url = "ftdi://ftdi:232h:BENCH/1"
clock_hz = 10_000_000
[chip]
name = "SLB9670"
did_vid = "001B15D1"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of boards that comes before this project's own."""
    ours = shelf.search_path()[-1]
    directory = tmp_path / "boards"
    directory.mkdir()
    monkeypatch.setattr(shelf, "search_path", lambda: (directory, ours))
    return directory


@pytest.mark.parametrize("bus", BUSES)
def test_a_simulated_board_is_a_started_tpm_that_says_what_it_is(bus: str) -> None:
    with Tpm(open_transport(f"board:sim-slb9670-{bus}")) as tpm:
        attached = tpm.attached
        assert (attached.backend, attached.real_hardware) == (f"sim-{bus}", False)
        assert attached.detail.startswith("TPM 1.2, SLB9670, DID_VID 001B15D1 revision 16; simul")
        assert pcr.read(tpm, 0) == bytes(20)


@pytest.mark.parametrize("bus", BUSES)
def test_a_simulated_tpm_2_is_started(bus: str) -> None:
    transport = open_transport(f"board:sim-slb9670-tpm2-{bus}")
    assert tpm20.answers_as_tpm2(transport.execute)
    assert len(tpm20.get_random(transport.execute, 40)[0]) == 40
    transport.close()


@pytest.mark.parametrize("bus", BUSES)
def test_the_state_of_a_simulated_board_is_kept_in_its_directory(bus: str, tmp_path: Path) -> None:
    address = f"board:sim-slb9670-{bus}:{tmp_path}/chip"
    for kept in (False, True):
        with Tpm(open_transport(address)) as tpm:
            assert (0x1000 in nv.indices(tpm)) is kept
            if not kept:
                nv.define(tpm, 0x1000, 4, FREE_FOR_ALL)


@pytest.mark.parametrize("bus", BUSES)
def test_a_simulated_tpm_2_stays_as_it_is_between_two_programs(bus: str, tmp_path: Path) -> None:
    address = f"board:sim-slb9670-tpm2-{bus}:{tmp_path}/chip"
    extend = bytes.fromhex(
        "8002 00000041 00000182 00000010 00000009 40000009 0000 00 0000 00000001 000b"
    ) + bytes([7] * 32)
    first = open_transport(address)
    fresh = tpm20.read_pcrs(first.execute)
    assert first.execute(extend)[6:10] == bytes(4)
    before = tpm20.read_pcrs(first.execute)
    assert before != fresh
    first.close()
    second = open_transport(address)
    assert tpm20.read_pcrs(second.execute) == before
    second.close()


@pytest.mark.parametrize("bus", BUSES)
def test_commands_come_from_the_chosen_locality(bus: str) -> None:
    with Tpm(open_transport(f"board:sim-slb9670-{bus}", locality=2)) as tpm:
        pcr.reset(tpm, [20])
    with Tpm(open_transport(f"board:sim-slb9670-{bus}")) as tpm:
        with pytest.raises(HwtpmError) as failure:
            pcr.reset(tpm, [20])
        assert getattr(failure.value, "rc", None) == Rc.NOTLOCAL


def test_several_simulated_boards_are_several_tpms() -> None:
    addresses = [f"board:sim-slb9670-{bus}" for bus in (*BUSES, *BUSES)]
    tpms = [Tpm(open_transport(address)) for address in addresses]
    for number, tpm in enumerate(tpms):
        pcr.extend(tpm, 0, bytes([number]) * 20)
    assert len({pcr.read(tpm, 0) for tpm in tpms}) == len(tpms)
    for tpm in tpms:
        tpm.close()


@pytest.mark.parametrize(
    "address",
    ["board:letstrust-tpm:/tmp/x", "board:sim-slb9670-ftdi:", "board:", "board:../x", "board:A"],
)
def test_what_names_no_board_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError):
        open_transport(address)


def test_what_is_not_attached_is_not_replaced_by_a_simulation(own: Path) -> None:
    (own / "bench.toml").write_text(MINE)
    with installed(VirtualUsb()):
        for address in (URL, "board:bench", "spidev:/dev/spidev99.0", "board:nobodys"):
            with pytest.raises(DeviceNotFound, match=r"there is no"):
                open_transport(address)


def test_a_chip_that_nobody_has_started_is_started_once_and_a_started_one_never(own: Path) -> None:
    (own / "bench.toml").write_text(MINE)
    tpm = Counting()
    with installed(plugged(tpm)):
        for address in (URL, "board:bench", URL):
            with Tpm(open_transport(address)) as opened:
                assert opened.attached.backend == "ftdi"
                assert opened.attached.real_hardware
    assert tpm.ordinals.count(STARTUP) == 1


def test_a_chip_that_cannot_be_started_is_an_error_and_lets_the_adapter_go() -> None:
    def answer(command: bytes, locality: int = 0) -> bytes:
        started = ordinal_of(command) == STARTUP
        return error_response(Rc.FAIL if started else Rc.INVALID_POSTINIT)

    with installed(plugged(ExecutorTpm(answer))):
        for _ in range(2):
            with pytest.raises(HwtpmError, match=r"TPM_Startup on ftdi://.*: TPM_FAIL"):
                open_transport(URL)


def test_another_chip_than_the_boards_is_refused(own: Path) -> None:
    (own / "bench.toml").write_text(MINE.replace("001B15D1", "00FC1050"))
    tpm = Counting()
    with installed(plugged(tpm)):
        with pytest.raises(Refused, match="DID_VID is 001B15D1, not 00FC1050"):
            open_transport("board:bench")
        assert tpm.ordinals == []
        open_transport(URL).close()


@pytest.mark.parametrize("allowed", [False, True])
def test_the_board_decides_whether_what_it_holds_may_be_destroyed(own: Path, allowed: bool) -> None:
    policy = f"[policy]\nallow_destructive = {str(allowed).lower()}\n"
    (own / "bench.toml").write_text(MINE + policy)
    tpm = Counting()
    with installed(plugged(tpm)):
        transport = open_transport("board:bench")
        if allowed:
            assert len(transport.execute(FORCE_CLEAR)) == 10
        else:
            with pytest.raises(Refused, match="its board does not allow that"):
                transport.execute(FORCE_CLEAR)
        transport.close()
    assert (ordinal_of(FORCE_CLEAR) in tpm.ordinals) is allowed


CR50 = """
summary = "a simulated chip whose header says ready too early"
source = "this test"
[bus]
kind = "BUS"
profile = "cr50"
engine = "libtpms"
clock_hz = 800_000
[chip]
name = "cr50"
did_vid = "00281AE0"
[quirks]
header_bit_valid = false
"""


@pytest.mark.parametrize("bus", BUSES)
def test_a_chip_that_always_waits_is_driven_by_the_quirks_of_its_board(own: Path, bus: str) -> None:
    (own / "cr50.toml").write_text(CR50.replace("BUS", f"sim-{bus}"))
    transport = open_transport("board:cr50")
    assert "cr50, DID_VID 00281AE0" in transport.attached.detail
    assert tpm20.answers_as_tpm2(transport.execute)
    transport.close()


def test_an_adapter_that_is_unplugged_is_a_typed_error_and_works_when_it_is_back() -> None:
    with installed(plugged(Counting())) as usb:
        tpm = Tpm(open_transport(URL))
        usb.devices[0].unplug(after=1)
        with pytest.raises(DeviceNotFound):
            pcr.read(tpm, 0)
        tpm.close()
        usb.devices[0].plug()
        with Tpm(open_transport(URL)) as again:
            assert pcr.read(again, 0) == bytes(20)


def test_an_adapter_has_one_user_at_a_time() -> None:
    with installed(plugged(Counting())):
        with Tpm(open_transport(URL)) as tpm:
            with pytest.raises(Busy):
                open_transport(URL)
            assert pcr.read(tpm, 0) == bytes(20)
        open_transport(URL).close()
