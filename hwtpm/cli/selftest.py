"""`hwtpm selftest`."""

from __future__ import annotations

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Table
from hwtpm.cli.target import DEFAULT, Common, on_tpm
from hwtpm.client import Tpm
from hwtpm.client.testing import SelfTest, self_test
from hwtpm.errors import TpmError
from hwtpm.tpm12 import rc
from hwtpm.tpm20 import rc as rc20
from hwtpm.tpm20.commands import Execute, test_result
from hwtpm.tpm20.commands import self_test as self_test2
from hwtpm.tpm20.const import Code, name_of

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

    def on_tpm2(execute: Execute) -> Answer:
        tested = _self_test2(execute)
        report, outcome = test_result(execute)
        if outcome or not tested:
            refusal = rc20.error(outcome or rc20.Rc.FAILURE, name_of(Code.SELF_TEST))
            refusal.message += f"; its report: {_readable(report)}"
            raise refusal
        result = SelfTest(True, "all self tests passed", report)
        rows = [("self tests", result.explanation), ("report", _readable(report))]
        return Answer(result, (Table(rows),))

    return on_tpm("hwtpm.selftest/1", common, operation, on_tpm2)


def _self_test2(execute: Execute) -> bool:
    """Whether the tests ran to success; in failure mode the TPM only says that it is in it."""
    try:
        self_test2(execute)
    except TpmError as error:
        if error.rc != rc20.Rc.FAILURE:
            raise
        return False
    return True


def _readable(report: bytes) -> str:
    """The vendor's report as text if it is text, else in hexadecimal."""
    text = report.decode("ascii", errors="replace").strip("\0\n ")
    return text if text.isascii() and text.isprintable() else report.hex()
