"""The programs as a user meets them: life of a stack, its vTPMs, errors and exit codes."""

from __future__ import annotations

import os
import select
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from e2e_stack import PROGRAMS, Stack

from hwtpm.client import nv, pcr
from hwtpm.client.rsa import from_public_key
from hwtpm.client.session import Tpm
from hwtpm.softtpm.engines import ENGINES
from hwtpm.tpm12.const import NvPermission
from hwtpm.transport.address import open_transport
from vstack.demo.owner import take


def test_a_stack_lives_through_up_create_list_show_status_down(stack: Stack) -> None:
    up = stack.json("vstack", "up", "--chip", "sim:")
    assert up["manager"]["chip"]["real_hardware"] is False
    created = stack.json("vstack", "vtpm", "create", "web-1")
    assert created["running"] is True
    listed = stack.json("vstack", "vtpm", "list")["vtpms"]
    assert [one["name"] for one in listed] == ["web-1"]
    shown = stack.json("vstack", "vtpm", "show", "web-1")
    assert shown["uuid"] == created["uuid"]
    status = stack.json("vstack", "status")
    assert status["manager"]["manager"] == up["manager"]["manager"]
    assert status["manager"]["vtpms"] == 1
    assert stack.json("vstack", "down") == {"stopped": True}
    assert stack.processes() == []


def test_text_says_what_it_runs_on_and_that_it_is_no_real_hardware(stack: Stack) -> None:
    done = stack.run("vstack", "up", "--chip", "sim:")
    assert "not real hardware" in done.stdout
    assert "sim:" in done.stdout
    assert "starting the vTPM manager" in done.stderr


