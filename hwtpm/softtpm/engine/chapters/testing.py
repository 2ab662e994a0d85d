"""Admin testing (Part 3 section 4)."""

from __future__ import annotations

from hwtpm.softtpm.engine import selftest
from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.tpm12.commands.testing import (
    ContinueSelfTest,
    GetTestResult,
    GetTestResultReply,
    SelfTestFull,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply

__all__: list[str] = []


def _test_everything(call: Call) -> None:
    if not call.tpm.run_self_tests(selftest.FULL):
        raise Refuse(Rc.FAILEDSELFTEST)
    call.tpm.untested = False


@serves(SelfTestFull)
def self_test_full(call: Call, request: SelfTestFull) -> NoReply:
    """4.1."""
    _test_everything(call)
    return NoReply()


@serves(ContinueSelfTest)
def continue_self_test(call: Call, request: ContinueSelfTest) -> NoReply:
    """4.2. Answers when the tests are done; tests once a power cycle unless TPMpost is set."""
    flags = call.tpm.permanent.flags
    if call.tpm.untested or flags.fips or flags.tpm_post:
        _test_everything(call)
    return NoReply()


@serves(GetTestResult)
def get_test_result(call: Call, request: GetTestResult) -> GetTestResultReply:
    """4.3. In failure mode the reason, in words."""
    tpm = call.tpm
    if tpm.failure:
        text = f"failed: {tpm.failure}"
    else:
        text = "passed, RSA not tested yet" if tpm.untested else "passed"
    return GetTestResultReply(text.encode())
