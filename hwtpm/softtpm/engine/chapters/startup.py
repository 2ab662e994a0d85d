"""Admin startup and state (Part 3 section 3)."""

from __future__ import annotations

from dataclasses import replace

from hwtpm.errors import StateError
from hwtpm.softtpm.base import StateName
from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.pcrs import PCR_ATTRIBUTES, initial_pcrs
from hwtpm.softtpm.engine.state import Stclear
from hwtpm.softtpm.engine.volatile import decode_saved
from hwtpm.tpm12.commands.startup import SaveState, Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types import StclearFlags

__all__: list[str] = []


def _cleared(*, deactivated: bool) -> Stclear:
    flags = StclearFlags(
        deactivated=deactivated,
        disable_force_clear=False,
        physical_presence=False,
        physical_presence_lock=False,
        b_global_lock=False,
    )
    return Stclear(flags, initial_pcrs())


def _restored(call: Call) -> Stclear:
    """What TPM_SaveState kept, with the resettable PCRs at their defaults (action 3.c). As in
    libtpms all that was loaded comes back, saved contexts stay good."""
    tpm = call.tpm
    try:
        blob = tpm.storage.load(StateName.SAVED)
        if blob is None:
            # No later TPM_Startup(ST_CLEAR) may pose as the one of a boot (3.2, informative).
            tpm.enter_failure_mode("no saved state")
            raise Refuse(Rc.FAILEDSELFTEST)
        saved = decode_saved(blob)
    except StateError:
        tpm.enter_failure_mode("saved state unusable")
        raise
    state = saved.since_startup.restore()
    pcrs = tuple(
        initial if attributes.resettable else kept
        for attributes, initial, kept in zip(
            PCR_ATTRIBUTES, initial_pcrs(), state.pcrs, strict=True
        )
    )
    call.after(lambda: saved.resources.load_into(tpm))
    return replace(state, pcrs=pcrs)


@serves(Startup)
def startup(call: Call, request: Startup) -> NoReply:
    """3.2. Sessions and loaded keys went with the power; ST_STATE brings back what was saved, and
    keys that the owner has stay are there since TPM_Init."""
    tpm = call.tpm
    if tpm.stclear is not None:
        raise Refuse(Rc.INVALID_POSTINIT)
    match request.startup_type:
        case StartupType.CLEAR:
            tpm.stclear = _cleared(deactivated=tpm.permanent.flags.deactivated)
        case StartupType.STATE:
            tpm.stclear = _restored(call)
        case StartupType.DEACTIVATED:
            tpm.stclear = _cleared(deactivated=True)
        case _:
            raise Refuse(Rc.BAD_PARAMETER)
    tpm.forget_saved_state()
    return NoReply()


@serves(SaveState)
def save_state(call: Call, request: SaveState) -> NoReply:
    """3.3. The dispatcher saves, with what audit adds to the state."""
    call.tpm.saves_state = True
    return NoReply()
