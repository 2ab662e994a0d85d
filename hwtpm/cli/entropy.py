"""`hwtpm random`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer
from hwtpm.cli.target import DEFAULT, Common, on_tpm
from hwtpm.client.entropy import RandomBytes, get_random
from hwtpm.errors import UsageError
from hwtpm.tpm20.commands import Execute
from hwtpm.tpm20.commands import get_random as get_random2

__all__ = ["random"]


def random(
    count: int,
    /,
    *,
    raw: Annotated[bool, Parameter(negative=())] = False,
    common: Common = DEFAULT,
) -> Job:
    """Get random bytes from the TPM, in hexadecimal.

    Parameters
    ----------
    count
        How many bytes, up to 1048576.
    raw
        The bytes themselves instead.
    """
    if raw and common.json:
        raise UsageError("raw bytes and JSON exclude each other", hint="leave one of them out")

    def answer(got: RandomBytes) -> Answer:
        return Answer(got, raw=got.data if raw else got.data.hex().encode() + b"\n")

    def on_tpm2(execute: Execute) -> Answer:
        return answer(RandomBytes(*get_random2(execute, count)))

    return on_tpm("hwtpm.random/1", common, lambda tpm: answer(get_random(tpm, count)), on_tpm2)
