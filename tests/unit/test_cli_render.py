"""The renderer and the exit codes, as far as they need no process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from hwtpm import errors
from hwtpm.cli.exitcodes import ExitCode, exit_code_of
from hwtpm.cli.render import describe_origin, to_json
from hwtpm.secret import Secret
from hwtpm.tpm12 import rc
from hwtpm.transport import Attached

DOCUMENT = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def error_classes() -> list[type[errors.HwtpmError]]:
    return [getattr(errors, name) for name in errors.__all__]


def test_document_and_program_agree_on_every_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert rows == [(str(int(code)), code.name, code.meaning) for code in ExitCode]


def test_every_error_has_a_documented_code_and_kind() -> None:
    text = DOCUMENT.read_text()
    for kind in error_classes():
        assert kind.exit_code in {int(code) for code in ExitCode}
        assert f"`{kind.kind}`" in text


def test_every_code_fits_into_eight_bits() -> None:
    assert all(0 <= code < 256 for code in ExitCode)


@pytest.mark.parametrize("code", [*rc.Rc, 0x100, 0x400, 0xFFFFFFFF])
def test_tpm_errors_are_6_7_or_8(code: int) -> None:
    expected = {1: 7, 29: 7, 0x803: 8}.get(code, 6)
    assert exit_code_of(rc.error(code, "TPM_X")) == expected


def test_unforeseen_errors_are_internal() -> None:
    assert exit_code_of(ZeroDivisionError()) == ExitCode.INTERNAL
    assert exit_code_of(KeyboardInterrupt()) == ExitCode.INTERRUPTED


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Inner:
    data: bytes
    colour: Colour


@dataclass(frozen=True)
class Outer:
    inner: tuple[Inner, ...]
    table: dict[int, bytes]
    nothing: None = None


def test_json_of_dataclasses_bytes_and_enumerations() -> None:
    value = Outer((Inner(b"\xab\xcd", Colour.RED),), {3: b"\1"})
    assert to_json(value) == {
        "inner": [{"data": "abcd", "colour": "RED"}],
        "table": {"3": "01"},
        "nothing": None,
    }


@pytest.mark.parametrize("value", [Secret(b"x"), object(), {1}, Inner])
def test_what_has_no_place_in_an_output_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be put out"):
        to_json(value)


def test_origin_says_whether_the_hardware_is_real() -> None:
    real = Attached("dev:/dev/tpm0", "dev", True, "kernel driver tpm_tis on bus pnp")
    assert describe_origin(real).endswith("; real hardware)")
    assert "not real hardware" not in describe_origin(real)
