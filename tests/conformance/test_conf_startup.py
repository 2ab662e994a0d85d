"""Admin startup and state (Part 3 section 3): TPM_Init, TPM_Startup, TPM_SaveState."""

from __future__ import annotations

import hashlib

import pytest
from conformance_rig import NOT_PRESENT, ONES, OWNER, ZEROS, Device

from hwtpm.client import keys, owner
from hwtpm.client.info import capability
from hwtpm.tpm12.commands.integrity import Extend, PcrRead
from hwtpm.tpm12.commands.ownership import DisableForceClear, PhysicalPresence
from hwtpm.tpm12.commands.sessions import OIAP
from hwtpm.tpm12.commands.startup import SaveState, Startup
from hwtpm.tpm12.const import Capability, CapFlag, ResourceType, StartupType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Request
from hwtpm.tpm12.types import StclearFlags
from hwtpm.wire import Struct

DIGEST = hashlib.sha1(b"state").digest()


def stclear_flags(device: Device) -> StclearFlags:
    raw = capability(device.client, Capability.FLAG, CapFlag.VOLATILE.to_bytes(4, "big"))
    return StclearFlags.decode(raw)


@pytest.mark.parametrize("second", StartupType)
def test_a_second_startup_is_refused(new: Device, second: StartupType) -> None:
    assert new.refusal(Startup(second)) == Rc.INVALID_POSTINIT


def test_an_unknown_startup_type_is_refused(new: Device) -> None:
    new.restart(startup=None)
    assert new.refusal(Startup(4)) == Rc.BAD_PARAMETER
    after = new.refusal(Startup(StartupType.CLEAR))
    assert after == new.expected("startup after an unknown startup type", Rc.INVALID_POSTINIT)
    new.restart()


def test_clear_resets_flags_pcrs_and_sessions(new: Device) -> None:
    new.assert_presence()
    new.run(DisableForceClear())
    new.run(Extend(3, DIGEST))
    new.run(OIAP())
    new.restart()
    assert stclear_flags(new) == StclearFlags(False, False, False, False, False)
    assert new.pcr(3) == ZEROS
    assert keys.loaded_handles(new.client, ResourceType.AUTH) == ()


def test_deactivated_startup_lasts_until_the_next_start(new: Device) -> None:
    new.restart(StartupType.DEACTIVATED)
    assert new.refusal(PcrRead(0)) == Rc.DEACTIVATED
    assert stclear_flags(new).deactivated
    new.restart()
    assert new.refusal(PcrRead(0)) == Rc.SUCCESS


def test_saved_state_comes_back_with_static_pcrs_and_flags(owned: Device) -> None:
    """3.3 actions 1 to 4: all but the PCRs that can be reset."""
    owned.restart()
    owned.assert_presence()
    owned.run(DisableForceClear())
    values = {index: owned.run(Extend(index, DIGEST)).out_digest for index in (0, 10, 15)}
    for index in (16, 17, 23):
        owned.run(Extend(index, DIGEST), locality=2)
    owned.run(SaveState())
    owned.restart(StartupType.STATE)
    assert {index: owned.pcr(index) for index in values} == values
    assert [owned.pcr(index) for index in (16, 17, 23)] == [ZEROS, ONES, ZEROS]
    flags = stclear_flags(owned)
    assert flags.disable_force_clear
    assert flags.physical_presence
    assert owner.read_ek_as_owner(owned.client, OWNER) == owned.ek


def test_saved_state_is_good_once_and_without_one_a_resume_is_failure(new: Device) -> None:
    """3.2 action 3: the TPM goes into failure mode, which no later TPM_Startup ends."""
    new.restart()
    new.run(SaveState())
    new.restart(StartupType.STATE)
    new.restart(startup=None)
    assert new.refusal(Startup(StartupType.STATE)) == Rc.FAILEDSELFTEST
    assert new.refusal(PcrRead(0)) == Rc.FAILEDSELFTEST
    again = new.expected("startup in failure mode", Rc.FAILEDSELFTEST)
    assert new.refusal(Startup(StartupType.CLEAR)) == again
    new.restart()
    assert [new.pcr(0), new.pcr(17)] == [ZEROS, ONES]


def test_a_clear_start_forgets_the_saved_state(new: Device) -> None:
    new.run(Extend(0, DIGEST))
    new.run(SaveState())
    new.restart()
    assert new.pcr(0) == ZEROS
    new.restart(startup=None)
    assert new.refusal(Startup(StartupType.STATE)) == Rc.FAILEDSELFTEST
    new.restart()


@pytest.mark.parametrize("change", [Extend(0, DIGEST), PhysicalPresence(NOT_PRESENT)])
def test_what_changes_the_state_invalidates_the_saved_one(
    new: Device, change: Request[Struct]
) -> None:
    """3.3 description 4: a value that mirrors a preserved one was altered."""
    new.assert_presence()
    new.run(SaveState())
    new.run(change)
    new.restart(startup=None)
    assert new.refusal(Startup(StartupType.STATE)) == Rc.FAILEDSELFTEST
    new.restart()
