"""TPM_SetCapability (Part 3 section 7.2; Part 2 sections 7.1.1 to 7.6.1 and 21.4)."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.tpm12.commands.capability import SetCapability
from hwtpm.tpm12.const import SetArea
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply

__all__: list[str] = []

_U32_SIZE: Final = 4

Setter = Callable[[Call, bytes], None]


class _Needs(Enum):
    """What setting a value takes, besides a locality."""

    NOTHING = auto()
    OWNER = auto()
    OWNER_OR_PRESENCE = auto()
    PRESENCE = auto()  # and no authorisation


@dataclass(frozen=True, slots=True)
class _Setting:
    """One line of the tables "Flag Restrictions": when it can be set, and how."""

    set: Setter
    needs: _Needs
    localities: Container[int] = range(5)
    unowned: bool = False  # only while there is no owner
    when_disabled: bool = False
    when_deactivated: bool = False


def _bool(value: bytes, *, only: bool | None = None) -> bool:
    """A BOOL, or Refuse(BAD_PARAMETER); `only` is what it may be set to."""
    if value not in (b"\0", b"\1"):
        raise Refuse(Rc.BAD_PARAMETER)
    wanted = value == b"\1"
    if only is not None and wanted != only:
        raise Refuse(Rc.BAD_PARAMETER)
    return wanted


def _u32(value: bytes) -> int:
    if len(value) != _U32_SIZE:
        raise Refuse(Rc.BAD_PARAMETER)
    return int.from_bytes(value, "big")


def _permanent_flag(name: str, *, only: bool | None = None) -> Setter:
    def apply(call: Call, value: bytes) -> None:
        permanent = call.tpm.permanent
        wanted = _bool(value, only=only)
        if getattr(permanent.flags, name) != wanted:
            call.tpm.permanent = replace(
                permanent, flags=replace(permanent.flags, **{name: wanted})
            )

    return apply


def _set_restrict_delegate(call: Call, value: bytes) -> None:
    call.tpm.permanent = replace(call.tpm.permanent, restrict_delegate=_u32(value))


def _new_daa_proof(call: Call, value: bytes) -> None:
    """It has no value (Part 2 section 7.4.1)."""
    call.tpm.permanent = call.tpm.permanent.with_new_daa_secrets(call.tpm.random)


def _disable_force_clear(call: Call, value: bytes) -> None:
    _bool(value, only=True)
    stclear = call.tpm.volatile
    call.tpm.stclear = replace(stclear, flags=replace(stclear.flags, disable_force_clear=True))


def _defer_presence(call: Call, value: bytes) -> None:
    """Without physical presence bits can only be cleared (Part 2 section 7.5.2)."""
    wanted = _u32(value)
    stclear = call.tpm.volatile
    if wanted & ~stclear.deferred_presence:
        call.require_presence()
    call.tpm.stclear = replace(stclear, deferred_presence=wanted)


def _no_trusted_os(call: Call, value: bytes) -> None:
    _bool(value, only=False)
    call.tpm.stclear = replace(call.tpm.volatile, tos_present=False)


_SETTINGS: Final[dict[tuple[int, int], _Setting]] = {
    (SetArea.PERM_FLAGS, 1): _Setting(
        _permanent_flag("disable"),
        _Needs.OWNER_OR_PRESENCE,
        when_disabled=True,
        when_deactivated=True,
    ),
    (SetArea.PERM_FLAGS, 2): _Setting(_permanent_flag("ownership"), _Needs.PRESENCE, unowned=True),
    (SetArea.PERM_FLAGS, 3): _Setting(
        _permanent_flag("deactivated"), _Needs.PRESENCE, when_deactivated=True
    ),
    (SetArea.PERM_FLAGS, 4): _Setting(_permanent_flag("read_pubek"), _Needs.OWNER),
    (SetArea.PERM_FLAGS, 5): _Setting(
        _permanent_flag("disable_owner_clear", only=True), _Needs.OWNER
    ),
    (SetArea.PERM_FLAGS, 6): _Setting(
        _permanent_flag("allow_maintenance", only=False), _Needs.OWNER
    ),
    (SetArea.PERM_FLAGS, 17): _Setting(_permanent_flag("read_srk_pub"), _Needs.OWNER),
    (SetArea.PERM_FLAGS, 18): _Setting(
        _permanent_flag("tpm_established", only=False),
        _Needs.NOTHING,
        (3, 4),
        when_disabled=True,
        when_deactivated=True,
    ),
    (SetArea.PERM_FLAGS, 20): _Setting(
        _permanent_flag("disable_full_da_logic_info"),
        _Needs.OWNER,
        when_disabled=True,
        when_deactivated=True,
    ),
    (SetArea.PERM_DATA, 23): _Setting(_set_restrict_delegate, _Needs.OWNER),
    (SetArea.PERM_DATA, 25): _Setting(
        _new_daa_proof, _Needs.OWNER, when_disabled=True, when_deactivated=True
    ),
    (SetArea.STCLEAR_FLAGS, 2): _Setting(_disable_force_clear, _Needs.NOTHING),
    (SetArea.STCLEAR_DATA, 6): _Setting(
        _defer_presence, _Needs.NOTHING, when_disabled=True, when_deactivated=True
    ),
    (SetArea.STANY_FLAGS, 4): _Setting(_no_trusted_os, _Needs.NOTHING, (3, 4)),
}
"""By area and flag number; nothing else can be set."""


@serves(SetCapability)
def set_capability(call: Call, request: SetCapability) -> NoReply:
    """7.2. Part 2 gives no codes for what it restricts; they are those of libtpms."""
    if call.sessions:
        if not call.tpm.owned:
            raise Refuse(Rc.AUTHFAIL)
        call.authorise_owner()
    setting = None
    if len(request.sub_cap) == _U32_SIZE:
        setting = _SETTINGS.get((request.cap_area, int.from_bytes(request.sub_cap, "big")))
    if setting is None:
        raise Refuse(Rc.BAD_PARAMETER)
    _check_restrictions(call, setting)
    setting.set(call, request.set_value)
    return NoReply()


def _check_restrictions(call: Call, setting: _Setting) -> None:
    """Action 2."""
    tpm = call.tpm
    if setting.unowned and tpm.owned:
        raise Refuse(Rc.OWNER_SET)
    authorised = bool(call.sessions)
    if setting.needs is _Needs.OWNER:
        allowed = authorised
    elif setting.needs is _Needs.OWNER_OR_PRESENCE:
        allowed = authorised or tpm.physical_presence
    elif setting.needs is _Needs.PRESENCE:
        allowed = tpm.physical_presence and not authorised
    else:
        allowed = True
    if not allowed:
        raise Refuse(Rc.AUTHFAIL)
    if call.locality not in setting.localities:
        raise Refuse(Rc.BAD_LOCALITY)
    if tpm.permanent.flags.disable and not setting.when_disabled:
        raise Refuse(Rc.DISABLED)
    if tpm.volatile.flags.deactivated and not setting.when_deactivated:
        raise Refuse(Rc.DEACTIVATED)
