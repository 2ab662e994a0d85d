"""The program `hwtpm` as its users meet it: a process with streams and an exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from hwtpm.cli.app import APP
from hwtpm.cli.program import run
from hwtpm.tpm12.frame import build_request, build_response, error_response
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm20.const import Code
from hwtpm.tpm20.frame import build
from hwtpm.transport.address import SCHEMES
from hwtpm.transport.base import Attached
from hwtpm.transport.replay import Record

COMMAND = [sys.executable, "-m", "hwtpm.cli"]
FAKE = "libtpms:"

Answering = Callable[..., str]


@dataclass(frozen=True)
class Ended:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> dict[str, object]:
        loaded = json.loads(self.out)
        assert isinstance(loaded, dict)
        return loaded


def hwtpm(*arguments: str, env: Mapping[str, str] | None = None) -> Ended:
    clean = {name: value for name, value in os.environ.items() if name != "HWTPM_ON"}
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=clean | dict(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr.decode())


Inside = Callable[..., Ended]


@pytest.fixture
def inside(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Inside:
    """`hwtpm` in this process, where starting one would prove nothing more."""
    monkeypatch.delenv("HWTPM_ON", raising=False)

    def call(*arguments: str) -> Ended:
        code = run(APP, "hwtpm", arguments)
        sys.stderr.flush()
        out, err = capfdbinary.readouterr()
        return Ended(code, out, err.decode())

    return call


# --- what each command says ------------------------------------------------------------------


def test_info_as_text_says_what_it_is_and_that_it_is_not_real() -> None:
    ended = hwtpm("info", "--on", FAKE)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.text.splitlines()
    assert re.fullmatch(r"on libtpms: \(libtpms [\d.]+; not real hardware\)", lines[0])
    assert "manufacturer     IBM" in lines
    assert "owner            none" in lines
    assert re.search(r"^nv_locked +no$", ended.text, re.MULTILINE)


def test_info_as_json_has_all_of_it() -> None:
    ended = hwtpm("info", "--on", FAKE, "--json")
    assert (ended.code, ended.err) == (0, "")
    data = ended.json.pop("data")
    envelope = {name: value for name, value in ended.json.items() if name != "data"}
    assert envelope == {
        "schema": "hwtpm.info/1",
        "on": FAKE,
        "backend": "libtpms",
        "real_hardware": False,
        "ok": True,
    }
    assert isinstance(data, dict)
    assert list(data) == [
        "manufacturer", "spec_version", "spec_level", "errata", "firmware", "vendor_specific",
        "enabled", "active", "owned", "has_endorsement_key", "permanent", "stclear", "limits",
        "timing", "da",
    ]  # fmt: skip
    assert data["limits"]["pcrs"] == 24


def test_pcr_reads_all_or_the_given_ones(inside: Inside) -> None:
    every = inside("pcr", "--on", FAKE)
    assert len(every.text.splitlines()) == 2 + 24
    some = inside("pcr", "17", "0", "17", "--on", FAKE, "--json")
    assert some.json["data"] == {
        "pcrs": [{"index": 0, "value": "00" * 20}, {"index": 17, "value": "ff" * 20}]
    }


def test_random_prints_hex_alone_on_stdout() -> None:
    first, second = hwtpm("random", "16", "--on", FAKE), hwtpm("random", "16", "--on", FAKE)
    assert re.fullmatch(r"[0-9a-f]{32}\n", first.text)
    assert first.text != second.text
    assert "not real hardware" in first.err


def test_random_raw_is_so_many_bytes() -> None:
    ended = hwtpm("random", "5000", "--raw", "--on", FAKE)
    assert (ended.code, len(ended.out)) == (0, 5000)


def test_random_as_json(inside: Inside) -> None:
    ended = inside("random", "3", "--on", FAKE, "--json")
    data = ended.json["data"]
    assert isinstance(data, dict)
    assert re.fullmatch("[0-9a-f]{6}", data["data"])
    assert ended.err == ""


def test_selftest_runs_and_explains(inside: Inside) -> None:
    ended = inside("selftest", "--on", FAKE)
    assert ended.code == 0
    assert "all self tests passed" in ended.text
    data = inside("selftest", "--on", FAKE, "--json").json["data"]
    assert isinstance(data, dict)
    assert data["passed"] is True


def test_text_on_a_terminal_says_the_same() -> None:
    master, slave = pty.openpty()
    with subprocess.Popen([*COMMAND, "pcr", "17", "--on", FAKE], stdout=slave) as process:
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 4096):
                shown += piece
        except OSError:
            pass  # how a terminal whose other side is closed ends
        assert process.wait(60) == 0
    os.close(master)
    assert b"not real hardware" in shown
    assert b"ff" * 20 in shown


# --- how a TPM is named ----------------------------------------------------------------------


def test_no_address_is_exit_3_with_all_schemes() -> None:
    ended = hwtpm("info")
    assert (ended.code, ended.out) == (3, b"")
    for scheme in SCHEMES:
        assert scheme.form in ended.err


def test_environment_names_the_default_and_the_option_wins(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, arguments, code in ((FAKE, (), 0), ("bogus:", ("--on", FAKE), 0), ("", (), 3)):
        monkeypatch.setenv("HWTPM_ON", value)
        assert inside("pcr", "0", *arguments).code == code


def test_locality_is_passed_on(inside: Inside) -> None:
    assert inside("pcr", "0", "--on", FAKE, "--locality", "3").code == 0
    assert inside("pcr", "0", "--on", FAKE, "--locality", "9").code == 2


# --- exit codes ------------------------------------------------------------------------------


@pytest.fixture
def answering(tmp_path: Path) -> Answering:
    """Makes a replay address whose TPM answers these frames to these commands."""

    def make(*exchanges: tuple[bytes, bytes]) -> str:
        answers = [response for _, response in exchanges]

        class Scripted:
            attached = Attached("dev:/dev/tpm0", "dev", True, "a chip")

            def execute(self, command: bytes) -> bytes:
                return answers.pop(0)

            def close(self) -> None: ...

        path = tmp_path / "r.jsonl"
        recorder = Record(Scripted(), path)
        for command, _ in exchanges:
            recorder.execute(command)
        recorder.close()
        return f"replay:{path}"

    return make


READ_PCR_0 = build_request(0x15, bytes(4))


@pytest.mark.parametrize(
    ("rc", "code"),
    [
        (Rc.INVALID_POSTINIT, 6),
        (0x7777, 6),
        (Rc.AUTHFAIL, 7),
        (Rc.AUTH2FAIL, 7),
        (Rc.DEFEND_LOCK_RUNNING, 8),
    ],
)
def test_return_code_of_the_tpm_is_in_the_json_and_never_the_exit_code(
    inside: Inside, answering: Answering, rc: int, code: int
) -> None:
    ended = inside("pcr", "0", "--json", "--on", answering((READ_PCR_0, error_response(rc))))
    assert ended.code == code
    assert ended.json["ok"] is False
    error = ended.json["error"]
    assert isinstance(error, dict)
    assert (error["kind"], error["rc"], error["exit"]) == ("tpm", rc, code)
    assert error["command"] == "TPM_PcrRead"
    assert set(error) == {
        "kind", "message", "hint", "exit", "rc", "name", "meaning", "command",
    }  # fmt: skip


def test_failed_self_test_is_a_tpm_error_with_the_chips_report(
    inside: Inside, answering: Answering
) -> None:
    address = answering(
        (build_request(0x50, b""), error_response(Rc.FAILEDSELFTEST)),
        (build_request(0x54, b""), build_response(b"\0\0\0\4\xde\xad\xbe\xef")),
    )
    ended = inside("selftest", "--on", address)
    assert (ended.code, ended.out) == (6, b"")
    assert "deadbeef" in ended.err
    assert "next: power cycle" in ended.err


def test_broken_protocol_is_exit_5(inside: Inside, answering: Answering) -> None:
    ended = inside("pcr", "0", "--on", answering((READ_PCR_0, b"\x80\5\0\0\0\x0a\0\0\0\0")))
    assert ended.code == 5
    assert "0x8005" in ended.err


@pytest.mark.parametrize("tag", [0x00C4, 0x8001])
def test_a_tpm_2_that_refuses_the_tag_is_asked_as_a_tpm_2(
    inside: Inside, answering: Answering, tag: int
) -> None:
    refused = struct.pack(">HII", tag, 10, 0x1E)
    family = build(Code.GET_CAPABILITY, struct.pack(">III", 6, 0x100, 1))
    told = bytes.fromhex("8001 0000001b 00000000 01 00000006 00000001 00000100 322e3000")
    answer = bytes.fromhex("8001 00000010 00000000 0004 deadbeef")
    ended = inside(
        "random",
        "4",
        "--on",
        answering(
            (build_request(0x46, b"\0\0\0\4"), refused),
            (family, told),
            (build(Code.GET_RANDOM, b"\0\4"), answer),
        ),
    )
    assert (ended.code, ended.text) == (0, "deadbeef\n")


def test_a_tpm_12_that_refuses_the_tag_stays_a_tpm_12(inside: Inside, answering: Answering) -> None:
    refused = error_response(Rc.BADTAG)
    family = build(Code.GET_CAPABILITY, struct.pack(">III", 6, 0x100, 1))
    ended = inside("pcr", "0", "--on", answering((READ_PCR_0, refused), (family, refused)))
    assert ended.code == 6
    assert "TPM_BADTAG" in ended.err
    assert "TPM 2.0" in ended.err


def test_errors_of_opening_have_their_own_codes(inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "permanent").write_bytes(b"garbage")
    for address, code, kind in (
        ("bogus:", 2, "usage"),
        (f"unix:{tmp_path / 'none'}", 3, "not-found"),
        (f"libtpms:{tmp_path}", 13, "state"),
    ):
        ended = inside("pcr", "--on", address, "--json")
        assert ended.code == code
        error = ended.json["error"]
        assert isinstance(error, dict)
        assert (error["kind"], error["exit"]) == (kind, code)
        assert error["hint"]
        assert ended.json["on"] == address
        assert ended.json["backend"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["pcr", "x"],
        ["pcr", "--bogus"],
        ["pcr", "64", "--on", FAKE],
        ["pcr", "--on", FAKE, "--", "-1"],
        ["random", "--on", FAKE],
        ["random", "0", "--on", FAKE],
        ["random", "1048577", "--on", FAKE],
        ["random", "1", "--raw", "--json"],
        ["info", "extra"],
    ],
)
def test_nonsense_is_exit_2_in_text_and_json(inside: Inside, arguments: list[str]) -> None:
    ended = inside(*arguments)
    assert ended.code == 2
    if "--json" not in arguments:
        assert ended.out == b""
        assert ended.err.startswith("hwtpm: ")
        head, *rest = arguments
        ended = inside(head, "--json", *rest)
        assert ended.code == 2
    error = ended.json["error"]
    assert isinstance(error, dict)
    assert error["kind"] == "usage"


@pytest.mark.parametrize(
    ("arguments", "help_"),
    [
        (["pcr", "x"], "hwtpm pcr --help"),
        (["state", "show"], "hwtpm state show --help"),
        (["nonsense"], "hwtpm --help"),
    ],
)
def test_nonsense_is_told_where_the_help_is(
    inside: Inside, arguments: list[str], help_: str
) -> None:
    assert f"see `{help_}`" in inside(*arguments).err


def test_trace_without_its_file_does_not_swallow_the_next_option(inside: Inside) -> None:
    ended = inside("info", "--on", FAKE, "--trace", "--json")
    assert (ended.code, ended.out) == (2, b"")
    assert "--json looks like an option" in ended.err


def test_interrupt_is_exit_130_and_lets_the_tpm_go(tmp_path: Path) -> None:
    path = tmp_path / "silent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(60)
        with subprocess.Popen(
            [*COMMAND, "pcr", "0", "--on", f"unix:{path}", "--json"],
            stdout=subprocess.PIPE,
            # Whoever runs this suite in the background has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            peer, _ = listener.accept()
            with peer:
                assert peer.recv(4096) == READ_PCR_0
                process.send_signal(signal.SIGINT)
                out, _ = process.communicate(timeout=60)
                assert peer.recv(4096) == b""
    assert process.returncode == 130
    assert json.loads(out)["error"]["kind"] == "interrupted"


@pytest.mark.parametrize(
    "arguments", [["random", "4", "--on", FAKE], ["random", "--json"], ["--help"]]
)
def test_reader_that_has_left_is_no_internal_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen([*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [["info", "--on", FAKE], ["info", "--on", FAKE, "--json"], ["info", "--json"], ["--help"]],
)
@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_stdout_that_takes_nothing_is_exit_4_and_said_on_stderr(
    arguments: list[str], where: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {where}', "sh", *COMMAND, *arguments],
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert b"cannot write to stdout: " in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_closed_stderr_leaves_stdout_to_the_data() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "random", "4", "--on", FAKE],
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert re.fullmatch(rb"[0-9a-f]{8}\n", done.stdout)


# --- traces, help, start-up ------------------------------------------------------------------


def test_trace_goes_to_a_private_file_or_stderr_and_not_to_stdout(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    ended = hwtpm("pcr", "0", "--on", FAKE, "--trace", str(path), "--json")
    assert ended.json["ok"] is True
    assert "> TPM_PcrRead: 00 c1 00 00 00 0e" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    ended = hwtpm("pcr", "0", "--on", FAKE, "--trace", "-")
    assert "< TPM_PcrRead TPM_SUCCESS" in ended.err
    assert "TPM_PcrRead" not in ended.text


def test_trace_file_that_cannot_be_written_is_exit_4(inside: Inside, tmp_path: Path) -> None:
    assert inside("pcr", "--on", FAKE, "--trace", str(tmp_path)).code == 4


def test_trace_on_a_full_disk_is_said_once_and_the_tpm_answers() -> None:
    ended = hwtpm("pcr", "--on", FAKE, "--trace", "/dev/full", "--json")
    assert (ended.code, ended.json["ok"]) == (0, True)
    assert ended.err.count("the trace is incomplete: [Errno 28]") == 1
    assert "Traceback" not in ended.err


def test_random_numbers_are_masked_in_the_trace(inside: Inside) -> None:
    ended = inside("random", "16", "--on", FAKE, "--trace", "-")
    assert bytes.fromhex(ended.text).hex(" ") not in ended.err
    assert " xx xx xx" in ended.err


def test_help_and_version_are_exit_0() -> None:
    ended = hwtpm("--help")
    assert ended.code == 0
    for name in ("info", "pcr", "random", "selftest", "serve"):
        assert name in ended.text
    assert re.fullmatch(r"\d+\.\d+.*\n", hwtpm("--version").text)


def test_client_library_starts_without_cryptography_and_command_line() -> None:
    check = (
        "import sys, hwtpm.client, hwtpm.transport, hwtpm.client.quote, hwtpm.client.identity\n"
        "heavy = {'cryptography', 'rich', 'cyclopts', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
