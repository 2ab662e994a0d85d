"""Admin ownership (Part 3 section 6) and TPM_DisablePubekRead (section 27.7)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine import rsa
from hwtpm.softtpm.engine.call import OWNER_ENTITY, Call, Refuse, serves
from hwtpm.softtpm.engine.keys import ReleaseCondition
from hwtpm.softtpm.engine.launch import with_established
from hwtpm.softtpm.engine.state import (
    AUDITED_BY_DEFAULT,
    ZERO_DIGEST,
    Permanent,
    RootKey,
    Stclear,
)
from hwtpm.softtpm.engine.wrapping import check_properties
from hwtpm.tpm12.commands.deprecated import DisablePubekRead
from hwtpm.tpm12.commands.ownership import (
    DisableForceClear,
    DisableOwnerClear,
    ForceClear,
    OwnerClear,
    PhysicalPresence,
    ResetEstablishmentBit,
    TakeOwnership,
    TakeOwnershipReply,
)
from hwtpm.tpm12.const import (
    DIGEST_SIZE,
    PROTOCOL_OWNER,
    AuthDataUsage,
    KeyFlag,
    KeyHandleValue,
    KeyUsage,
    NvIndex,
    NvPermission,
)
from hwtpm.tpm12.const import PhysicalPresence as Presence
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types import Key, PermanentFlags

__all__ = ["check_srk_params", "clear_owner"]

_SRK_BITS: Final = 2048
_AUTH_DATA_USAGES: Final = frozenset(int(usage) for usage in AuthDataUsage)


def _decrypt_auth(call: Call, encrypted: bytes) -> bytes:
    """An AuthData that was encrypted to the EK (actions 6 and 10)."""
    auth = rsa.decrypt_given(call.tpm.root_key(KeyHandleValue.EK).private, encrypted)
    if len(auth) != DIGEST_SIZE:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    return auth


def check_srk_params(call: Call, key: Key) -> None:
    """Whether a key can be an SRK (action 8).

    Raises:
        Refuse: INVALID_KEYUSAGE; BAD_KEY_PROPERTY; BAD_PARAMETER; NOTFIPS; INVALID_PCR_INFO.
    """
    if key.key_usage != KeyUsage.STORAGE or key.key_flags & KeyFlag.MIGRATABLE:
        raise Refuse(Rc.INVALID_KEYUSAGE)
    check_properties(call, key)
    if key.auth_data_usage not in _AUTH_DATA_USAGES:
        raise Refuse(Rc.BAD_PARAMETER)
    ReleaseCondition.of(key.form, key.pcr_info)


@serves(TakeOwnership)
def take_ownership(call: Call, request: TakeOwnership) -> TakeOwnershipReply:
    """6.1."""
    tpm = call.tpm
    permanent = tpm.permanent
    if tpm.owned:
        raise Refuse(Rc.OWNER_SET)
    if not permanent.flags.ownership:
        raise Refuse(Rc.INSTALL_DISABLED)
    if permanent.ek is None:
        raise Refuse(Rc.NO_ENDORSEMENT)
    if call.sessions[0].entity is not None:
        raise Refuse(Rc.AUTHFAIL)
    if request.protocol_id != PROTOCOL_OWNER:
        raise Refuse(Rc.BAD_PARAMETER)
    owner_auth = _decrypt_auth(call, request.enc_owner_auth)
    call.authorise(owner_auth, OWNER_ENTITY)
    check_srk_params(call, request.srk_params)
    srk_auth = _decrypt_auth(call, request.enc_srk_auth)
    private = tpm.entropy.rsa_key(_SRK_BITS)
    srk = replace(request.srk_params, pub_key=rsa.modulus_of(private.public_key()), enc_data=b"")
    tpm.permanent = replace(
        permanent.with_new_secrets(tpm.random),
        flags=replace(permanent.flags, read_pubek=False),
        owner_auth=owner_auth,
        srk=RootKey(srk, rsa.prime_of(private), srk_auth),
    )
    return TakeOwnershipReply(srk)


def _flags_after_clear(permanent: Permanent) -> PermanentFlags:
    """Actions 9 and 10 of 6.2; the defaults are those of Part 2 section 7.1."""
    return replace(
        permanent.flags,
        disable=True,
        deactivated=True,
        read_pubek=True,
        disable_owner_clear=False,
        disable_full_da_logic_info=False,
        allow_maintenance=permanent.maintenance_key is not None,
        read_srk_pub=False,
        ownership=True,
        operator=False,
        maintenance_done=False,
    )


def clear_owner(call: Call) -> None:
    """The actions of TPM_OwnerClear (6.2) from number 3 on."""
    tpm = call.tpm
    permanent, stclear = tpm.permanent, tpm.volatile
    owners = NvPermission.OWNERWRITE | NvPermission.OWNERREAD
    kept = tuple(
        area
        for area in permanent.nv_areas
        if area.public.nv_index & NvIndex.D_BIT or not area.public.permission.attributes & owners
    )
    tpm.permanent = replace(
        permanent.with_new_secrets(tpm.random),
        flags=_flags_after_clear(permanent),
        owner_auth=ZERO_DIGEST,
        operator_auth=ZERO_DIGEST,
        srk=None,
        counters=(),
        nv_areas=kept,
        owner_evict=(),
        writes_without_owner=0,
        audited=AUDITED_BY_DEFAULT,
        restrict_delegate=0,
        delegations=(),
        families=(),
        # Not named by the specification: nobody is left who could reset the lockout.
        auth_failures=0,
    )
    indices = frozenset(area.public.nv_index for area in kept)
    tpm.stclear = Stclear(
        stclear.flags,
        stclear.pcrs,
        read_locked=stclear.read_locked & indices,
        write_locked=stclear.write_locked & indices,
        tos_present=stclear.tos_present,  # a TPM_STANY_FLAGS bit, which 6.2 leaves alone
    )
    for tail in call.tails:
        tail.continue_session = 0
    call.after(tpm.forget_volatile)
    call.after(lambda: tpm.lockout.resume(0))


@serves(OwnerClear)
def owner_clear(call: Call, request: OwnerClear) -> NoReply:
    """6.2."""
    if call.tpm.permanent.flags.disable_owner_clear:
        raise Refuse(Rc.CLEAR_DISABLED)
    clear_owner(call)
    return NoReply()


@serves(ForceClear)
def force_clear(call: Call, request: ForceClear) -> NoReply:
    """6.3."""
    call.require_presence()
    if call.tpm.volatile.flags.disable_force_clear:
        raise Refuse(Rc.CLEAR_DISABLED)
    clear_owner(call)
    return NoReply()


@serves(DisableOwnerClear)
def disable_owner_clear(call: Call, request: DisableOwnerClear) -> NoReply:
    """6.4."""
    permanent = call.tpm.permanent
    flags = replace(permanent.flags, disable_owner_clear=True)
    call.tpm.permanent = replace(permanent, flags=flags)
    return NoReply()


@serves(DisableForceClear)
def disable_force_clear(call: Call, request: DisableForceClear) -> NoReply:
    """6.5."""
    stclear = call.tpm.volatile
    flags = replace(stclear.flags, disable_force_clear=True)
    call.tpm.stclear = replace(stclear, flags=flags)
    return NoReply()


_LIFETIME: Final = (
    Presence.LIFETIME_LOCK
    | Presence.HW_ENABLE
    | Presence.CMD_ENABLE
    | Presence.HW_DISABLE
    | Presence.CMD_DISABLE
)
_ASSERTION: Final = Presence.LOCK | Presence.PRESENT | Presence.NOTPRESENT
_CONTRADICTIONS: Final = (
    Presence.HW_ENABLE | Presence.HW_DISABLE,
    Presence.CMD_ENABLE | Presence.CMD_DISABLE,
    Presence.LOCK | Presence.PRESENT,
    Presence.PRESENT | Presence.NOTPRESENT,
)


def _set_presence_lifetime(call: Call, wanted: int) -> None:
    """Action 2 of 6.6."""
    permanent = call.tpm.permanent
    flags = permanent.flags
    if flags.physical_presence_lifetime_lock:
        raise Refuse(Rc.BAD_PARAMETER)
    hardware = flags.physical_presence_hw_enable or bool(wanted & Presence.HW_ENABLE)
    command = flags.physical_presence_cmd_enable or bool(wanted & Presence.CMD_ENABLE)
    flags = replace(
        flags,
        physical_presence_hw_enable=hardware and not wanted & Presence.HW_DISABLE,
        physical_presence_cmd_enable=command and not wanted & Presence.CMD_DISABLE,
        physical_presence_lifetime_lock=bool(wanted & Presence.LIFETIME_LOCK),
    )
    if flags != permanent.flags:
        call.tpm.permanent = replace(permanent, flags=flags)


def _assert_presence(call: Call, wanted: int) -> None:
    """Action 3 of 6.6."""
    stclear = call.tpm.volatile
    if (
        not call.tpm.permanent.flags.physical_presence_cmd_enable
        or stclear.flags.physical_presence_lock
    ):
        raise Refuse(Rc.BAD_PARAMETER)
    locked = bool(wanted & Presence.LOCK)
    flags = replace(
        stclear.flags,
        physical_presence=not locked and bool(wanted & Presence.PRESENT),
        physical_presence_lock=locked,
    )
    call.tpm.stclear = replace(stclear, flags=flags)


@serves(PhysicalPresence)
def physical_presence(call: Call, request: PhysicalPresence) -> NoReply:
    """6.6. Bits that mean nothing are refused, as libtpms does."""
    wanted = request.physical_presence
    lifetime, assertion = bool(wanted & _LIFETIME), bool(wanted & _ASSERTION)
    if (
        lifetime == assertion
        or wanted & ~(_LIFETIME | _ASSERTION)
        or any(wanted & both == both for both in _CONTRADICTIONS)
    ):
        raise Refuse(Rc.BAD_PARAMETER)
    if lifetime:
        _set_presence_lifetime(call, wanted)
    else:
        _assert_presence(call, wanted)
    return NoReply()


@serves(ResetEstablishmentBit)
def reset_establishment_bit(call: Call, request: ResetEstablishmentBit) -> NoReply:
    """6.7."""
    if call.locality not in (3, 4):
        raise Refuse(Rc.BAD_LOCALITY)
    call.tpm.permanent = with_established(call.tpm.permanent, False)
    return NoReply()


@serves(DisablePubekRead)
def disable_pubek_read(call: Call, request: DisablePubekRead) -> NoReply:
    """27.7."""
    permanent = call.tpm.permanent
    if permanent.flags.read_pubek:
        flags = replace(permanent.flags, read_pubek=False)
        call.tpm.permanent = replace(permanent, flags=flags)
    return NoReply()
