"""`hwtpm pcr`."""

from __future__ import annotations

from dataclasses import dataclass

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Table
from hwtpm.cli.target import DEFAULT, Common, on_tpm
from hwtpm.client import Tpm
from hwtpm.client.pcr import read_many
from hwtpm.tpm20.commands import Bank, Execute, read_pcrs

__all__ = ["pcr"]


@dataclass(frozen=True, slots=True)
class Banks:
    """PCRs of a TPM 2.0."""

    banks: tuple[Bank, ...]


def pcr(*index: int, common: Common = DEFAULT) -> Job:
    """Read platform configuration registers; of a TPM 2.0 those of all its banks.

    Parameters
    ----------
    index
        PCRs to read; all of them if none is named.
    """

    def operation(tpm: Tpm) -> Answer:
        values = read_many(tpm, index or None)
        rows = [(str(one.index), one.value.hex()) for one in values.pcrs]
        return Answer(values, (Table(rows, ("PCR", "value")),))

    def on_tpm2(execute: Execute) -> Answer:
        banks = read_pcrs(execute, index or None)
        tables = [
            Table([(str(one.index), one.value.hex()) for one in bank.pcrs], ("PCR", bank.hash))
            for bank in banks
        ]
        return Answer(Banks(banks), tables, schema="hwtpm.pcr2/1")

    return on_tpm("hwtpm.pcr/1", common, operation, on_tpm2)
