"""Commands of our engine that libtpms lacks: TPM_FieldUpgrade and TPM_SetRedirection."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_rig import KEY_AUTH, OWNER_AUTH, SRK, SRK_AUTH, Rig, template

from hwtpm.client import owner
from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engine import Engine
from hwtpm.tpm12.commands.capability import SetCapability
from hwtpm.tpm12.commands.management import FieldUpgrade, SetRedirection
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import KeyFlag, KeyUsage, SetArea, StartupType
from hwtpm.tpm12.rc import Rc

GPIO = 1
UPGRADE = FieldUpgrade(b"\0" * 32)


@pytest.fixture
def unowned() -> Rig:
    engine = Engine(MemoryStorage())
    engine.power_on()
    rig = Rig(engine)
    rig.run(Startup(StartupType.CLEAR))
    return rig


def test_without_an_owner_an_upgrade_takes_deferred_presence(unowned: Rig) -> None:
    assert unowned.refusal(UPGRADE) == Rc.BAD_PRESENCE
    owner.assert_presence(unowned.client)
    assert unowned.refusal(UPGRADE) == Rc.BAD_PRESENCE
    unowned.run(SetCapability(SetArea.STCLEAR_DATA, b"\0\0\0\6", b"\0\0\0\1"))
    assert unowned.refusal(UPGRADE) == Rc.AUTHFAIL  # nobody could have signed it


def test_without_an_owner_nobody_proves_a_setting(unowned: Rig) -> None:
    """7.2 with a session."""
    request = SetCapability(SetArea.STCLEAR_DATA, b"\0\0\0\6", bytes(4))
    assert unowned.refusal(request, OWNER_AUTH) == Rc.AUTHFAIL
    assert unowned.refusal(request) == 0


def test_with_an_owner_an_upgrade_takes_the_owner(rig: Rig) -> None:
    owner.assert_presence(rig.client)
    rig.run(SetCapability(SetArea.STCLEAR_DATA, b"\0\0\0\6", b"\0\0\0\1"))
    before = rig.wire.tpm.permanent
    for secrets in ((), (SRK_AUTH,), (OWNER_AUTH,)):
        assert rig.refusal(UPGRADE, *secrets) == Rc.AUTHFAIL
    after = rig.wire.tpm.permanent
    # The right secret is not counted as a wrong one.
    assert replace(after, auth_failures=0) == before
    assert after.auth_failures == 1


def test_a_key_can_only_be_redirected_to_a_channel_that_exists(rig: Rig) -> None:
    """9.2 action 2; there is none."""
    plain = rig.make_key(template(KeyUsage.SIGNING, 512)).handle
    redirected = rig.make_key(
        template(KeyUsage.SIGNING, 512, key_flags=int(KeyFlag.REDIRECTION))
    ).handle
    for request, rc in (
        (SetRedirection(0x0BADBAD0, GPIO, bytes(4)), Rc.INVALID_KEYHANDLE),
        (SetRedirection(plain, GPIO, bytes(4)), Rc.BAD_TYPE),
        (SetRedirection(SRK, GPIO, bytes(4)), Rc.BAD_TYPE),
        (SetRedirection(redirected, GPIO, bytes(3)), Rc.BAD_PARAM_SIZE),
        (SetRedirection(redirected, GPIO, bytes(4)), Rc.BAD_PARAMETER),
        (SetRedirection(redirected, GPIO + 1, bytes(4)), Rc.BAD_PARAMETER),
    ):
        assert rig.refusal(request) == rc
        assert rig.refusal(request, OWNER_AUTH) == rc
        assert rig.refusal(request, KEY_AUTH) == Rc.AUTHFAIL
