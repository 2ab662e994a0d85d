"""Exit codes: ours, stable, below 256; docs/exit-codes.md explains them."""

from __future__ import annotations

from enum import IntEnum

from hwtpm.errors import HwtpmError, TpmError
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm20.rc import Rc as Rc20
from hwtpm.tpm20.rc import base_of

__all__ = ["ExitCode", "exit_code_of"]


class ExitCode(IntEnum):
    """What a command's exit status means. Numbers are never used for something else."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "it worked"
    INTERNAL = 1, "a fault in this program"
    USAGE = 2, "the request makes no sense; nothing was sent anywhere"
    NOT_FOUND = 3, "no device was named, or none answers there"
    ACCESS_DENIED = 4, "the operating system does not let us use the device or file"
    BUS_OR_PROTOCOL = 5, "the link failed, or the peer broke its protocol or a deadline"
    TPM = 6, "the TPM refused with a return code"
    AUTH_FAILED = 7, "the TPM refused the password"
    LOCKED_OUT = 8, "the TPM defends itself against password guessing and refuses for a while"
    VERIFICATION = 9, "a signature, digest, MAC or certificate does not prove what it should"
    UNSUPPORTED = 10, "the device or program cannot do that"
    REFUSED = 11, "a policy forbids it, or a needed consent is missing"
    BUSY = 12, "somebody else uses the device; later it may work"
    STATE = 13, "a stored state cannot be used; nothing was overwritten"
    CANCELLED = 14, "the command was cancelled"
    INTERRUPTED = 130, "interrupted from the keyboard"
    BROKEN_PIPE = 141, "whoever read our output has gone"


_TPM_CODES: dict[int, ExitCode] = {
    Rc.AUTHFAIL: ExitCode.AUTH_FAILED,
    Rc.AUTH2FAIL: ExitCode.AUTH_FAILED,
    Rc.DEFEND_LOCK_RUNNING: ExitCode.LOCKED_OUT,
    Rc20.AUTH_FAIL: ExitCode.AUTH_FAILED,
    Rc20.BAD_AUTH: ExitCode.AUTH_FAILED,
    Rc20.LOCKOUT: ExitCode.LOCKED_OUT,
}
"""Codes of both families; none of these means another thing in the other one."""


def exit_code_of(error: BaseException) -> int:
    """The exit code for an error that ended a command."""
    if isinstance(error, TpmError):
        return _TPM_CODES.get(error.rc, _TPM_CODES.get(base_of(error.rc), ExitCode.TPM))
    if isinstance(error, HwtpmError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.INTERNAL
