"""TPM_SetCapability (Part 3 section 7.2; Part 2 sections 7.1.1 to 7.6.1 and 21.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.tpm12.commands.capability import SetCapability
from hwtpm.tpm12.const import SetArea
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply

__all__: list[str] = []

_U32_SIZE: Final = 4

Setter = Callable[[Call, bytes], None]


@dataclass(frozen=True, slots=True)
class _Setting:
    """One line of the tables "Flag Restrictions": when it can be set, and how."""

    set: Setter
    owner: bool = False  # needs owner authorisation
    presence: bool = False  # needs physical presence
    unauthorised: bool = False  # takes no authorisation
    localities: tuple[int, ...] = ()  # only from one of these
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


def _set_ownership(call: Call, value: bytes) -> None:
    """ "No ownerinstalled"."""
    if call.tpm.owned:
        raise Refuse(Rc.OWNER_SET)
    _permanent_flag("ownership")(call, value)


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
        _permanent_flag("disable"), when_disabled=True, when_deactivated=True
    ),
    (SetArea.PERM_FLAGS, 2): _Setting(_set_ownership, presence=True, unauthorised=True),
    (SetArea.PERM_FLAGS, 3): _Setting(
        _permanent_flag("deactivated"), presence=True, unauthorised=True, when_deactivated=True
    ),
    (SetArea.PERM_FLAGS, 4): _Setting(_permanent_flag("read_pubek"), owner=True),
    (SetArea.PERM_FLAGS, 5): _Setting(
        _permanent_flag("disable_owner_clear", only=True), owner=True
    ),
    (SetArea.PERM_FLAGS, 6): _Setting(_permanent_flag("allow_maintenance", only=False), owner=True),
    (SetArea.PERM_FLAGS, 17): _Setting(_permanent_flag("read_srk_pub"), owner=True),
    (SetArea.PERM_FLAGS, 18): _Setting(
        _permanent_flag("tpm_established", only=False),
        localities=(3, 4),
        when_disabled=True,
        when_deactivated=True,
    ),
    (SetArea.PERM_FLAGS, 20): _Setting(
        _permanent_flag("disable_full_da_logic_info"),
        owner=True,
        when_disabled=True,
        when_deactivated=True,
    ),
    (SetArea.PERM_DATA, 23): _Setting(_set_restrict_delegate, owner=True),
    (SetArea.PERM_DATA, 25): _Setting(
        _new_daa_proof, owner=True, when_disabled=True, when_deactivated=True
    ),
    (SetArea.STCLEAR_FLAGS, 2): _Setting(_disable_force_clear),
    (SetArea.STCLEAR_DATA, 6): _Setting(_defer_presence, when_disabled=True, when_deactivated=True),
    (SetArea.STANY_FLAGS, 4): _Setting(_no_trusted_os, localities=(3, 4)),
}
"""By area and flag number; nothing else can be set."""


@serves(SetCapability)
def set_capability(call: Call, request: SetCapability) -> NoReply:
    """7.2."""
    if call.sessions:
        call.authorise_owner()
    if len(request.sub_cap) != _U32_SIZE:
        raise Refuse(Rc.BAD_PARAMETER)
    key = request.cap_area, int.from_bytes(request.sub_cap, "big")
    setting = _SETTINGS.get(key)
    if setting is None:
        raise Refuse(Rc.BAD_PARAMETER)
    _check_restrictions(call, setting)
    setting.set(call, request.set_value)
    return NoReply()


def _check_restrictions(call: Call, setting: _Setting) -> None:
    """Action 2."""
    if call.tpm.permanent.flags.disable and not setting.when_disabled:
        raise Refuse(Rc.DISABLED)
    if call.tpm.volatile.flags.deactivated and not setting.when_deactivated:
        raise Refuse(Rc.DEACTIVATED)
    if setting.owner and not call.sessions:
        raise Refuse(Rc.AUTHFAIL)
    if setting.unauthorised and call.sessions:
        raise Refuse(Rc.BADTAG)
    if setting.presence:
        call.require_presence()
    if setting.localities and call.locality not in setting.localities:
        raise Refuse(Rc.BAD_LOCALITY)
