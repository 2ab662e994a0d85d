"""Administrative functions: management (Part 3 section 9)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.tpm12.commands.management import FieldUpgrade, ResetLockValue, SetRedirection
from hwtpm.tpm12.const import KeyFlag
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply

__all__: list[str] = []

_REDIR_GPIO: Final = 0x00000001  # TPM_REDIR_COMMAND (Part 2 section 23.1)
_CHANNEL_SIZE: Final = 4
_UNOWNED_FIELD_UPGRADE: Final = 0x00000001
"""Bit of deferredPhysicalPresence (Part 2 section 7.5.2)."""


@serves(FieldUpgrade)
def field_upgrade(call: Call, request: FieldUpgrade) -> NoReply:
    """9.1. This TPM is upgraded with the program that it runs in, and trusts no key to sign an
    upgrade, so none gets past action 3. The code is that of Infineon's chips for an upgrade whose
    signature does not verify, by what their updater (TPMFactoryUpd, FirmwareUpdate.c) makes of it.
    """
    if call.tpm.owned:
        call.authorise_owner()
    elif not call.tpm.volatile.deferred_presence & _UNOWNED_FIELD_UPGRADE:
        raise Refuse(Rc.BAD_PRESENCE)
    raise Refuse(Rc.AUTHFAIL)


@serves(SetRedirection)
def set_redirection(call: Call, request: SetRedirection) -> NoReply:
    """9.2. This TPM has no GPIO channels, so none gets past action 2.d."""
    if call.sessions:
        call.authorise_owner()
    if request.redir_cmd != _REDIR_GPIO:
        raise Refuse(Rc.BAD_PARAMETER)
    key = call.tpm.key(request.key_handle)
    if not key.key.key_flags & KeyFlag.REDIRECTION:
        raise Refuse(Rc.BAD_TYPE)
    if len(request.input_data) != _CHANNEL_SIZE:
        raise Refuse(Rc.BAD_PARAM_SIZE)
    raise Refuse(Rc.BAD_PARAMETER)


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
