"""Addresses: what opens, what it says it is, and that nothing ever stands in for something else."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hwtpm.client import Tpm, info, nv, pcr
from hwtpm.errors import (
    Busy,
    DeviceNotFound,
    HwtpmError,
    StateError,
    Unsupported,
    UsageError,
)
from hwtpm.tis import Timeouts
from hwtpm.tpm12.commands.capability import GetCapability, GetCapabilityReply
from hwtpm.tpm12.const import Capability, CapProperty, NvPermission
from hwtpm.tpm12.frame import build_response, error_response, ordinal_of
from hwtpm.tpm12.rc import Rc
from hwtpm.transport import Deadlines, open_transport
from hwtpm.transport.address import SCHEMES, kept_in
from hwtpm.transport.simulated import power_on_chip

KINDS = ["sim", "libtpms", "swtpm"]
FREE_FOR_ALL = NvPermission.OWNERREAD | NvPermission.OWNERWRITE


@pytest.mark.parametrize(
    "address",
    ["", "sim", "/dev/tpm0", "tpm0", "SIM:", "sims:", "ftd://ftdi:232h/1", "spi:/dev/x", "://"],
)
def test_unknown_address_is_refused_with_all_known_forms(address: str) -> None:
    with pytest.raises(UsageError, match="no address of a TPM") as failure:
        open_transport(address)
    for scheme in SCHEMES:
        assert scheme.form in failure.value.hint


@pytest.mark.parametrize("address", ["swtpm:", "dev:", "spidev:", "unix:", "replay:"])
def test_missing_path_is_a_usage_error_with_an_example(address: str) -> None:
    with pytest.raises(UsageError, match="path is missing") as failure:
        open_transport(address)
    assert failure.value.hint.startswith(f"write {address}")


@pytest.mark.parametrize(
    "rest",
    ["", "host", "host:", ":99", "host:0", "host:65536", "host:x", "::1:99", "[::1]", "host:٣"],
)
def test_malformed_tcp_address_is_a_usage_error(rest: str) -> None:
    with pytest.raises(UsageError, match="no host and port"):
        open_transport(f"tcp:{rest}")


@pytest.mark.parametrize("address", ["dev:/dev/tpm0", "unix:x", "tcp:h:1", "replay:x"])
def test_locality_where_none_can_be_chosen_is_unsupported(address: str) -> None:
    with pytest.raises(Unsupported, match="not from 2"):
        open_transport(address, locality=2)


def test_locality_out_of_range_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no locality 5"):
        open_transport("libtpms:", locality=5)


@pytest.mark.parametrize("address", ["dev:/nonexistent/tpm0", "unix:/nonexistent/tpm"])
def test_what_is_not_there_is_not_replaced_by_a_simulator(address: str) -> None:
    with pytest.raises(DeviceNotFound, match="there is no"):
        open_transport(address)


@pytest.mark.parametrize("kind", KINDS)
def test_software_tpm_is_started_and_says_that_it_is_not_real(kind: str, tmp_path: Path) -> None:
    address = f"{kind}:{tmp_path / 'state'}"
    with Tpm(open_transport(address)) as tpm:
        attached = tpm.attached
        assert (attached.address, attached.backend) == (address, kind)
        assert not attached.real_hardware
        assert attached.detail
        assert pcr.read(tpm, 0) == bytes(20)


@pytest.mark.parametrize("kind", KINDS)
def test_state_in_a_directory_survives_and_pcrs_do_not(kind: str, tmp_path: Path) -> None:
    address = f"{kind}:{tmp_path / 'state'}"
    with Tpm(open_transport(address)) as tpm:
        nv.define(tpm, 0x1000, 4, FREE_FOR_ALL)
        nv.write(tpm, 0x1000, b"kept")
        pcr.extend(tpm, 0, bytes(20))
    with Tpm(open_transport(address)) as tpm:
        assert nv.read(tpm, 0x1000) == b"kept"
        assert pcr.read(tpm, 0) == bytes(20)


@pytest.mark.parametrize("kind", ["sim", "libtpms"])
def test_without_a_directory_every_opening_is_a_new_tpm(kind: str) -> None:
    for _ in range(2):
        with Tpm(open_transport(f"{kind}:")) as tpm:
            assert nv.indices(tpm) == () or 0x1000 not in nv.indices(tpm)
            nv.define(tpm, 0x1000, 4, FREE_FOR_ALL)


@pytest.mark.parametrize("kind", KINDS)
def test_commands_come_from_the_chosen_locality(kind: str, tmp_path: Path) -> None:
    with Tpm(open_transport(f"{kind}:{tmp_path / 'state'}", locality=2)) as tpm:
        extended = pcr.extend(tpm, 20, bytes(20))
        pcr.reset(tpm, [20])
        assert pcr.read(tpm, 20) != extended
    with Tpm(open_transport(f"{kind}:{tmp_path / 'state'}")) as tpm:
        with pytest.raises(HwtpmError) as failure:
            pcr.reset(tpm, [20])
        assert getattr(failure.value, "rc", None) == Rc.NOTLOCAL


def test_state_directory_has_one_user_at_a_time(tmp_path: Path) -> None:
    with Tpm(open_transport(f"libtpms:{tmp_path}")), pytest.raises(Busy):
        open_transport(f"sim:{tmp_path}")


def test_damaged_state_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "permanent").write_bytes(b"garbage")
    for _ in range(2):
        with pytest.raises(StateError):
            open_transport(f"libtpms:{tmp_path}")
    assert (tmp_path / "permanent").read_bytes() == b"garbage"
    with Tpm(open_transport("libtpms:")) as tpm:
        assert info.info(tpm).manufacturer == "IBM"


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("sim:", "sim:/d"),
        ("swtpm:", "swtpm:/d"),
        ("sim:/mine", "sim:/mine"),
        ("board:sim-slb9670-ftdi", "board:sim-slb9670-ftdi:/d"),
        ("board:sim-slb9670-ftdi:/mine", "board:sim-slb9670-ftdi:/mine"),
        ("board:letstrust-tpm", "board:letstrust-tpm"),
        ("board:nobodys", "board:nobodys"),
        ("dev:/dev/tpm0", "dev:/dev/tpm0"),
    ],
)
def test_a_simulated_tpm_can_be_given_a_place_to_be_kept(address: str, kept: str) -> None:
    assert kept_in(address, Path("/d")) == kept


def test_closing_twice_is_allowed_and_use_afterwards_is_a_usage_error() -> None:
    transport = open_transport("libtpms:")
    transport.close()
    transport.close()
    with pytest.raises(UsageError, match="closed"):
        transport.execute(bytes.fromhex("00c1 0000000a 0000000a"))


class Started:
    """A software TPM that answers everything with one return code."""

    description = "test double"
    established = False

    def __init__(self, answer: int) -> None:
        self.answer = answer

    def power_on(self) -> None: ...

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        return bytes.fromhex("00c4 0000000a") + self.answer.to_bytes(4, "big")

    def reset_established(self, locality: int) -> int:
        return 0

    def hash_start(self) -> None: ...

    def hash_data(self, data: bytes) -> None: ...

    def hash_end(self) -> None: ...

    def close(self) -> None: ...


def test_tpm_that_was_started_already_is_left_as_it_is() -> None:
    tis = power_on_chip(Started(Rc.INVALID_POSTINIT), "sim:", locality=0, deadlines=Deadlines())
    tis.close()


def test_tpm_that_cannot_be_started_is_an_error() -> None:
    with pytest.raises(HwtpmError, match="TPM_Startup on sim:: TPM_FAIL"):
        power_on_chip(Started(Rc.FAIL), "sim:", locality=0, deadlines=Deadlines())


class Announcing(Started):
    """A chip that is started and asks for these microseconds."""

    def __init__(self, answers: dict[int, tuple[int, ...]]) -> None:
        super().__init__(Rc.SUCCESS)
        self.answers = answers

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        if ordinal_of(command) != GetCapability.command.ordinal:
            return super().execute(command, locality)
        request = GetCapability.decode(command[10:])
        assert request.cap_area == Capability.PROPERTY
        values = self.answers.get(int.from_bytes(request.sub_cap, "big"))
        if values is None:
            return error_response(Rc.BAD_MODE)
        return build_response(GetCapabilityReply(struct.pack(f">{len(values)}I", *values)).encode())


def test_a_chip_gets_the_timeouts_that_it_asks_for_and_never_less_than_the_default() -> None:
    chip = Announcing({CapProperty.TIS_TIMEOUT: (900_000, 1, 5_000_000, 0)})
    tis = power_on_chip(chip, "sim:", locality=0, deadlines=Deadlines())
    timeouts, defaults = tis.host.timeouts, Timeouts()
    assert (timeouts.a_s, timeouts.b_s) == (0.9, defaults.b_s)
    assert (timeouts.c_s, timeouts.d_s) == (5.0, defaults.d_s)
    assert (timeouts.short_s, timeouts.long_s) == (defaults.short_s, defaults.long_s)


def test_deadlines_are_the_longer_of_ours_and_of_what_the_chip_announces() -> None:
    announced = {CapProperty.DURATION: (4_000_000, 30_000_000, 400_000_000)}
    limits = Deadlines(1.0, 60.0, 300.0)
    tis = power_on_chip(Announcing(announced), "sim:", locality=0, deadlines=limits)
    longer = limits.at_least(tis.host.timeouts)
    assert (longer.short_s, longer.medium_s, longer.long_s) == (4.0, 60.0, 400.0)


@pytest.mark.parametrize("values", [(), (7,), (1, 2, 3, 4, 5)])
def test_a_chip_that_announces_nonsense_is_driven_by_the_defaults(values: tuple[int, ...]) -> None:
    nonsense = dict.fromkeys((CapProperty.TIS_TIMEOUT, CapProperty.DURATION), values)
    tis = power_on_chip(Announcing(nonsense), "sim:", locality=0, deadlines=Deadlines())
    assert tis.host.timeouts == Timeouts()


@pytest.mark.parametrize(("maker", "other"), [("sim", "libtpms"), ("libtpms", "sim")])
def test_the_state_of_another_engine_is_refused_by_name_and_kept(
    maker: str, other: str, tmp_path: Path
) -> None:
    with Tpm(open_transport(f"{maker}:{tmp_path}")) as tpm:
        pcr.read(tpm, 0)
    before = (tmp_path / "permanent").read_bytes()
    with pytest.raises(StateError) as failure:
        open_transport(f"{other}:{tmp_path}")
    assert failure.value.message.startswith(f"{other}:{tmp_path}: ")
    assert failure.value.hint
    assert (tmp_path / "permanent").read_bytes() == before


def test_deadline_follows_the_duration_class() -> None:
    limits = Deadlines(1.0, 2.0, 3.0)
    header = bytes.fromhex("00c1 0000000a")
    assert limits.of(header + (0x15).to_bytes(4, "big")) == 1.0
    assert limits.of(header + (0x16).to_bytes(4, "big")) == 2.0
    assert limits.of(header + (0x1F).to_bytes(4, "big")) == 3.0
    assert limits.of(header + b"\xff" * 4) == 3.0
    assert limits.of(b"") == 3.0
