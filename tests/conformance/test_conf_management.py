"""Management (Part 3 section 9.3) and the dictionary-attack defence (Part 1 section 19)."""

from __future__ import annotations

import pytest
from conformance_rig import OWNER, USAGE, WRONG, Device

from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.management import ResetLockValue
from hwtpm.tpm12.commands.sessions import OIAP
from hwtpm.tpm12.const import KeyHandleValue
from hwtpm.tpm12.rc import Rc

THRESHOLD = 5  # what all three engines have


@pytest.mark.alters
def test_wrong_secrets_lock_the_tpm_and_the_owner_unlocks_it(owned: Device) -> None:
    key = owned.load("signing")
    sign = Sign(key.handle, bytes(20))
    for _ in range(THRESHOLD + 1):
        assert owned.refusal(sign, WRONG) == Rc.AUTHFAIL
    assert owned.refusal(sign, USAGE) == Rc.DEFEND_LOCK_RUNNING
    assert owned.refusal(OwnerReadInternalPub(KeyHandleValue.EK), OWNER) == Rc.DEFEND_LOCK_RUNNING
    for harmless in (PcrRead(0), OIAP()):
        assert owned.refusal(harmless) == Rc.SUCCESS
    assert owned.refusal(ResetLockValue(), OWNER) == Rc.SUCCESS
    assert owned.refusal(sign, USAGE) == Rc.SUCCESS


@pytest.mark.alters
def test_a_wrong_reset_while_locked_bars_further_resets(owned: Device) -> None:
    """9.3 action 2: one try a lockout."""
    sign = Sign(owned.load("signing").handle, bytes(20))
    for _ in range(THRESHOLD + 1):
        owned.refusal(sign, WRONG)
    assert owned.refusal(ResetLockValue(), WRONG) == Rc.AUTHFAIL
    assert owned.refusal(ResetLockValue(), OWNER) == Rc.AUTHFAIL
    assert owned.refusal(sign, USAGE) == Rc.DEFEND_LOCK_RUNNING


def test_the_owner_resets_without_a_lock_too(owned: Device) -> None:
    assert owned.refusal(ResetLockValue(), OWNER) == Rc.SUCCESS
    assert owned.refusal(ResetLockValue(), WRONG) == Rc.AUTHFAIL


def test_wrong_secrets_below_the_threshold_do_not_lock(owned: Device) -> None:
    sign = Sign(owned.load("signing").handle, bytes(20))
    for _ in range(THRESHOLD - 1):
        assert owned.refusal(sign, WRONG) == Rc.AUTHFAIL
    assert owned.refusal(sign, USAGE) == Rc.SUCCESS
