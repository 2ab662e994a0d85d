"""Administrative functions: management (Part 3 section 9)."""

from __future__ import annotations

from dataclasses import replace

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.tpm12.commands.management import ResetLockValue
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply

__all__: list[str] = []


@serves(ResetLockValue)
def reset_lock_value(call: Call, request: ResetLockValue) -> NoReply:
    """9.3. One wrong authorisation while the TPM is locked, and it has to wait like all others."""
    tpm = call.tpm
    permanent = tpm.permanent
    if tpm.lockout.reset_blocked(permanent.auth_failures):
        raise Refuse(Rc.AUTHFAIL)
    try:
        call.authorise_owner(during_lockout=True)
    except Refuse:
        if tpm.locked_out:
            tpm.lockout.block_reset()
        raise
    if permanent.auth_failures:
        tpm.permanent = replace(permanent, auth_failures=0)
    call.after(lambda: tpm.lockout.resume(0))
    return NoReply()
