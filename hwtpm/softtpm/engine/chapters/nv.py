"""Non-volatile storage (Part 3 section 20; Part 2 section 19)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.keys import ReleaseCondition
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.state import ZERO_DIGEST, NvArea, Permanent
from hwtpm.tpm12.commands.nv import (
    NvDefineSpace,
    NvReadValue,
    NvReadValueAuth,
    NvReadValueAuthReply,
    NvReadValueReply,
    NvWriteValue,
    NvWriteValueAuth,
)
from hwtpm.tpm12.const import (
    DIGEST_SIZE,
    EVERY_LOCALITY,
    MAX_FRAME,
    NUM_PCRS,
    EntityType,
    NvIndex,
    NvPermission,
)
from hwtpm.tpm12.frame import AUTH_RESPONSE_SIZE, HEADER_SIZE
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types import NvAttributes, NvDataPublic, PcrInfoShort, PcrSelection

__all__ = ["count_write"]

MAX_WRITES_WITHOUT_OWNER: Final = 64
_TRIAL: Final = 0x0000F004  # TPM_NV_INDEX_TRIAL: define without defining
_RESERVED: Final = 0x0F000000  # the index's resvd bits
_SELECT_SIZE: Final = NUM_PCRS // 8
_MAX_READ: Final = MAX_FRAME - HEADER_SIZE - 4 - AUTH_RESPONSE_SIZE

_ANY_STATE: Final = PcrInfoShort(PcrSelection(bytes(_SELECT_SIZE)), EVERY_LOCALITY, ZERO_DIGEST)
_DIR: Final = NvDataPublic(
    nv_index=NvIndex.DIR,
    pcr_info_read=_ANY_STATE,
    pcr_info_write=_ANY_STATE,
    permission=NvAttributes(NvPermission.OWNERWRITE | NvPermission.WRITEALL),
    read_st_clear=False,
    write_st_clear=False,
    write_define=False,
    data_size=DIGEST_SIZE,
)


def _area(call: Call, index: int) -> NvArea:
    area = call.tpm.permanent.nv_area(index)
    if area is None:
        raise Refuse(Rc.BADINDEX)
    return area


def _area_or_dir(call: Call, index: int) -> NvArea:
    """The area with that index; the deprecated DIR is one for 20.2 and 20.4."""
    if index == NvIndex.DIR:
        return NvArea(_DIR, ZERO_DIGEST, call.tpm.permanent.dir)
    return _area(call, index)


def _grants(area: NvArea, permission: NvPermission) -> bool:
    return bool(area.public.permission.attributes & permission)


def _entity(index: int) -> tuple[int, bytes]:
    return int(EntityType.NV), index.to_bytes(4, "big")


def _require_enabled(call: Call) -> None:
    if call.tpm.permanent.flags.disable:
        raise Refuse(Rc.DISABLED)
    if call.tpm.volatile.flags.deactivated:
        raise Refuse(Rc.DEACTIVATED)


def _check_locality(call: Call, info: PcrInfoShort) -> None:
    if not info.locality_at_release >> call.locality & 1:
        raise Refuse(Rc.BAD_LOCALITY)


def _check_pcrs(call: Call, info: PcrInfoShort) -> None:
    check_release(call, ReleaseCondition.of_short(info))


def count_write(call: Call) -> Permanent:
    """The state with one more write without an owner; it counts if the command succeeds."""
    permanent = call.tpm.permanent
    if call.tpm.owned:
        return permanent
    count = permanent.writes_without_owner + 1
    if count > MAX_WRITES_WITHOUT_OWNER:
        raise Refuse(Rc.MAXNVWRITES)
    return replace(permanent, writes_without_owner=count)


# --- 20.1 TPM_NV_DefineSpace -------------------------------------------------------------------


def _check_pcr_info(info: PcrInfoShort) -> None:
    """Actions 7 and 8."""
    if (
        len(info.pcr_selection.select) > _SELECT_SIZE
        or not 0 < info.locality_at_release <= EVERY_LOCALITY
    ):
        raise Refuse(Rc.INVALID_STRUCTURE)


def _check_new_area(public: NvDataPublic) -> None:
    """Actions 7 to 9."""
    _check_pcr_info(public.pcr_info_read)
    _check_pcr_info(public.pcr_info_write)
    has = public.permission.attributes
    for conflict in (
        NvPermission.OWNERWRITE | NvPermission.AUTHWRITE,
        NvPermission.OWNERREAD | NvPermission.AUTHREAD,
    ):
        if has & conflict == conflict:
            raise Refuse(Rc.AUTH_CONFLICT)
    write_protections = (
        NvPermission.OWNERWRITE
        | NvPermission.AUTHWRITE
        | NvPermission.WRITEDEFINE
        | NvPermission.PPWRITE
    )
    if not has & write_protections and public.pcr_info_write.locality_at_release == EVERY_LOCALITY:
        raise Refuse(Rc.PER_NOWRITE)
    if public.nv_index in (NvIndex.DIR, NvIndex.LOCK) or public.nv_index & _RESERVED:
        raise Refuse(Rc.BADINDEX)
    if not public.data_size:
        raise Refuse(Rc.BAD_PARAM_SIZE)


def _authorise_definition(call: Call, request: NvDefineSpace, locked: bool) -> bytes:
    """Actions 4 and 5: the new area's AuthData."""
    if call.unproven:
        call.authorise_owner()
        return call.new_auth(request.enc_auth)
    if locked:
        call.require_presence()
        if call.tpm.owned:
            raise Refuse(Rc.OWNER_SET)
        if not request.pub_info.data_size:
            raise Refuse(Rc.BAD_DATASIZE)
    call.tpm.permanent = count_write(call)
    return request.enc_auth