def test_a_vtpm_answers_hwtpm_on_its_raw_socket(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    address = stack.json("vstack", "vtpm", "create", "a")["tpm"]
    values = stack.json("hwtpm", "pcr", "--on", address)["pcrs"]
    assert len(values) == 24
    assert stack.run("hwtpm", "selftest", "--on", address).returncode == 0
    assert len(stack.run("hwtpm", "random", "16", "--on", address).stdout) > 32


def test_two_vtpms_have_separate_pcrs_and_endorsement_keys(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    first = stack.json("vstack", "vtpm", "create", "a")
    second = stack.json("vstack", "vtpm", "create", "b", "--engine", "libtpms")
    assert first["ek"] != second["ek"]
    with Tpm(open_transport(first["tpm"])) as a, Tpm(open_transport(second["tpm"])) as b:
        pcr.extend(a, 10, b"\x01" * 20)
        assert pcr.read(b, 10) == bytes(20)
        assert pcr.read(a, 10) != bytes(20)


def test_vtpms_take_their_keys_from_one_pool_and_none_is_taken_twice(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:", "--key-pool")
    names = [f"pooled-{number}" for number in range(4)]
    assert len({stack.json("vstack", "vtpm", "create", name)["ek"] for name in names}) == 4
    assert stack.json("vstack", "down") == {"stopped": True}
    assert stack.processes() == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_restart_keeps_vtpms_with_their_keys_and_nv_areas(stack: Stack, engine: str) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    before = stack.json("vstack", "vtpm", "create", "a", "--engine", engine)
    with Tpm(open_transport(before["tpm"])) as tpm:
        nv.define(tpm, 0x1000, 4, NvPermission.OWNERREAD | NvPermission.OWNERWRITE)
        nv.write(tpm, 0x1000, b"kept")
    stack.run("vstack", "down")
    stack.run("vstack", "up")
    after = stack.json("vstack", "vtpm", "show", "a")
    assert (after["uuid"], after["ek"]) == (before["uuid"], before["ek"])
    with Tpm(open_transport(after["tpm"])) as tpm:
        assert nv.read(tpm, 0x1000) == b"kept"


def test_everything_on_disk_and_every_socket_is_for_its_owner_only(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    stack.run("vstack", "vtpm", "create", "a")
    for path in stack.root.rglob("*"):
        assert path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) == 0, path


def test_no_key_of_the_manager_stands_in_clear_beside_its_store(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    stack.run("vstack", "vtpm", "create", "a")
    copies = list((stack.root / "state" / "vtpms" / "a").glob("state.*"))
    assert copies
    ek_prime_marker = b"HWTPM12"  # the engine's permanent blob, which holds the vTPM's keys
    for path in [*copies, stack.root / "state" / "manager.db"]:
        assert ek_prime_marker not in path.read_bytes(), path


def test_commands_without_a_stack_say_how_to_start_it(stack: Stack) -> None:
    code, error = stack.error("vstack", "status")
    assert code == 3
    assert "vstack up" in error["hint"]


def test_up_without_a_chip_does_not_choose_one(stack: Stack) -> None:
    code, error = stack.error("vstack", "up")
    assert code == 2
    assert "chip" in error["message"]
    assert stack.processes() == []


def test_a_second_stack_on_the_same_state_is_busy(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    code, error = stack.error("vstack", "up")
    assert (code, error["kind"]) == (12, "busy")
    assert stack.json("vstack", "status")["vtpms"] == []


def test_names_and_engines_that_do_not_exist_are_usage_errors(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    assert stack.error("vstack", "vtpm", "create", "../a")[0] == 2
    assert stack.error("vstack", "vtpm", "create", "a", "--engine", "nosuch")[0] == 2
    assert stack.error("vstack", "vtpm", "show", "a")[0] == 3
    stack.run("vstack", "vtpm", "create", "a")
    assert stack.error("vstack", "vtpm", "create", "a")[0] == 2


def test_a_chip_that_cannot_be_opened_leaves_nothing_running(stack: Stack) -> None:
    code, _ = stack.error("vstack", "up", "--chip", "dev:/dev/nosuchtpm")
    assert code == 3
    assert stack.processes() == []


def test_another_chip_is_refused_and_nothing_is_changed(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    stack.run("vstack", "vtpm", "create", "a")
    stack.run("vstack", "down")
    state = stack.root / "state"

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}

    before = contents()
    code, error = stack.error("vstack", "up", "--chip", f"sim:{stack.root / 'other'}")
    assert (code, error["kind"]) == (13, "state")
    assert "another chip" in error["message"]
    assert contents() == before
    assert stack.json("vstack", "up")["vtpms"][0]["running"] is True


def test_a_lost_description_neither_hides_nor_overwrites_the_state_of_a_vtpm(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    stack.run("vstack", "vtpm", "create", "a")
    stack.run("vstack", "vtpm", "create", "b")
    stack.run("vstack", "down")
    directory = stack.root / "state" / "vtpms" / "a"
    description = (directory / "vtpm.json").read_bytes()
    (directory / "vtpm.json").unlink()
    copies = {path: path.read_bytes() for path in directory.iterdir()}
    up = {one["name"]: one for one in stack.json("vstack", "up")["vtpms"]}
    assert up["b"]["running"] is True
    assert up["a"]["running"] is False
    assert "vtpm.json" in up["a"]["problem"]["message"]
    assert stack.error("vstack", "vtpm", "create", "a")[0] == 13
    assert {path: path.read_bytes() for path in directory.iterdir()} == copies
    (directory / "vtpm.json").write_bytes(description)
    assert stack.json("vstack", "vtpm", "start", "a")["running"] is True


def test_a_damaged_description_keeps_only_its_own_vtpm_down(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    stack.run("vstack", "vtpm", "create", "a")
    stack.run("vstack", "vtpm", "create", "b")
    stack.run("vstack", "down")
    (stack.root / "state" / "vtpms" / "a" / "vtpm.json").write_text("")
    up = {one["name"]: one["running"] for one in stack.json("vstack", "up")["vtpms"]}
    assert up == {"a": False, "b": True}


def test_a_mended_vtpm_starts_without_stopping_the_others(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    stack.run("vstack", "vtpm", "create", "a")
    stack.run("vstack", "down")
    directory = stack.root / "state" / "vtpms" / "a"
    copies = {path: path.read_bytes() for path in directory.glob("state.*")}
    for path in copies:
        path.write_bytes(b"damaged")
    assert stack.json("vstack", "up")["vtpms"][0]["running"] is False
    code, error = stack.error("vstack", "vtpm", "start", "a")
    assert (code, error["kind"]) == (13, "state")
    for path, content in copies.items():
        path.write_bytes(content)
    assert stack.json("vstack", "vtpm", "start", "a")["running"] is True


def test_two_stacks_cannot_share_a_run_directory(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    other = ["--state", str(stack.root / "other")]
    code, error = stack.error("vstack", "up", "--chip", "sim:", *other)
    assert (code, error["kind"]) == (12, "busy")
    assert stack.error("vstack", "down", *other)[0] == 2  # it is not that stack
    assert stack.json("vstack", "status")["vtpms"] == []


def test_a_lost_store_is_never_replaced_without_being_told(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    stack.run("vstack", "vtpm", "create", "a")
    stack.run("vstack", "down")
    for path in (stack.root / "state").glob("manager.db*"):
        path.unlink()
    code, error = stack.error("vstack", "up")
    assert code == 13
    assert "--new-manager" in error["hint"]
    up = stack.json("vstack", "up", "--new-manager")
    assert up["vtpms"][0]["running"] is False
    assert "has no key for it" in up["vtpms"][0]["problem"]["message"]


def test_a_run_directory_with_too_long_a_path_is_named(stack: Stack) -> None:
    long = str(stack.root / ("x" * 120))
    assert stack.error("vstack", "status", "--run", long)[0] == 4
    assert stack.error("vstack", "up", "--chip", "sim:", "--run", long)[0] == 2


def test_a_name_too_long_for_sockets_is_refused_and_the_next_start_works(stack: Stack) -> None:
    run = ("--run", str(stack.root / ("r" * 40)))
    stack.run("vstack", "up", "--chip", "sim:", *run)
    try:
        assert stack.error("vstack", "vtpm", "create", "n" * 63, *run)[0] == 2
    finally:
        stack.run("vstack", "down", *run)
    assert stack.json("vstack", "up")["vtpms"] == []


def test_a_copied_vtpm_is_refused_and_does_not_disturb_the_other(stack: Stack) -> None:
    stack.run("vstack", "up", "--chip", "sim:")
    stack.run("vstack", "vtpm", "create", "a")
    stack.run("vstack", "down")
    vtpms = stack.root / "state" / "vtpms"
    shutil.copytree(vtpms / "a", vtpms / "b")
    shown = {one["name"]: one for one in stack.json("vstack", "up")["vtpms"]}
    assert shown["a"]["running"] is True
    assert "same uuid" in shown["b"]["problem"]["message"]
    assert stack.error("vstack", "vtpm", "start", "b")[0] == 13
    with Tpm(open_transport(shown["a"]["tpm"])) as tpm:
        take(tpm, from_public_key(generate_private_key(65537, 2048).public_key()))  # saves state


def test_a_key_file_that_holds_no_hexadecimal_is_a_usage_error(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(128, 256)))
    arguments = ("--challenge", "00" * 20, "--chip-aik", str(key))
    assert Stack(tmp_path).error("vstack", "verify", str(key), *arguments)[0] == 2


def test_a_stack_keeps_no_descriptor_of_whoever_started_it(stack: Stack) -> None:
    reading, writing = os.pipe()
    up = [str(PROGRAMS / "vstack"), "up", "--chip", "sim:"]
    with os.fdopen(reading, "rb") as pipe:
        subprocess.run(up, env=stack.environment, pass_fds=[writing], timeout=100, check=True)
        os.close(writing)
        assert select.select([pipe], [], [], 20)[0], "somebody holds the other end"
        assert pipe.read() == b""
    assert stack.json("vstack", "status")["vtpms"] == []


def test_the_shells_limit_of_descriptors_does_not_limit_the_vtpms(stack: Stack) -> None:
    low = f"ulimit -Sn 40; exec {PROGRAMS / 'vstack'} up --chip sim:"
    subprocess.run(["sh", "-c", low], env=stack.environment, timeout=100, check=True)
    for name in "abcde":
        assert stack.json("vstack", "vtpm", "create", name)["running"] is True
