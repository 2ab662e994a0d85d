"""TPM_GetCapability (Part 3 section 7.1; Part 2 section 21)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import ACTIONS, Call, Refuse, serves
from hwtpm.softtpm.engine.chapters.counters import active_counter
from hwtpm.softtpm.engine.daa_sessions import MAX_DAA_SESSIONS
from hwtpm.softtpm.engine.keys import MAX_KEYS
from hwtpm.softtpm.engine.lockout import THRESHOLD
from hwtpm.softtpm.engine.rsa import rsa_parms
from hwtpm.softtpm.engine.sessions import MAX_SESSIONS
from hwtpm.softtpm.engine.state import MAX_CONTEXTS, MAX_COUNTERS, MAX_DELEGATE_ROWS, MAX_FAMILIES
from hwtpm.softtpm.engine.transports import MAX_TRANSPORTS
from hwtpm.softtpm.engine.version import MANUFACTURER, version_info
from hwtpm.tpm12.commands.capability import (
    GetCapability,
    GetCapabilityOwner,
    GetCapabilityOwnerReply,
    GetCapabilityReply,
)
from hwtpm.tpm12.const import (
    MAX_FRAME,
    NUM_PCRS,
    Capability,
    CapFlag,
    CapProperty,
    KeyAlgorithm,
    ResourceType,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types import (
    DaActionType,
    DaInfo,
    DaInfoLimited,
    KeyHandleList,
    KeyParms,
    PermanentFlags,
    StclearFlags,
    Version,
)
from hwtpm.tpm12.wrapped import CIPHERS
from hwtpm.wire import WireError

__all__: list[str] = []

Query = Callable[[Call, bytes], bytes]
Property = Callable[[Call], bytes]

_AREAS: dict[int, Query] = {}
_PROPERTIES: dict[int, Property] = {}

_TIMEOUTS_US: Final = (750_000, 2_000_000, 750_000, 750_000)
"""TIMEOUT_A to TIMEOUT_D (PC Client TIS 1.2 section 11.2)."""
_DURATIONS_US: Final = (50_000_000, 100_000_000, 300_000_000)
"""Generous, as a host may be busy: what libtpms announces, so drivers have lived with it."""
_STARTUP_EFFECTS: Final = 0x44
"""ST_STATE ends a SHA-1 calculation and brings back all else; ST_CLEAR resets auditDigest (Part 2
section 4.6)."""
_DA_TIMEOUT: Final = 0x00000001  # TPM_DA_ACTION_TIMEOUT

_STRUCT_VER: Final = Version(1, 1, 0, 0).encode()
_VERSION_INFO: Final = version_info().encode()

_PROTOCOLS: Final = {
    0x0001: "TPM_OIAP",
    0x0002: "TPM_OSAP",
    0x0003: "TPM_OSAP",  # ADIP: new AuthData under an OSAP session
    0x0004: "TPM_ChangeAuth",
    0x0005: "TPM_TakeOwnership",
    0x0006: "TPM_DSAP",
    0x0007: "TPM_EstablishTransport",
}
"""TPM_PROTOCOL_ID (Part 2 section 4.7) and the command that each stands or falls with."""


def _u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def _bool(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def _number(sub_cap: bytes, size: int = 4) -> int:
    if len(sub_cap) != size:
        raise Refuse(Rc.BAD_MODE)
    return int.from_bytes(sub_cap, "big")


def _area(area: Capability) -> Callable[[Query], Query]:
    def enter(query: Query) -> Query:
        _AREAS[area] = query
        return query

    return enter


@serves(GetCapability)
def get_capability(call: Call, request: GetCapability) -> GetCapabilityReply:
    """7.1. In failure mode only what action 3 names."""
    query = _AREAS.get(request.cap_area)
    if call.tpm.failure and not _in_failure_mode(request):
        raise Refuse(Rc.FAILEDSELFTEST)
    if query is None:
        raise Refuse(Rc.BAD_MODE)
    return GetCapabilityReply(query(call, request.sub_cap))


def _in_failure_mode(request: GetCapability) -> bool:
    if request.cap_area == Capability.PROPERTY:
        return int.from_bytes(request.sub_cap, "big") in (
            CapProperty.MANUFACTURER,
            CapProperty.DURATION,
            CapProperty.TIS_TIMEOUT,
        )
    return request.cap_area in (Capability.VERSION, Capability.VERSION_VAL, Capability.MFR)


def _bits(flags: PermanentFlags | StclearFlags) -> int:
    """Bit N is the Nth flag of the structure."""
    values = (getattr(flags, name) for name in flags.layout.codecs)
    return sum(1 << number for number, value in enumerate(values) if value)


@serves(GetCapabilityOwner)
def get_capability_owner(call: Call, request: GetCapabilityOwner) -> GetCapabilityOwnerReply:
    """7.3. The version is that of the specification which numbers the flags."""
    flags = _bits(call.tpm.permanent.flags), _bits(call.tpm.volatile.flags)
    return GetCapabilityOwnerReply(version_info().version, *flags)


# --- what is supported -------------------------------------------------------------------------


@_area(Capability.ORD)
def _ordinal(call: Call, sub_cap: bytes) -> bytes:
    return _bool(_number(sub_cap) in ACTIONS)


@_area(Capability.ALG)
def _algorithm(call: Call, sub_cap: bytes) -> bytes:
    return _bool(_number(sub_cap) == KeyAlgorithm.RSA)


@_area(Capability.PID)
def _protocol(call: Call, sub_cap: bytes) -> bytes:
    name = _PROTOCOLS.get(_number(sub_cap, 2))
    return _bool(name is not None and TABLE[name].ordinal in ACTIONS)


@_area(Capability.AUTH_ENCRYPT)
def _adip(call: Call, sub_cap: bytes) -> bytes:
    return _bool(_number(sub_cap) in (KeyAlgorithm.XOR, KeyAlgorithm.AES128))


@_area(Capability.SYM_MODE)
def _nothing(call: Call, sub_cap: bytes) -> bytes:
    _number(sub_cap)
    return _bool(False)


@_area(Capability.TRANS_ALG)
def _transport_algorithm(call: Call, sub_cap: bytes) -> bytes:
    return _bool(_number(sub_cap) in CIPHERS)


@_area(Capability.TRANS_ES)
def _transport_scheme(call: Call, sub_cap: bytes) -> bytes:
    return _bool(_number(sub_cap, 2) in CIPHERS[KeyAlgorithm.AES128])


@_area(Capability.CHECK_LOADED)
def _check_loaded(call: Call, sub_cap: bytes) -> bytes:
    try:
        rsa_parms(KeyParms.decode(sub_cap))
    except WireError:
        raise Refuse(Rc.BAD_PARAM_SIZE) from None
    except Refuse as unusable:
        if unusable.rc == Rc.BAD_KEY_PROPERTY:
            return _bool(False)
        raise
    return _bool(len(call.tpm.keys) < MAX_KEYS)


@_area(Capability.SELECT_SIZE)
def _select_size(call: Call, sub_cap: bytes) -> bytes:
    if len(sub_cap) != 4:
        raise Refuse(Rc.BAD_PARAM_SIZE)
    major, minor, size = struct.unpack(">BBH", sub_cap)
    if major != 1 or minor not in (1, 2):
        raise Refuse(Rc.BAD_PARAMETER)
    return _bool(1 <= size <= NUM_PCRS // 8)


@_area(Capability.VERSION)
def _version(call: Call, sub_cap: bytes) -> bytes:
    return _STRUCT_VER


@_area(Capability.VERSION_VAL)
def _version_value(call: Call, sub_cap: bytes) -> bytes:
    return _VERSION_INFO


@_area(Capability.MFR)
def _manufacturer(call: Call, sub_cap: bytes) -> bytes:
    """There is nothing that the standard areas do not say."""
    return b""


# --- state -------------------------------------------------------------------------------------


@_area(Capability.FLAG)
def _flags(call: Call, sub_cap: bytes) -> bytes:
    match _number(sub_cap):
        case CapFlag.PERMANENT:
            return call.tpm.permanent.flags.encode()
        case CapFlag.VOLATILE:
            return call.tpm.volatile.flags.encode()
        case _:
            raise Refuse(Rc.BAD_MODE)


@_area(Capability.KEY_HANDLE)
def _key_handles(call: Call, sub_cap: bytes) -> bytes:
    return _handles(call.tpm.keys.handles)


@_area(Capability.HANDLE)
def _handles_of_type(call: Call, sub_cap: bytes) -> bytes:
    tpm = call.tpm
    match _number(sub_cap):
        case ResourceType.KEY:
            return _handles(tpm.keys.handles)
        case ResourceType.AUTH:
            return _handles(tpm.sessions.handles)
        case ResourceType.COUNTER:
            return _handles(counter.handle for counter in tpm.permanent.counters)
        case ResourceType.TRANS:
            return _handles(tpm.transports.handles)
        case ResourceType.DAA_TPM:
            return _handles(tpm.daa.handles)
        case ResourceType.CONTEXT:
            return _handles(tpm.volatile.context_list)
        case _:
            raise Refuse(Rc.BAD_MODE)


def _handles(handles: Iterable[int]) -> bytes:
    return KeyHandleList(tuple(handles)).encode()


@_area(Capability.KEY_STATUS)
def _key_status(call: Call, sub_cap: bytes) -> bytes:
    """ownerEvict of a loaded key."""
    handle = _number(sub_cap)
    if call.tpm.keys.get(handle) is None:
        raise Refuse(Rc.INVALID_KEYHANDLE)
    return _bool(call.tpm.permanent.keeps_key(handle))


@_area(Capability.NV_LIST)
def _nv_list(call: Call, sub_cap: bytes) -> bytes:
    return b"".join(_u32(area.public.nv_index) for area in call.tpm.permanent.nv_areas)


@_area(Capability.NV_INDEX)
def _nv_index(call: Call, sub_cap: bytes) -> bytes:
    index = _number(sub_cap)
    area = call.tpm.permanent.nv_area(index)
    if area is None:
        raise Refuse(Rc.BADINDEX)
    stclear = call.tpm.volatile
    public = replace(
        area.public,
        read_st_clear=index in stclear.read_locked,
        write_st_clear=index in stclear.write_locked,
    )
    return public.encode()


@_area(Capability.DA_LOGIC)
def _da_logic(call: Call, sub_cap: bytes) -> bytes:
    """All secrets share one count, so the entity type does not matter."""
    tpm = call.tpm
    failures = tpm.permanent.auth_failures
    state, action = int(tpm.locked_out), DaActionType(_DA_TIMEOUT)
    if tpm.permanent.flags.disable_full_da_logic_info:
        return DaInfoLimited(state, action, b"").encode()
    remaining = tpm.lockout.remaining_s(failures)
    return DaInfo(state, failures, THRESHOLD, action, remaining, b"").encode()


# --- TPM_CAP_PROPERTY --------------------------------------------------------------------------


@_area(Capability.PROPERTY)
def _property(call: Call, sub_cap: bytes) -> bytes:
    answer = _PROPERTIES.get(_number(sub_cap))
    if answer is None:
        raise Refuse(Rc.BAD_MODE)
    return answer(call)


def _fixed(value: bytes) -> Property:
    return lambda _: value


def _free_sessions(call: Call) -> int:
    return MAX_SESSIONS - len(call.tpm.sessions)


def _free_transports(call: Call) -> int:
    return MAX_TRANSPORTS - len(call.tpm.transports)


_PROPERTIES.update(
    {
        CapProperty.PCR: _fixed(_u32(NUM_PCRS)),
        CapProperty.DIR: _fixed(_u32(1)),
        CapProperty.MANUFACTURER: _fixed(MANUFACTURER),
        CapProperty.KEYS: lambda call: _u32(MAX_KEYS - len(call.tpm.keys)),
        CapProperty.MIN_COUNTER: _fixed(_u32(0)),
        CapProperty.AUTHSESS: lambda call: _u32(_free_sessions(call)),
        CapProperty.TRANSESS: lambda call: _u32(_free_transports(call)),
        CapProperty.COUNTERS: lambda call: _u32(MAX_COUNTERS - len(call.tpm.permanent.counters)),
        CapProperty.MAX_AUTHSESS: _fixed(_u32(MAX_SESSIONS)),
        CapProperty.MAX_TRANSESS: _fixed(_u32(MAX_TRANSPORTS)),
        CapProperty.MAX_COUNTERS: _fixed(_u32(MAX_COUNTERS)),
        CapProperty.MAX_KEYS: _fixed(_u32(MAX_KEYS)),
        CapProperty.OWNER: lambda call: _bool(call.tpm.owned),
        CapProperty.CONTEXT: lambda call: _u32(MAX_CONTEXTS - len(call.tpm.volatile.context_list)),
        CapProperty.MAX_CONTEXT: _fixed(_u32(MAX_CONTEXTS)),
        CapProperty.FAMILYROWS: _fixed(_u32(MAX_FAMILIES)),
        CapProperty.TIS_TIMEOUT: _fixed(_u32(*_TIMEOUTS_US)),
        CapProperty.STARTUP_EFFECT: _fixed(_u32(_STARTUP_EFFECTS)),
        CapProperty.DELEGATE_ROW: _fixed(_u32(MAX_DELEGATE_ROWS)),
        CapProperty.MAX_DAASESS: _fixed(_u32(MAX_DAA_SESSIONS)),
        CapProperty.DAASESS: lambda call: _u32(MAX_DAA_SESSIONS - len(call.tpm.daa)),
        CapProperty.CONTEXT_DIST: _fixed(_u32(0xFFFFFFFF)),
        CapProperty.DAA_INTERRUPT: _fixed(_bool(True)),
        CapProperty.SESSIONS: lambda call: _u32(_free_sessions(call) + _free_transports(call)),
        CapProperty.MAX_SESSIONS: _fixed(_u32(MAX_SESSIONS + MAX_TRANSPORTS)),
        CapProperty.CMK_RESTRICTION: lambda call: _u32(call.tpm.permanent.restrict_delegate),
        CapProperty.DURATION: _fixed(_u32(*_DURATIONS_US)),
        CapProperty.ACTIVE_COUNTER: lambda call: _u32(active_counter(call.tpm.volatile)),
        CapProperty.MAX_NV_AVAILABLE: lambda call: _u32(call.tpm.permanent.nv_available),
        CapProperty.INPUT_BUFFER: _fixed(_u32(MAX_FRAME)),
    }
)
