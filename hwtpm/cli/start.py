"""Where the program `hwtpm` starts.

tpm2-tools start `hwtpm tcti --on ADDRESS` anew for every tool, so that form of the command line is
understood here, without the libraries that parse all the others: they would take longer to load
than the TPM takes to answer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

__all__ = ["main"]


def main() -> int:
    """Run `hwtpm` on the process's arguments; returns its exit code."""
    if (address := _plain_tcti(sys.argv[1:], os.environ)) is not None:
        from hwtpm.cli.pipe import job
        from hwtpm.cli.program import perform

        return perform("hwtpm", lambda: job(address))
    from hwtpm.cli.app import main as run

    return run()


def _plain_tcti(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The address in `tcti`, `tcti --on ADDRESS` or `tcti --on=ADDRESS`; None for all else."""
    match arguments:
        case ["tcti"]:
            return environment.get("HWTPM_ON") or None
        case ["tcti", "--on", address] if not address.startswith("-"):
            return address or None
        case ["tcti", on] if on.startswith("--on="):
            return on.removeprefix("--on=") or None
    return None
