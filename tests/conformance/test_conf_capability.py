"""TPM_GetCapability (Part 3 section 7.1; Part 2 section 21)."""

from __future__ import annotations

import struct

import pytest
from conformance_rig import NO_HANDLE, OWNER, Device

from hwtpm.client import keys
from hwtpm.client.info import capability
from hwtpm.client.rsa import rsa_parms
from hwtpm.tpm12.commands.capability import GetCapability, SetCapability
from hwtpm.tpm12.commands.sessions import OIAP
from hwtpm.tpm12.const import (
    Capability,
    CapFlag,
    CapProperty,
    EncScheme,
    KeyAlgorithm,
    ResourceType,
    SetArea,
    SigScheme,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import (
    CapVersionInfo,
    DaInfo,
    DaInfoLimited,
    KeyHandleList,
    PermanentFlags,
    StclearFlags,
)

TRUE, FALSE = b"\1", b"\0"


def cap(device: Device, area: int, sub: bytes = b"") -> bytes:
    return capability(device.client, area, sub)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def prop(device: Device, name: CapProperty) -> bytes:
    return cap(device, Capability.PROPERTY, u32(name))


def number(device: Device, name: CapProperty) -> int:
    raw = prop(device, name)
    assert len(raw) == 4
    return int.from_bytes(raw, "big")


@pytest.mark.parametrize(
    ("ordinal", "there"),
    [(0x65, TRUE), (0x0A, TRUE), (0x99, TRUE), (0x17, TRUE), (0x64, FALSE), (0x1234, FALSE)],
)
def test_ordinals(new: Device, ordinal: int, there: bytes) -> None:
    assert cap(new, Capability.ORD, u32(ordinal)) == there


def test_algorithms_and_protocols(new: Device) -> None:
    assert cap(new, Capability.ALG, u32(KeyAlgorithm.RSA)) == TRUE
    assert cap(new, Capability.ALG, u32(0x7777)) == FALSE
    for protocol in (1, 2, 5):  # OIAP, OSAP, taking ownership
        assert cap(new, Capability.PID, protocol.to_bytes(2, "big")) == TRUE
    assert cap(new, Capability.PID, b"\x77\x77") == FALSE
    assert cap(new, Capability.AUTH_ENCRYPT, u32(KeyAlgorithm.XOR)) == TRUE
    assert cap(new, Capability.AUTH_ENCRYPT, u32(0x7777)) == FALSE


def test_ciphers_of_transport_sessions(new: Device) -> None:
    for algorithm, there in ((KeyAlgorithm.MGF1, TRUE), (KeyAlgorithm.AES128, TRUE), (0x99, FALSE)):
        assert cap(new, Capability.TRANS_ALG, u32(algorithm)) == there
    for scheme, there in ((EncScheme.SYM_CTR, TRUE), (0x99, FALSE)):
        assert cap(new, Capability.TRANS_ES, u32(scheme)[2:]) == there


def test_versions(new: Device) -> None:
    assert cap(new, Capability.VERSION) == b"\1\1\0\0"
    info = CapVersionInfo.decode(cap(new, Capability.VERSION_VAL))
    assert (info.version.major, info.version.minor, info.spec_level) == (1, 2, 2)
    assert info.tpm_vendor_id == prop(new, CapProperty.MANUFACTURER)


def test_properties_that_a_pc_client_tpm_fixes(new: Device) -> None:
    assert number(new, CapProperty.PCR) == 24
    assert number(new, CapProperty.DIR) == 1
    assert number(new, CapProperty.INPUT_BUFFER) == 4096
    assert len(prop(new, CapProperty.TIS_TIMEOUT)) == 16
    durations = struct.unpack(">III", prop(new, CapProperty.DURATION))
    assert 0 < durations[0] <= durations[1] <= durations[2]


def test_room_is_what_is_not_used(owned: Device) -> None:
    free = number(owned, CapProperty.KEYS), number(owned, CapProperty.AUTHSESS)
    assert 3 <= free[0] <= number(owned, CapProperty.MAX_KEYS)
    assert number(owned, CapProperty.MAX_AUTHSESS) >= 16
    owned.load("signing")
    owned.run(OIAP())
    assert number(owned, CapProperty.KEYS) == free[0] - 1
    assert number(owned, CapProperty.AUTHSESS) == free[1] - 1
    assert number(owned, CapProperty.MAX_NV_AVAILABLE) > 1000
    assert number(owned, CapProperty.COUNTERS) <= number(owned, CapProperty.MAX_COUNTERS)
    assert number(owned, CapProperty.MIN_COUNTER) <= 50


def test_owner_property(endorsed: Device, request: pytest.FixtureRequest) -> None:
    assert prop(endorsed, CapProperty.OWNER) == FALSE
    assert prop(request.getfixturevalue("owned"), CapProperty.OWNER) == TRUE


def test_handles_list_what_is_loaded(owned: Device) -> None:
    key, session = owned.load("signing"), owned.run(OIAP()).auth_handle
    loaded = KeyHandleList((key.handle,))
    assert KeyHandleList.decode(cap(owned, Capability.KEY_HANDLE)) == loaded
    assert KeyHandleList.decode(cap(owned, Capability.HANDLE, u32(1))) == loaded
    assert KeyHandleList.decode(cap(owned, Capability.HANDLE, u32(2))).handles == (session,)
    assert KeyHandleList.decode(cap(owned, Capability.HANDLE, u32(4))).handles == ()
    assert cap(owned, Capability.KEY_STATUS, u32(key.handle)) == FALSE
    keys.flush(owned.client, key.handle)
    keys.flush(owned.client, session, ResourceType.AUTH)
    assert KeyHandleList.decode(cap(owned, Capability.KEY_HANDLE)).handles == ()
    status = GetCapability(Capability.KEY_STATUS, u32(key.handle))
    assert owned.refusal(status) == Rc.INVALID_KEYHANDLE


def test_flags_have_their_order_and_defaults(new: Device) -> None:
    flags = PermanentFlags.decode(cap(new, Capability.FLAG, u32(CapFlag.PERMANENT)))
    assert (flags.disable, flags.deactivated, flags.ownership) == (False, False, True)
    assert (flags.read_pubek, flags.disable_owner_clear) == (True, False)
    assert (flags.nv_locked, flags.read_srk_pub, flags.tpm_established) == (False, False, False)
    assert (flags.physical_presence_lifetime_lock, flags.operator, flags.fips) == (False,) * 3
    raw = cap(new, Capability.FLAG, u32(CapFlag.VOLATILE))
    assert StclearFlags.decode(raw).deactivated is False


def test_key_parameters_that_can_be_loaded(new: Device) -> None:
    good = rsa_parms(EncScheme.NONE, SigScheme.RSA_PKCS_V15_SHA1)
    assert cap(new, Capability.CHECK_LOADED, good.encode()) == TRUE


def test_select_sizes(new: Device) -> None:
    for size, there in ((1, TRUE), (2, TRUE), (3, TRUE), (4, FALSE), (100, FALSE)):
        assert cap(new, Capability.SELECT_SIZE, struct.pack(">BBH", 1, 1, size)) == there, size


def test_dictionary_attack_information(new: Device) -> None:
    info = DaInfo.decode(cap(new, Capability.DA_LOGIC, u32(4)[2:]))
    assert (info.state, info.current_count) == (0, 0)
    assert info.threshold_count > 0


@pytest.mark.alters
def test_a_limited_information_has_no_counts(owned: Device) -> None:
    """Part 2 section 21.8; disableFullDALogicInfo is number 20 of TPM_PERMANENT_FLAGS."""
    full = cap(owned, Capability.DA_LOGIC, u32(4)[2:])
    owned.run(SetCapability(SetArea.PERM_FLAGS, u32(20), TRUE), OWNER)
    limited = DaInfoLimited.decode(cap(owned, Capability.DA_LOGIC, u32(4)[2:]))
    assert limited.state == 0
    assert limited.action_at_threshold == DaInfo.decode(full).action_at_threshold


def test_nv_list_is_empty_as_delivered(new: Device) -> None:
    assert cap(new, Capability.NV_LIST) == b""
    assert new.refusal(GetCapability(Capability.NV_INDEX, u32(0x1234))) == Rc.BADINDEX


BAD = {
    "unknown area": (0x77777777, b""),
    "no sub capability": (Capability.PROPERTY, b""),
    "short sub capability": (Capability.PROPERTY, b"\0\0\1"),
    "long sub capability": (Capability.PROPERTY, b"\0\0\1\1\0"),
    "unknown property": (Capability.PROPERTY, u32(0x77777777)),
    "unknown flags": (Capability.FLAG, u32(0x77777777)),
    "short ordinal": (Capability.ORD, b"\0"),
    "short handle type": (Capability.HANDLE, b"\1"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_asked_is_a_bad_mode(new: Device, what: str) -> None:
    area, sub = BAD[what]
    assert new.refusal(GetCapability(area, sub)) == Rc.BAD_MODE


def test_handles_of_an_unknown_type(new: Device) -> None:
    rc = new.expected("handles of an unknown type", Rc.BAD_MODE)
    assert new.refusal(GetCapability(Capability.HANDLE, u32(0x77))) == rc


def test_key_status_of_no_key(new: Device) -> None:
    status = GetCapability(Capability.KEY_STATUS, u32(NO_HANDLE))
    assert new.refusal(status) == Rc.INVALID_KEYHANDLE