def _delete(call: Call, old: NvArea, locked: bool) -> None:
    """Action 6."""
    tpm = call.tpm
    stclear = tpm.volatile
    index = old.public.nv_index
    write_locked = (_grants(old, NvPermission.GLOBALLOCK) and stclear.flags.b_global_lock) or (
        _grants(old, NvPermission.WRITE_STCLEAR) and index in stclear.write_locked
    )
    if locked and write_locked:
        raise Refuse(Rc.AREA_LOCKED)
    tpm.permanent = tpm.permanent.without_nv_area(index)
    _set_read_lock(call, index, on=False)
    if index in stclear.write_locked:
        tpm.stclear = replace(tpm.volatile, write_locked=stclear.write_locked - {index})
    call.end_sessions_of(_entity(index))


@serves(NvDefineSpace)
def nv_define_space(call: Call, request: NvDefineSpace) -> NoReply:
    """20.1."""
    tpm = call.tpm
    public = request.pub_info
    index = public.nv_index
    if index == NvIndex.LOCK and not call.sessions:
        return _lock(call, public.data_size)
    locked = tpm.permanent.flags.nv_locked
    if locked:
        _require_enabled(call)
    if index == NvIndex.INDEX0 or (locked and index & NvIndex.D_BIT):
        raise Refuse(Rc.BADINDEX)
    auth = _authorise_definition(call, request, locked)
    old = tpm.permanent.nv_area(index)
    if old is not None:
        _delete(call, old, locked)
        if not public.data_size:
            return NoReply()
    _check_new_area(public)
    if public.data_size > tpm.permanent.nv_available:
        raise Refuse(Rc.NOSPACE)
    for tail in call.tails:
        tail.continue_session = 0
    if index != _TRIAL:
        area = NvArea(
            replace(public, read_st_clear=False, write_st_clear=False, write_define=False),
            auth,
            b"\xff" * public.data_size,
        )
        tpm.permanent = tpm.permanent.with_nv_area(area)
    return NoReply()


def _lock(call: Call, size: int) -> NoReply:
    """Action 1: from now on the protections of all areas count."""
    if size:
        raise Refuse(Rc.BADINDEX)
    permanent = call.tpm.permanent
    if not permanent.flags.nv_locked:
        call.tpm.permanent = replace(permanent, flags=replace(permanent.flags, nv_locked=True))
    return NoReply()


# --- 20.2 and 20.3 writing ---------------------------------------------------------------------


def _check_write_locks(call: Call, area: NvArea) -> None:
    stclear = call.tpm.volatile
    if (
        (_grants(area, NvPermission.WRITEDEFINE) and area.public.write_define)
        or (_grants(area, NvPermission.GLOBALLOCK) and stclear.flags.b_global_lock)
        or (
            _grants(area, NvPermission.WRITE_STCLEAR)
            and area.public.nv_index in stclear.write_locked
        )
    ):
        raise Refuse(Rc.AREA_LOCKED)


def _check_write_presence(call: Call, area: NvArea) -> None:
    if _grants(area, NvPermission.PPWRITE):
        call.require_presence()


def _set_read_lock(call: Call, index: int, *, on: bool) -> None:
    stclear = call.tpm.volatile
    if (index in stclear.read_locked) != on:
        call.tpm.stclear = replace(stclear, read_locked=stclear.read_locked ^ {index})


def _write(call: Call, permanent: Permanent, area: NvArea, offset: int, data: bytes) -> None:
    """Actions 14 to 16 of 20.2; `permanent` is the state with this write counted."""
    tpm = call.tpm
    public = area.public
    index = public.nv_index
    if not data:
        if index == NvIndex.DIR:
            return
        if not public.write_define:
            locked = replace(area, public=replace(public, write_define=True))
            tpm.permanent = tpm.permanent.with_nv_area(locked)
        tpm.stclear = replace(tpm.volatile, write_locked=tpm.volatile.write_locked | {index})
    else:
        end = offset + len(data)
        if end > public.data_size:
            raise Refuse(Rc.NOSPACE)
        if _grants(area, NvPermission.WRITEALL) and len(data) != public.data_size:
            raise Refuse(Rc.NOT_FULLWRITE)
        new = area.data[:offset] + data + area.data[end:]
        if index == NvIndex.DIR:
            tpm.permanent = replace(permanent, dir=new)
        else:
            tpm.permanent = permanent.with_nv_area(NvArea(public, area.auth, new))
    _set_read_lock(call, index, on=False)


