"""Where a stack lies: names that do not fit, and what a crash leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwtpm.errors import DeviceNotFound, UsageError
from vstack.host.layout import Layout


def test_a_vtpm_whose_creation_a_crash_cut_short_does_not_exist(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state", Path("/run/x"))
    layout.vtpm_state("a").mkdir(parents=True)
    (layout.vtpm_state("a") / "vtpm.json.new").write_bytes(b"{")
    with pytest.raises(DeviceNotFound):
        layout.read_vtpm("a")


def test_a_name_too_long_for_sockets_is_named() -> None:
    layout = Layout(Path("/state"), Path("/run/" + "r" * 60))
    assert layout.vtpm_run("n" * 16).name == "n" * 16
    with pytest.raises(UsageError, match="too long"):
        layout.vtpm_run("n" * 63)
