"""`hwtpm pcr`."""

from __future__ import annotations

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Table
from hwtpm.cli.target import DEFAULT, Common, on_tpm
from hwtpm.client import Tpm
from hwtpm.client.pcr import read_many

__all__ = ["pcr"]


def pcr(*index: int, common: Common = DEFAULT) -> Job:
    """Read platform configuration registers.

    Parameters
    ----------
    index
        PCRs to read; all of them if none is named.
    """

    def operation(tpm: Tpm) -> Answer:
        values = read_many(tpm, index or None)
        rows = [(str(one.index), one.value.hex()) for one in values.pcrs]
        return Answer(values, (Table(rows, ("PCR", "value")),))

    return on_tpm("hwtpm.pcr/1", common, operation)
