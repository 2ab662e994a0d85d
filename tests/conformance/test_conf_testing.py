"""Admin testing (Part 3 section 4)."""

from __future__ import annotations

import pytest
from conformance_rig import Device

from hwtpm.client.info import capability
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.commands.testing import ContinueSelfTest, GetTestResult, SelfTestFull
from hwtpm.tpm12.const import Capability, CapProperty, StartupType
from hwtpm.tpm12.rc import Rc


@pytest.mark.parametrize("command", [SelfTestFull(), ContinueSelfTest()])
def test_self_tests_pass(new: Device, command: SelfTestFull | ContinueSelfTest) -> None:
    assert new.refusal(command) == Rc.SUCCESS
    assert new.refusal(PcrRead(0)) == Rc.SUCCESS


def test_the_result_can_be_read_any_time(new: Device) -> None:
    assert new.run(GetTestResult()).out_data
    new.run(SelfTestFull())
    assert new.run(GetTestResult()).out_data


def test_in_failure_mode_result_and_manufacturer_can_be_read(new: Device) -> None:
    """4.3 and 7.1 action 3. A resume without saved state is the way there."""
    new.restart(startup=None)
    assert new.refusal(Startup(StartupType.STATE)) == Rc.FAILEDSELFTEST
    assert new.refusal(GetTestResult()) == Rc.SUCCESS
    for name in (CapProperty.MANUFACTURER, CapProperty.TIS_TIMEOUT, CapProperty.DURATION):
        assert capability(new.client, Capability.PROPERTY, name.to_bytes(4, "big"))
    new.restart()