@serves(NvWriteValue)
def nv_write_value(call: Call, request: NvWriteValue) -> NoReply:
    """20.2."""
    tpm = call.tpm
    index = request.nv_index
    if index == NvIndex.INDEX0:
        return _lock_globally(call, request)
    area = _area_or_dir(call, index)
    locked = tpm.permanent.flags.nv_locked
    of_owner = _grants(area, NvPermission.OWNERWRITE)
    if locked and of_owner:
        _require_enabled(call)
    if locked and of_owner != bool(call.sessions):
        raise Refuse(Rc.AUTH_CONFLICT)
    permanent = tpm.permanent
    if call.sessions:
        call.authorise_owner()
    else:
        permanent = count_write(call)
    if _grants(area, NvPermission.AUTHWRITE):
        raise Refuse(Rc.AUTH_CONFLICT)
    if locked and index != NvIndex.DIR:
        info = area.public.pcr_info_write
        _check_locality(call, info)
        _check_write_presence(call, area)
        _check_write_locks(call, area)
        _check_pcrs(call, info)
    _write(call, permanent, area, request.offset, request.data)
    return NoReply()


def _lock_globally(call: Call, request: NvWriteValue) -> NoReply:
    """Action 6 of 20.2: lock all areas with GLOBALLOCK until the next start."""
    if call.sessions:
        call.authorise_owner()
    else:
        count_write(call)
    if request.data:
        raise Refuse(Rc.BADINDEX)
    stclear = call.tpm.volatile
    call.tpm.stclear = replace(stclear, flags=replace(stclear.flags, b_global_lock=True))
    return NoReply()


@serves(NvWriteValueAuth)
def nv_write_value_auth(call: Call, request: NvWriteValueAuth) -> NoReply:
    """20.3."""
    area = _area(call, request.nv_index)
    if not _grants(area, NvPermission.AUTHWRITE):
        raise Refuse(Rc.AUTH_CONFLICT)
    call.authorise(area.auth, _entity(request.nv_index))
    info = area.public.pcr_info_write
    _check_locality(call, info)
    _check_write_presence(call, area)
    _check_pcrs(call, info)
    _check_write_locks(call, area)
    _write(call, call.tpm.permanent, area, request.offset, request.data)
    return NoReply()


# --- 20.4 and 20.5 reading ---------------------------------------------------------------------


def _check_read_presence(call: Call, area: NvArea) -> None:
    if _grants(area, NvPermission.PPREAD):
        call.require_presence()


def _check_read_lock(call: Call, area: NvArea) -> None:
    if (
        _grants(area, NvPermission.READ_STCLEAR)
        and area.public.nv_index in call.tpm.volatile.read_locked
    ):
        raise Refuse(Rc.DISABLED_CMD)


def _read(call: Call, area: NvArea, offset: int, size: int) -> bytes:
    """Actions 10 and 11 of 20.4."""
    if not size:
        if area.public.nv_index != NvIndex.DIR:
            _set_read_lock(call, area.public.nv_index, on=True)
        return b""
    if offset + size > area.public.data_size:
        raise Refuse(Rc.NOSPACE)
    if size > _MAX_READ:
        raise Refuse(Rc.SIZE)
    return area.data[offset : offset + size]


@serves(NvReadValue)
def nv_read_value(call: Call, request: NvReadValue) -> NvReadValueReply:
    """20.4."""
    area = _area_or_dir(call, request.nv_index)
    locked = call.tpm.permanent.flags.nv_locked
    of_owner = _grants(area, NvPermission.OWNERREAD)
    if locked and of_owner:
        _require_enabled(call)
    if locked and call.sessions and not of_owner and request.nv_index != NvIndex.DIR:
        raise Refuse(Rc.AUTH_CONFLICT)
    if call.sessions:
        call.authorise_owner()
    elif _grants(area, NvPermission.AUTHREAD) or (locked and of_owner):
        raise Refuse(Rc.AUTH_CONFLICT)
    if locked and request.nv_index != NvIndex.DIR:
        info = area.public.pcr_info_read
        _check_locality(call, info)
        _check_read_presence(call, area)
        _check_read_lock(call, area)
        _check_pcrs(call, info)
    return NvReadValueReply(_read(call, area, request.offset, request.data_size))


@serves(NvReadValueAuth)
def nv_read_value_auth(call: Call, request: NvReadValueAuth) -> NvReadValueAuthReply:
    """20.5."""
    area = _area(call, request.nv_index)
    if not _grants(area, NvPermission.AUTHREAD):
        raise Refuse(Rc.AUTH_CONFLICT)
    call.authorise(area.auth, _entity(request.nv_index))
    info = area.public.pcr_info_read
    _check_read_presence(call, area)
    _check_locality(call, info)
    _check_pcrs(call, info)
    _check_read_lock(call, area)
    return NvReadValueAuthReply(_read(call, area, request.offset, request.data_size))
