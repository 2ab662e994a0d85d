"""Admin opt-in (Part 3 section 5)."""

from __future__ import annotations

from dataclasses import replace

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.tpm12.commands.optin import (
    OwnerSetDisable,
    PhysicalDisable,
    PhysicalEnable,
    PhysicalSetDeactivated,
    SetOperatorAuth,
    SetOwnerInstall,
    SetTempDeactivated,
)
from hwtpm.tpm12.const import EntityType, KeyHandleValue
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types import PermanentFlags

__all__: list[str] = []

_OPERATOR = (int(EntityType.OPERATOR), int(KeyHandleValue.OPERATOR).to_bytes(4, "big"))


def _set_flags(call: Call, flags: PermanentFlags) -> NoReply:
    if flags != call.tpm.permanent.flags:
        call.tpm.permanent = replace(call.tpm.permanent, flags=flags)
    return NoReply()


@serves(SetOwnerInstall)
def set_owner_install(call: Call, request: SetOwnerInstall) -> NoReply:
    """5.1."""
    if call.tpm.owned:
        return NoReply()
    call.require_presence()
    return _set_flags(call, replace(call.tpm.permanent.flags, ownership=request.state))


@serves(OwnerSetDisable)
def owner_set_disable(call: Call, request: OwnerSetDisable) -> NoReply:
    """5.2."""
    return _set_flags(call, replace(call.tpm.permanent.flags, disable=request.disable_state))


@serves(PhysicalEnable)
def physical_enable(call: Call, request: PhysicalEnable) -> NoReply:
    """5.3."""
    call.require_presence()
    return _set_flags(call, replace(call.tpm.permanent.flags, disable=False))


@serves(PhysicalDisable)
def physical_disable(call: Call, request: PhysicalDisable) -> NoReply:
    """5.4."""
    call.require_presence()
    return _set_flags(call, replace(call.tpm.permanent.flags, disable=True))


@serves(PhysicalSetDeactivated)
def physical_set_deactivated(call: Call, request: PhysicalSetDeactivated) -> NoReply:
    """5.5. Takes effect at the next TPM_Startup."""
    call.require_presence()
    return _set_flags(call, replace(call.tpm.permanent.flags, deactivated=request.state))


@serves(SetTempDeactivated)
def set_temp_deactivated(call: Call, request: SetTempDeactivated) -> NoReply:
    """5.6."""
    tpm = call.tpm
    if call.unproven:
        if not tpm.permanent.flags.operator:
            raise Refuse(Rc.NOOPERATOR)
        call.authorise(tpm.permanent.operator_auth, _OPERATOR)
    else:
        call.require_presence()
    stclear = tpm.volatile
    tpm.stclear = replace(stclear, flags=replace(stclear.flags, deactivated=True))
    return NoReply()


@serves(SetOperatorAuth)
def set_operator_auth(call: Call, request: SetOperatorAuth) -> NoReply:
    """5.7."""
    call.require_presence()
    permanent = call.tpm.permanent
    flags = replace(permanent.flags, operator=True)
    call.tpm.permanent = replace(permanent, operator_auth=request.operator_auth, flags=flags)
    call.end_sessions_of(_OPERATOR)
    return NoReply()
