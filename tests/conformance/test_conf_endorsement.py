"""Endorsement key handling (Part 3 section 14)."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from conformance_rig import NO_HANDLE, OWNER, SRK_HANDLE, WRONG, Device

from hwtpm.client import nv, owner
from hwtpm.client.info import permanent_flags
from hwtpm.client.nv import unrestricted
from hwtpm.client.rsa import rsa_parms
from hwtpm.tpm12.commands.deprecated import DisablePubekRead, OwnerReadPubek
from hwtpm.tpm12.commands.endorsement import (
    CreateEndorsementKeyPair,
    CreateRevocableEK,
    OwnerReadInternalPub,
    ReadPubek,
    RevokeTrust,
)
from hwtpm.tpm12.commands.nv import NvDefineSpace
from hwtpm.tpm12.commands.optin import PhysicalEnable, PhysicalSetDeactivated
from hwtpm.tpm12.const import EncScheme, KeyAlgorithm, KeyHandleValue, NvPermission, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import NvAttributes, NvDataPublic

NONCE = hashlib.sha1(b"anti replay").digest()
PARMS = rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE)


def test_before_there_is_a_key_none_can_be_read(new: Device) -> None:
    assert new.refusal(ReadPubek(NONCE)) == Rc.NO_ENDORSEMENT


@pytest.mark.alters
def test_the_key_is_created_once_and_answers_our_nonce(new: Device) -> None:
    for parms in (
        replace(PARMS, algorithm_id=KeyAlgorithm.AES128),
        rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE, bits=1024),
    ):
        refused = new.refusal(CreateEndorsementKeyPair(NONCE, parms))
        assert refused == Rc.BAD_KEY_PROPERTY
    made = new.run(CreateEndorsementKeyPair(NONCE, PARMS))
    assert made.checksum == hashlib.sha1(made.pub_endorsement_key.encode() + NONCE).digest()
    assert len(made.pub_endorsement_key.pub_key) == 256
    assert new.refusal(CreateEndorsementKeyPair(NONCE, PARMS)) == Rc.DISABLED_CMD
    new.restart()
    assert new.run(ReadPubek(NONCE)).pub_endorsement_key == made.pub_endorsement_key
    assert new.refusal(CreateEndorsementKeyPair(NONCE, PARMS)) == Rc.DISABLED_CMD


def test_the_public_key_is_read_with_a_checksum_over_the_nonce(endorsed: Device) -> None:
    reply = endorsed.run(ReadPubek(NONCE))
    assert reply.pub_endorsement_key == endorsed.ek
    assert reply.checksum == hashlib.sha1(endorsed.ek.encode() + NONCE).digest()


def test_an_owned_tpm_gives_its_key_to_the_owner_only(owned: Device) -> None:
    assert owned.refusal(ReadPubek(NONCE)) == Rc.DISABLED_CMD
    request = OwnerReadInternalPub(KeyHandleValue.EK)
    assert owned.run(request, OWNER).public_portion == owned.ek
    assert owned.refusal(request, WRONG) == Rc.AUTHFAIL


def test_the_owner_reads_the_srk_and_no_other_key(owned: Device) -> None:
    srk = owned.run(OwnerReadInternalPub(SRK_HANDLE), OWNER).public_portion
    assert srk == owned.prepared.srk
    assert owned.refusal(OwnerReadInternalPub(NO_HANDLE), OWNER) == Rc.BAD_PARAMETER
    assert owned.refusal(OwnerReadInternalPub(KeyHandleValue.OWNER), OWNER) == Rc.BAD_PARAMETER


@pytest.mark.alters
def test_reading_the_key_can_be_forbidden(owned: Device) -> None:
    """27.7."""
    assert owned.refusal(DisablePubekRead(), WRONG) == Rc.AUTHFAIL
    owned.run(DisablePubekRead(), OWNER)
    assert owned.refusal(ReadPubek(NONCE)) == Rc.DISABLED_CMD


def test_the_deprecated_command_gives_the_owner_the_same_key(owned: Device) -> None:
    """27.6."""
    assert owned.run(OwnerReadPubek(), OWNER).pub_endorsement_key == owned.ek
    assert owned.refusal(OwnerReadPubek(), WRONG) == Rc.AUTHFAIL


# --- 14.2 and 14.3 a key that can be revoked ---------------------------------------------------

RESET = hashlib.sha1(b"reset").digest()


@pytest.mark.alters
@pytest.mark.parametrize("generated", [False, True])
def test_a_revocable_key_goes_with_its_reset_value_and_presence(
    new: Device, generated: bool
) -> None:
    made = new.run(CreateRevocableEK(NONCE, PARMS, generated, RESET))
    reset = made.output_ekreset
    assert (reset == RESET) is not generated
    assert made.checksum == hashlib.sha1(made.pub_endorsement_key.encode() + NONCE).digest()
    assert permanent_flags(new.client).enable_revoke_ek
    assert new.run(ReadPubek(NONCE)).pub_endorsement_key == made.pub_endorsement_key
    again = CreateRevocableEK(NONCE, PARMS, generated, RESET)
    assert new.refusal(again) == Rc.DISABLED_CMD
    new.assert_presence()
    assert new.refusal(RevokeTrust(bytes(20))) == Rc.AUTHFAIL
    new.withdraw_presence()
    assert new.refusal(RevokeTrust(bytes(20))) == Rc.AUTHFAIL
    assert new.refusal(RevokeTrust(reset)) == Rc.BAD_PRESENCE
    new.restart()
    new.assert_presence()
    assert new.refusal(RevokeTrust(reset)) == Rc.SUCCESS
    new.run(PhysicalEnable())
    new.run(PhysicalSetDeactivated(False))
    new.restart()
    assert new.refusal(ReadPubek(NONCE)) == Rc.NO_ENDORSEMENT
    assert new.refusal(CreateEndorsementKeyPair(NONCE, PARMS)) == Rc.SUCCESS
    new.assert_presence()
    assert new.refusal(RevokeTrust(reset)) == Rc.PERMANENTEK


@pytest.mark.alters
def test_revoking_clears_the_owner_and_every_shipped_nv_area(new: Device) -> None:
    for index, permission in (
        (0x1000F000, NvPermission.OWNERWRITE),
        (0x10001234, NvPermission.PPWRITE),
        (0x00001234, NvPermission.PPWRITE),
        (0x00001235, NvPermission.OWNERWRITE),
    ):
        area = NvDataPublic(
            index,
            unrestricted(),
            unrestricted(),
            NvAttributes(permission),
            read_st_clear=False,
            write_st_clear=False,
            write_define=False,
            data_size=8,
        )
        new.run(NvDefineSpace(area, bytes(20)))
    nv.lock(new.client)
    new.run(CreateRevocableEK(NONCE, PARMS, False, RESET))
    owner.take_ownership(new.client, OWNER)
    new.assert_presence()
    new.run(RevokeTrust(RESET))
    flags = permanent_flags(new.client)
    assert (flags.disable, flags.deactivated, flags.nv_locked) == (True, True, False)
    assert flags.read_pubek
    new.run(PhysicalEnable())
    left = new.expected("NV areas that outlive the endorsement key", 1)
    assert len(nv.indices(new.client)) == left
    assert 0x00001234 in nv.indices(new.client)


def test_a_permanent_key_is_not_revoked(endorsed: Device) -> None:
    """14.3 action 1 comes first."""
    assert not permanent_flags(endorsed.client).enable_revoke_ek
    assert endorsed.refusal(RevokeTrust(bytes(20))) == Rc.PERMANENTEK
