"""TPM_SetCapability and TPM_GetCapabilityOwner (Part 3 sections 7.2 and 7.3).

What can be set, and when, is in the tables "Flag Restrictions" of Part 2 sections 7.1.1 to 7.6.1.
"""

from __future__ import annotations

from dataclasses import fields

import pytest
from conformance_rig import OWNER, SRK, SRK_HANDLE, WRONG, Device

from hwtpm.client.info import capability, permanent_flags, stclear_flags
from hwtpm.tpm12.commands.capability import GetCapabilityOwner, SetCapability
from hwtpm.tpm12.commands.endorsement import ReadPubek
from hwtpm.tpm12.commands.integrity import PcrRead, PcrReset
from hwtpm.tpm12.commands.optin import PhysicalDisable, PhysicalEnable, SetTempDeactivated
from hwtpm.tpm12.commands.ownership import ForceClear, OwnerClear
from hwtpm.tpm12.commands.storage import GetPubKey
from hwtpm.tpm12.const import Capability, CapProperty, SetArea
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PcrSelection

FLAGS, DATA = SetArea.PERM_FLAGS, SetArea.PERM_DATA
CLEAR_FLAGS, CLEAR_DATA, ANY_FLAGS = (
    SetArea.STCLEAR_FLAGS,
    SetArea.STCLEAR_DATA,
    SetArea.STANY_FLAGS,
)
TRUE, FALSE = b"\1", b"\0"


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def setting(area: int, number: int, value: bytes) -> SetCapability:
    return SetCapability(area, u32(number), value)


NOT_SETTABLE = [
    *((FLAGS, n) for n in (0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 0x10001)),
    *((DATA, n) for n in (*range(23), 24, 26)),
    *((CLEAR_FLAGS, n) for n in (0, 1, 3, 4, 5, 6)),
    *((CLEAR_DATA, n) for n in (0, 1, 2, 3, 4, 5, 7)),
    *((ANY_FLAGS, n) for n in (0, 1, 2, 3, 5)),
    *((SetArea.STANY_DATA, n) for n in range(8)),
    (SetArea.VENDOR, 0),
]


def test_nothing_else_can_be_set(owned: Device) -> None:
    owned.assert_presence()
    before = owned.shelf.save()
    for area, number in NOT_SETTABLE:
        for value in (TRUE, u32(1)):
            request = setting(area, number, value)
            assert owned.refusal(request, OWNER, locality=4) == Rc.BAD_PARAMETER, (area, number)
    owned.withdraw_presence()
    assert owned.shelf.save() == before


@pytest.mark.parametrize("area", [0, 8, 0x77777777])
def test_an_area_that_is_not_there(owned: Device, area: int) -> None:
    rc = owned.expected("setting in an unknown area", Rc.BAD_PARAMETER)
    assert owned.refusal(setting(area, 1, TRUE), OWNER) == rc


@pytest.mark.parametrize("sub_cap", [b"", b"\x11", b"\0\0\0\0\x11"])
def test_a_flag_number_has_four_bytes(owned: Device, sub_cap: bytes) -> None:
    assert owned.refusal(SetCapability(FLAGS, sub_cap, TRUE), OWNER) == Rc.BAD_PARAMETER


def test_values_have_the_size_of_what_they_set(owned: Device) -> None:
    for value in (b"", b"\0\0", u32(1)):
        assert owned.refusal(setting(FLAGS, 17, value), OWNER) == Rc.BAD_PARAMETER
    for value in (b"", TRUE, bytes(5)):
        assert owned.refusal(setting(DATA, 23, value), OWNER) == Rc.BAD_PARAMETER
        assert owned.refusal(setting(CLEAR_DATA, 6, value)) == Rc.BAD_PARAMETER


@pytest.mark.alters
def test_a_flag_is_zero_or_one(owned: Device) -> None:
    rc = owned.expected("setting a flag to 2", Rc.BAD_PARAMETER)
    assert owned.refusal(setting(FLAGS, 17, b"\2"), OWNER) == rc


# --- what the owner sets -----------------------------------------------------------------------


@pytest.mark.alters
@pytest.mark.parametrize(
    ("number", "flag"),
    [(17, "read_srk_pub"), (4, "read_pubek"), (20, "disable_full_da_logic_info")],
)
def test_flags_that_the_owner_switches(owned: Device, number: int, flag: str) -> None:
    for value, expected in ((TRUE, True), (TRUE, True), (FALSE, False)):
        request = setting(FLAGS, number, value)
        assert owned.refusal(request) == Rc.AUTHFAIL
        assert owned.refusal(request, WRONG) == Rc.AUTHFAIL
        assert owned.refusal(request, OWNER) == Rc.SUCCESS
        assert getattr(permanent_flags(owned.client), flag) is expected


