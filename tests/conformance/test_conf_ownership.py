"""Admin ownership (Part 3 section 6), physical presence and the establishment bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conformance_rig import CMD_ENABLE, NOT_PRESENT, OWNER, PRESENT, SRK, WRONG, Device

from hwtpm.client import keys, owner, seal
from hwtpm.client.rsa import oaep_encrypt, rsa_parms, to_public_key
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub, ReadPubek
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.optin import PhysicalEnable
from hwtpm.tpm12.commands.ownership import (
    DisableForceClear,
    DisableOwnerClear,
    ForceClear,
    OwnerClear,
    PhysicalPresence,
    ResetEstablishmentBit,
    TakeOwnership,
)
from hwtpm.tpm12.const import AuthDataUsage, EncScheme, KeyFlag, KeyHandleValue, KeyUsage, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import Key

CMD_DISABLE, HW_ENABLE, HW_DISABLE, LIFETIME_LOCK, LOCK = 0x0100, 0x0040, 0x0200, 0x0080, 0x0004
PID_OWNER = 5
SRK_TEMPLATE = keys.storage_key()


def take(device: Device, srk: Key = SRK_TEMPLATE, **changes: object) -> TakeOwnership:
    public = to_public_key(device.ek)
    request = TakeOwnership(
        PID_OWNER, oaep_encrypt(public, OWNER.reveal()), oaep_encrypt(public, SRK.reveal()), srk
    )
    return replace(request, **changes)  # type: ignore[arg-type]


# --- 6.1 TPM_TakeOwnership ---------------------------------------------------------------------


@pytest.mark.alters
def test_taking_ownership_gives_a_public_srk_with_the_secrets_sent(endorsed: Device) -> None:
    srk = endorsed.run(take(endorsed), OWNER).srk_pub
    assert (srk.key_usage, srk.enc_data) == (KeyUsage.STORAGE, b"")
    assert len(srk.pub_key) == 256
    read = endorsed.run(OwnerReadInternalPub(KeyHandleValue.SRK), OWNER).public_portion
    assert read.pub_key == srk.pub_key
    with endorsed.osap_srk(SRK) as session:
        assert session.open
    endorsed.restart()
    assert endorsed.run(OwnerReadInternalPub(KeyHandleValue.SRK), OWNER).public_portion == read


def test_without_an_endorsement_key_nobody_becomes_owner(new: Device) -> None:
    request = TakeOwnership(PID_OWNER, bytes(256), bytes(256), SRK_TEMPLATE)
    assert new.refusal(request, OWNER) == Rc.NO_ENDORSEMENT


def test_bad_requests_to_take_ownership_are_refused(endorsed: Device) -> None:
    other = replace(SRK_TEMPLATE, key_usage=KeyUsage.SIGNING)
    migratable = replace(SRK_TEMPLATE, key_flags=KeyFlag.MIGRATABLE)
    small = rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE, bits=1024)
    cases = [
        (take(endorsed, protocol_id=4), Rc.BAD_PARAMETER),
        (take(endorsed, enc_owner_auth=bytes(256)), Rc.DECRYPT_ERROR),
        (take(endorsed, enc_owner_auth=bytes(255)), Rc.DECRYPT_ERROR),
        (take(endorsed, enc_srk_auth=bytes(256)), Rc.DECRYPT_ERROR),
        (take(endorsed, other), Rc.INVALID_KEYUSAGE),
        (take(endorsed, migratable), Rc.INVALID_KEYUSAGE),
        (take(endorsed, replace(SRK_TEMPLATE, key_flags=0x20)), Rc.BAD_KEY_PROPERTY),
        (take(endorsed, replace(SRK_TEMPLATE, algorithm_parms=small)), Rc.BAD_KEY_PROPERTY),
    ]
    for number, (request, rc) in enumerate(cases):
        assert endorsed.refusal(request, OWNER) == rc, number
    assert endorsed.refusal(take(endorsed), WRONG) == Rc.AUTHFAIL
    assert endorsed.refusal(ReadPubek(bytes(20))) == Rc.SUCCESS


def test_a_second_owner_is_refused(owned: Device) -> None:
    assert owned.refusal(take(owned), WRONG) == Rc.OWNER_SET


@pytest.mark.alters
def test_an_srk_that_needs_no_secret_can_be_made(endorsed: Device) -> None:
    endorsed.run(take(endorsed, replace(SRK_TEMPLATE, auth_data_usage=AuthDataUsage.NEVER)), OWNER)
    template = keys.signing_key(bits=1024, needs_auth=False)
    blob = keys.create(endorsed.client, keys.srk(SRK), template)
    for auth in (None, SRK):
        keys.load(endorsed.client, keys.KeyRef(KeyHandleValue.SRK, auth), blob)


# --- 6.2 to 6.5 clearing -----------------------------------------------------------------------


@pytest.mark.alters
@pytest.mark.parametrize("way", ["owner", "presence"])
def test_clearing_loses_owner_and_srk_and_disables(owned: Device, way: str) -> None:
    blob = seal.seal(owned.client, keys.srk(SRK), Secret(b"old"), SRK)
    if way == "owner":
        assert owned.refusal(OwnerClear(), WRONG) == Rc.AUTHFAIL
        owned.run(OwnerClear(), OWNER)
    else:
        assert owned.refusal(ForceClear()) == Rc.BAD_PRESENCE
        owned.assert_presence()
        owned.run(ForceClear())
    assert owned.refusal(PcrRead(0)) == Rc.DISABLED
    owned.assert_presence()
    owned.run(PhysicalEnable())
    owner.physical_set_deactivated(owned.client, False)
    owned.restart()
    assert owned.refusal(OwnerReadInternalPub(KeyHandleValue.SRK), OWNER) == Rc.NOSRK
    owned.run(take(owned), OWNER)
    with pytest.raises(Exception, match="NOTSEALED_BLOB"):
        seal.unseal(owned.client, keys.srk(SRK), blob, SRK)


@pytest.mark.alters
def test_owner_clear_can_be_disabled_for_good(owned: Device) -> None:
    assert owned.refusal(DisableOwnerClear(), WRONG) == Rc.AUTHFAIL
    owned.run(DisableOwnerClear(), OWNER)
    assert owned.refusal(OwnerClear(), OWNER) == Rc.CLEAR_DISABLED
    owned.restart()
    assert owned.refusal(OwnerClear(), OWNER) == Rc.CLEAR_DISABLED
    owned.assert_presence()
    assert owned.refusal(ForceClear()) == Rc.SUCCESS


@pytest.mark.alters
def test_force_clear_can_be_disabled_until_the_next_start(owned: Device) -> None:
    owned.assert_presence()
    owned.run(DisableForceClear())
    assert owned.refusal(ForceClear()) == Rc.CLEAR_DISABLED
    owned.restart()
    owned.assert_presence()
    assert owned.refusal(ForceClear()) == Rc.SUCCESS


# --- 6.6 TSC_PhysicalPresence ------------------------------------------------------------------


def presence(device: Device, bits: int) -> int:
    return device.refusal(PhysicalPresence(bits))


@pytest.mark.alters
def test_presence_by_command_works_only_once_enabled(new: Device) -> None:
    fresh = new.expected("presence by command as delivered", Rc.BAD_PARAMETER)
    assert presence(new, PRESENT) == fresh
    assert presence(new, CMD_ENABLE) == Rc.SUCCESS
    assert presence(new, PRESENT) == Rc.SUCCESS
    assert new.refusal(PhysicalEnable()) == Rc.SUCCESS
    assert presence(new, NOT_PRESENT) == Rc.SUCCESS
    assert new.refusal(PhysicalEnable()) == Rc.BAD_PRESENCE


def test_presence_ends_with_a_restart_and_its_enabling_does_not(new: Device) -> None:
    new.assert_presence()
    new.restart()
    assert new.refusal(PhysicalEnable()) == Rc.BAD_PRESENCE
    assert presence(new, PRESENT) == Rc.SUCCESS


def test_locked_presence_stays_until_the_next_start(new: Device) -> None:
    new.assert_presence()
    assert presence(new, LOCK) == Rc.SUCCESS
    assert new.refusal(PhysicalEnable()) == Rc.BAD_PRESENCE
    assert presence(new, PRESENT) == Rc.BAD_PARAMETER
    new.restart()
    assert presence(new, PRESENT) == Rc.SUCCESS


def test_presence_bits_that_contradict_are_refused(new: Device) -> None:
    new.assert_presence()
    for bits in (
        0,
        PRESENT | NOT_PRESENT,
        CMD_ENABLE | CMD_DISABLE,
        HW_ENABLE | HW_DISABLE,
        CMD_ENABLE | PRESENT,
        LOCK | PRESENT,
    ):
        assert presence(new, bits) == Rc.BAD_PARAMETER, hex(bits)
    assert new.refusal(PhysicalEnable()) == Rc.SUCCESS


@pytest.mark.alters
def test_a_lifetime_lock_fixes_how_presence_is_told(new: Device) -> None:
    assert presence(new, CMD_ENABLE | HW_DISABLE | LIFETIME_LOCK) == Rc.SUCCESS
    for bits in (CMD_DISABLE, HW_ENABLE, LIFETIME_LOCK):
        assert presence(new, bits) == Rc.BAD_PARAMETER
    new.restart()
    assert presence(new, CMD_DISABLE) == Rc.BAD_PARAMETER
    assert presence(new, PRESENT) == Rc.SUCCESS


# --- 6.7 TSC_ResetEstablishmentBit -------------------------------------------------------------


@pytest.mark.alters
def test_the_establishment_bit_is_reset_from_localities_3_and_4(new: Device) -> None:
    for locality in (3, 4):
        new.tpm.hash_start()
        new.tpm.hash_end()
        assert new.tpm.established
        for other in (0, 1, 2):
            assert new.refusal(ResetEstablishmentBit(), locality=other) == Rc.BAD_LOCALITY
        assert new.tpm.established
        new.run(ResetEstablishmentBit(), locality=locality)
        assert not new.tpm.established
