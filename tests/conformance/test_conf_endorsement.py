"""Endorsement key handling (Part 3 section 14)."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from conformance_rig import NO_HANDLE, OWNER, SRK_HANDLE, WRONG, Device

from hwtpm.client.rsa import rsa_parms
from hwtpm.tpm12.commands.deprecated import DisablePubekRead
from hwtpm.tpm12.commands.endorsement import (
    CreateEndorsementKeyPair,
    OwnerReadInternalPub,
    ReadPubek,
)
from hwtpm.tpm12.const import EncScheme, KeyAlgorithm, KeyHandleValue, SigScheme
from hwtpm.tpm12.rc import Rc

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
