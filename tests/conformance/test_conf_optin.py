"""Admin opt-in (Part 3 section 5): enable, activate, allow an owner."""

from __future__ import annotations

import pytest
from conformance_rig import OWNER, USAGE, WRONG, Device

from hwtpm.client import owner
from hwtpm.client.info import capability
from hwtpm.tpm12.commands.integrity import Extend, PcrRead
from hwtpm.tpm12.commands.optin import (
    OwnerSetDisable,
    PhysicalDisable,
    PhysicalEnable,
    PhysicalSetDeactivated,
    SetOperatorAuth,
    SetOwnerInstall,
    SetTempDeactivated,
)
from hwtpm.tpm12.commands.ownership import OwnerClear
from hwtpm.tpm12.const import Capability, CapFlag
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Request
from hwtpm.tpm12.types import PermanentFlags
from hwtpm.wire import Struct

NEEDS_PRESENCE: list[Request[Struct]] = [
    SetOwnerInstall(False),
    PhysicalEnable(),
    PhysicalDisable(),
    PhysicalSetDeactivated(True),
    SetTempDeactivated(),
    SetOperatorAuth(bytes(20)),
]


def flags(device: Device) -> PermanentFlags:
    raw = capability(device.client, Capability.FLAG, CapFlag.PERMANENT.to_bytes(4, "big"))
    return PermanentFlags.decode(raw)


def test_without_presence_nothing_is_switched(new: Device) -> None:
    new.assert_presence()
    new.withdraw_presence()
    before = flags(new)
    for request in NEEDS_PRESENCE:
        assert new.refusal(request) == Rc.BAD_PRESENCE, request
    assert flags(new) == before


def test_disable_and_enable_take_effect_at_once_and_last(new: Device) -> None:
    new.assert_presence()
    new.run(PhysicalDisable())
    assert new.refusal(PcrRead(0)) == Rc.DISABLED
    new.restart()
    assert new.refusal(PcrRead(0)) == Rc.DISABLED
    assert new.refusal(Extend(0, bytes(20))) == Rc.SUCCESS
    new.assert_presence()
    new.run(PhysicalEnable())
    assert new.refusal(PcrRead(0)) == Rc.SUCCESS


def test_extend_while_disabled_answers_zeros_but_extends(new: Device) -> None:
    """16.1 action 6: outDigest is 20 zero bytes while the TPM is disabled."""
    new.assert_presence()
    new.run(PhysicalDisable())
    assert new.run(Extend(1, bytes(20))).out_digest == bytes(20)
    new.run(PhysicalEnable())
    assert new.pcr(1) != bytes(20)


def test_deactivation_takes_effect_at_the_next_start(new: Device) -> None:
    new.assert_presence()
    new.run(PhysicalSetDeactivated(True))
    assert flags(new).deactivated
    assert new.refusal(PcrRead(0)) == Rc.SUCCESS
    new.restart()
    assert new.refusal(PcrRead(0)) == Rc.DEACTIVATED
    new.assert_presence()
    new.run(PhysicalSetDeactivated(False))
    assert new.refusal(PcrRead(0)) == Rc.DEACTIVATED
    new.restart()
    assert new.refusal(PcrRead(0)) == Rc.SUCCESS


def test_temporary_deactivation_ends_with_the_next_start(new: Device) -> None:
    new.assert_presence()
    new.run(SetTempDeactivated())
    assert new.refusal(PcrRead(0)) == Rc.DEACTIVATED
    new.restart()
    assert new.refusal(PcrRead(0)) == Rc.SUCCESS


def test_owner_install_forbidden_keeps_owners_out(endorsed: Device) -> None:
    endorsed.assert_presence()
    endorsed.run(SetOwnerInstall(False))
    assert not flags(endorsed).ownership
    with pytest.raises(Exception, match="INSTALL_DISABLED"):
        owner.take_ownership(endorsed.client, OWNER, ek=endorsed.ek)
    endorsed.run(SetOwnerInstall(True))
    assert flags(endorsed).ownership


def test_owner_install_does_nothing_while_there_is_an_owner(owned: Device) -> None:
    """5.1 action 1, which precedes even physical presence."""
    before = flags(owned)
    assert owned.refusal(SetOwnerInstall(False)) == Rc.SUCCESS
    assert flags(owned) == before


def test_the_owner_disables_and_enables_without_presence(owned: Device) -> None:
    assert owned.refusal(OwnerSetDisable(True), WRONG) == Rc.AUTHFAIL
    owned.run(OwnerSetDisable(True), OWNER)
    assert owned.refusal(PcrRead(0)) == Rc.DISABLED
    owned.run(OwnerSetDisable(False), OWNER)
    assert owned.refusal(PcrRead(0)) == Rc.SUCCESS


def test_without_an_operator_only_presence_deactivates(new: Device) -> None:
    assert new.refusal(SetTempDeactivated(), USAGE) == Rc.NOOPERATOR


@pytest.mark.alters
def test_the_operator_deactivates_without_presence(new: Device) -> None:
    """5.6 and 5.7."""
    new.assert_presence()
    new.run(SetOperatorAuth(WRONG.reveal()))
    new.run(SetOperatorAuth(USAGE.reveal()))
    assert flags(new).operator
    new.restart()
    assert new.refusal(SetTempDeactivated(), WRONG) == Rc.AUTHFAIL
    assert new.refusal(SetTempDeactivated()) == Rc.BAD_PRESENCE
    assert new.refusal(SetTempDeactivated(), USAGE) == Rc.SUCCESS
    assert new.refusal(PcrRead(0)) == Rc.DEACTIVATED


@pytest.mark.alters
def test_clearing_forgets_the_operator(owned: Device) -> None:
    owned.assert_presence()
    owned.run(SetOperatorAuth(USAGE.reveal()))
    owned.run(OwnerClear(), OWNER)
    owned.run(PhysicalEnable())
    assert not flags(owned).operator
