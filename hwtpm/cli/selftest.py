"""`hwtpm selftest`."""

from __future__ import annotations

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Table
from hwtpm.cli.target import DEFAULT, Common, on_tpm
from hwtpm.client import Tpm
from hwtpm.client.testing import self_test
from hwtpm.tpm12 import rc

__all__ = ["selftest"]


def selftest(*, common: Common = DEFAULT) -> Job:
    """Run all self tests and show what the TPM reports about them."""

    def operation(tpm: Tpm) -> Answer:
        result = self_test(tpm)
        report = _readable(result.result)
        if not result.passed:
            refusal = rc.error(rc.Rc.FAILEDSELFTEST, "TPM_SelfTestFull", tpm.attached.address)
            refusal.message += f"; {result.explanation}; its report: {report}"
            raise refusal
        return Answer(result, (Table([("self tests", result.explanation), ("report", report)]),))

    return on_tpm("hwtpm.selftest/1", common, operation)


def _readable(report: bytes) -> str:
    """The vendor's report as text if it is text, else in hexadecimal."""
    text = report.decode("ascii", errors="replace").strip("\0\n ")
    return text if text.isascii() and text.isprintable() else report.hex()