@pytest.mark.alters
def test_what_the_owners_flags_do(owned: Device) -> None:
    assert owned.refusal(GetPubKey(SRK_HANDLE), SRK) == Rc.INVALID_KEYHANDLE
    owned.run(setting(FLAGS, 17, TRUE), OWNER)
    assert owned.run(GetPubKey(SRK_HANDLE), SRK).pub_key == owned.prepared.srk
    assert owned.refusal(ReadPubek(bytes(20))) == Rc.DISABLED_CMD
    owned.run(setting(FLAGS, 4, TRUE), OWNER)
    assert owned.run(ReadPubek(bytes(20))).pub_endorsement_key == owned.ek
    owned.restart()
    assert owned.refusal(ReadPubek(bytes(20))) == Rc.SUCCESS


@pytest.mark.alters
def test_the_owner_gives_up_owner_clear_for_good(owned: Device) -> None:
    assert owned.refusal(setting(FLAGS, 5, FALSE), OWNER) == Rc.BAD_PARAMETER
    assert owned.refusal(setting(FLAGS, 5, TRUE), OWNER) == Rc.SUCCESS
    assert owned.refusal(OwnerClear(), OWNER) == Rc.CLEAR_DISABLED


@pytest.mark.alters
def test_the_owner_gives_up_maintenance(owned: Device) -> None:
    assert owned.refusal(setting(FLAGS, 6, TRUE), OWNER) == Rc.BAD_PARAMETER
    assert owned.refusal(setting(FLAGS, 6, FALSE), OWNER) == Rc.SUCCESS
    assert not permanent_flags(owned.client).allow_maintenance


@pytest.mark.alters
def test_the_restrictions_of_certified_migration_keys(owned: Device) -> None:
    request = setting(DATA, 23, u32(0x15))
    assert owned.refusal(request) == Rc.AUTHFAIL
    assert owned.refusal(request, OWNER) == Rc.SUCCESS
    asked = u32(CapProperty.CMK_RESTRICTION)
    assert capability(owned.client, Capability.PROPERTY, asked) == u32(0x15)


@pytest.mark.alters
def test_new_daa_secrets_are_the_owners_to_make(owned: Device) -> None:
    before = owned.shelf.save()
    rc = owned.expected("new DAA secrets without the owner", Rc.AUTHFAIL)
    assert owned.refusal(setting(DATA, 25, b"")) == rc
    assert owned.refusal(setting(DATA, 25, b""), OWNER) == Rc.SUCCESS
    assert owned.shelf.save() != before


# --- what physical presence sets ---------------------------------------------------------------


@pytest.mark.alters
def test_disabling_takes_the_owner_or_presence(owned: Device) -> None:
    owned.assert_presence()
    owned.withdraw_presence()
    assert owned.refusal(setting(FLAGS, 1, TRUE)) == Rc.AUTHFAIL
    owned.run(setting(FLAGS, 1, TRUE), OWNER)
    assert owned.refusal(PcrRead(0)) == Rc.DISABLED
    owned.assert_presence()
    owned.run(setting(FLAGS, 1, FALSE))
    assert owned.refusal(PcrRead(0)) == Rc.SUCCESS


@pytest.mark.alters
def test_deactivating_takes_presence(owned: Device) -> None:
    owned.assert_presence()
    owned.withdraw_presence()
    assert owned.refusal(setting(FLAGS, 3, TRUE)) == Rc.AUTHFAIL
    owned.assert_presence()
    rc = owned.expected("deactivating with authorisation", Rc.AUTHFAIL)
    assert owned.refusal(setting(FLAGS, 3, TRUE), OWNER) == rc
    owned.run(setting(FLAGS, 3, TRUE))
    assert owned.refusal(PcrRead(0)) == Rc.SUCCESS
    owned.restart()
    assert owned.refusal(PcrRead(0)) == Rc.DEACTIVATED


def test_allowing_an_owner_takes_presence_and_no_owner(endorsed: Device) -> None:
    endorsed.assert_presence()
    endorsed.withdraw_presence()
    assert endorsed.refusal(setting(FLAGS, 2, FALSE)) == Rc.AUTHFAIL
    endorsed.assert_presence()
    for value in (FALSE, TRUE):
        endorsed.run(setting(FLAGS, 2, value))
        assert permanent_flags(endorsed.client).ownership == (value == TRUE)


def test_an_owner_is_never_forbidden_afterwards(owned: Device) -> None:
    owned.assert_presence()
    assert owned.refusal(setting(FLAGS, 2, FALSE)) == Rc.OWNER_SET
    assert owned.refusal(setting(FLAGS, 2, FALSE), OWNER) == Rc.OWNER_SET
    owned.withdraw_presence()


