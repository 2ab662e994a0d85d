"""The program `hwtpm`; `hwtpm.cli.start` has a quicker way into one of its commands."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Final

from cyclopts import App

from hwtpm.cli.boards import BOARDS, list_devices
from hwtpm.cli.entropy import random
from hwtpm.cli.info import info
from hwtpm.cli.pcr import pcr
from hwtpm.cli.program import run
from hwtpm.cli.selftest import selftest
from hwtpm.cli.serve import serve
from hwtpm.cli.state import STATE
from hwtpm.cli.tcti import tcti

__all__ = ["APP", "main", "version"]


def version() -> str:
    """The installed version of this project."""
    try:
        return installed_version("hwtpm")
    except PackageNotFoundError:
        return "not installed"


APP: Final = App(
    name="hwtpm",
    help="Drive a TPM: a chip, the kernel's device, a simulation.",
    version=version,
)
for _command in (info, pcr, random, selftest, serve, tcti):
    APP.command(_command)
APP.command(list_devices, name="list")
APP.command(BOARDS)
APP.command(STATE)


def main() -> int:
    """Run `hwtpm` on the process's arguments; returns its exit code."""
    return run(APP, "hwtpm", sys.argv[1:])
