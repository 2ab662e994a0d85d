"""Self tests and what they found (TPM Main 1.2, Part 3 section 4)."""

from __future__ import annotations

from dataclasses import dataclass

from hwtpm.client.session import Tpm
from hwtpm.errors import TpmError
from hwtpm.tpm12.commands.testing import ContinueSelfTest, GetTestResult, SelfTestFull
from hwtpm.tpm12.rc import Rc

__all__ = ["SelfTest", "continue_self_test", "last_result", "self_test"]


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The outcome of a full self test; `result` is the vendor's own report."""

    passed: bool
    explanation: str
    result: bytes


def self_test(tpm: Tpm) -> SelfTest:
    """Run all self tests and ask for their result; a failed test is an outcome, not an error."""
    try:
        tpm.execute(SelfTestFull())
    except TpmError as error:
        if error.rc not in (Rc.FAILEDSELFTEST, Rc.FAIL):
            raise
        return SelfTest(
            False,
            f"{error.meaning}; until a power cycle it refuses nearly all "
            "commands, and if that does not help the chip is broken",
            last_result(tpm),
        )
    return SelfTest(True, "all self tests passed", last_result(tpm))


def continue_self_test(tpm: Tpm) -> None:
    """Let the TPM finish the tests that have not run; it may answer before they are done."""
    tpm.execute(ContinueSelfTest())


def last_result(tpm: Tpm) -> bytes:
    """The vendor's own report on the last self tests; works in failure mode too."""
    return tpm.execute(GetTestResult()).out_data