def test_deferred_presence(new: Device) -> None:
    """Part 2 7.5.2: bits are set with presence, and cleared or left without."""
    request = [setting(CLEAR_DATA, 6, u32(value)) for value in range(4)]
    new.assert_presence()
    new.withdraw_presence()
    assert new.refusal(request[0]) == Rc.SUCCESS
    assert new.refusal(request[1]) == Rc.BAD_PRESENCE
    new.assert_presence()
    assert new.refusal(request[3]) == Rc.SUCCESS
    new.withdraw_presence()
    assert [new.refusal(request[n]) for n in (3, 1)] == [Rc.SUCCESS] * 2
    assert [new.refusal(request[n]) for n in (3, 2)] == [Rc.BAD_PRESENCE] * 2
    new.restart()
    assert new.refusal(request[1]) == Rc.BAD_PRESENCE


# --- what anybody sets -------------------------------------------------------------------------


@pytest.mark.alters
def test_force_clear_is_given_up_until_the_next_start(owned: Device) -> None:
    assert owned.refusal(setting(CLEAR_FLAGS, 2, FALSE)) == Rc.BAD_PARAMETER
    assert owned.refusal(setting(CLEAR_FLAGS, 2, TRUE)) == Rc.SUCCESS
    assert stclear_flags(owned.client).disable_force_clear
    owned.assert_presence()
    assert owned.refusal(ForceClear()) == Rc.CLEAR_DISABLED
    owned.restart()
    assert not stclear_flags(owned.client).disable_force_clear


@pytest.mark.parametrize(("area", "number"), [(FLAGS, 18), (ANY_FLAGS, 4)])
def test_what_a_launch_left_is_cleared_from_localities_3_and_4(
    new: Device, area: int, number: int
) -> None:
    for locality in range(5):
        rc = Rc.SUCCESS if locality in (3, 4) else Rc.BAD_LOCALITY
        assert new.refusal(setting(area, number, FALSE), locality=locality) == rc
    assert new.refusal(setting(area, number, TRUE), locality=3) == Rc.BAD_PARAMETER


def test_without_a_trusted_os_dynamic_pcrs_reset_to_ones(new: Device) -> None:
    """16.4: TOSPresent decides."""
    new.tpm.hash_start()
    new.tpm.hash_end()
    assert permanent_flags(new.client).tpm_established
    new.run(PcrReset(PcrSelection.of([20])), locality=2)
    assert new.pcr(20) == bytes(20)
    new.run(setting(ANY_FLAGS, 4, FALSE), locality=3)
    new.run(PcrReset(PcrSelection.of([20])), locality=2)
    assert new.pcr(20) == b"\xff" * 20
    new.run(setting(FLAGS, 18, FALSE), locality=3)
    assert not permanent_flags(new.client).tpm_established
    new.restart()


# --- disabled and deactivated ------------------------------------------------------------------

AVAILABLE = [(FLAGS, 1), (FLAGS, 18), (FLAGS, 20), (DATA, 25), (CLEAR_DATA, 6)]
WHEN_ENABLED = [(FLAGS, 17), (DATA, 23), (FLAGS, 4), (CLEAR_FLAGS, 2), (ANY_FLAGS, 4)]


def value_of(area: int, number: int) -> bytes:
    """What it may be set to."""
    if (area, number) in ((FLAGS, 5), (CLEAR_FLAGS, 2)):
        return TRUE
    return u32(0) if area in (DATA, CLEAR_DATA) else FALSE


@pytest.mark.alters
@pytest.mark.parametrize(("area", "number"), AVAILABLE + WHEN_ENABLED)
def test_what_can_be_set_while_disabled_or_deactivated(
    owned: Device, area: int, number: int
) -> None:
    available = (area, number) in AVAILABLE
    request = setting(area, number, value_of(area, number))
    owned.assert_presence()
    owned.run(PhysicalDisable())
    rc = Rc.SUCCESS if available else Rc.DISABLED
    assert owned.refusal(request, OWNER, locality=3) == rc
    owned.run(PhysicalEnable())
    owned.run(SetTempDeactivated())
    rc = Rc.SUCCESS if available else Rc.DEACTIVATED
    assert owned.refusal(request, OWNER, locality=3) == rc


# --- 7.3 ---------------------------------------------------------------------------------------


def test_the_owner_gets_all_flags_as_bits(owned: Device) -> None:
    owned.assert_presence()
    reply = owned.run(GetCapabilityOwner(), OWNER)
    for bits, flags in (
        (reply.non_volatile_flags, permanent_flags(owned.client)),
        (reply.volatile_flags, stclear_flags(owned.client)),
    ):
        values = [getattr(flags, field.name) for field in fields(flags)]
        assert bits == sum(1 << n for n, value in enumerate(values) if value)
    assert (reply.version.major, reply.version.minor) == (1, 2)
    assert owned.refusal(GetCapabilityOwner(), WRONG) == Rc.AUTHFAIL
    owned.withdraw_presence()
