"""`hwtpm tcti`."""

from __future__ import annotations

from hwtpm.cli.pipe import job
from hwtpm.cli.program import Job
from hwtpm.cli.target import DEFAULT, Common, named
from hwtpm.errors import UsageError

__all__ = ["tcti"]


def tcti(*, common: Common = DEFAULT) -> Job:
    """Give a TPM to tpm2-tools and other programs on tpm2-tss; their TCTI is
    "cmd:hwtpm tcti --on ADDRESS".

    It takes raw commands on stdin, answers on stdout and ends with its stdin.
    """
    if common.json:
        raise UsageError("stdout carries the TPM's answers, no JSON", hint="leave --json out")
    return job(named(common.on), trace=common.trace, locality=common.locality)
