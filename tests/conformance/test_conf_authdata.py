"""Changing AuthData (Part 3 sections 17 and 27.4)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Any

import pytest
from conformance_rig import (
    NO_HANDLE,
    OWNER,
    SRK,
    SRK_HANDLE,
    USAGE,
    WRONG,
    Device,
)

from hwtpm.client import keys, seal
from hwtpm.client.rsa import oaep_encrypt, public_part, rsa_parms, to_public_key, verify_sha1
from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.authdata import ChangeAuth, ChangeAuthOwner
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.deprecated import (
    ChangeAuthAsymFinish,
    ChangeAuthAsymStart,
    ChangeAuthAsymStartReply,
)
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.storage import LoadKey2, UnBind
from hwtpm.tpm12.const import (
    AuthDataUsage,
    EncScheme,
    EntityType,
    KeyFlag,
    KeyUsage,
    SigScheme,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import KeyParms
from hwtpm.tpm12.types.certify import CertifyInfo, ChangeAuthValidate

NEW = Secret(b"n" * 20)
ADCP, OWNER_PROTOCOL = 4, 5
NONCE = hashlib.sha1(b"nonce").digest()


def change(
    device: Device,
    enc_data: bytes,
    kind: int = EntityType.KEY,
    *,
    parent: Secret = SRK,
    entity: Secret = USAGE,
    protocol: int = ADCP,
) -> bytes:
    """The changed encData, the entity's new AuthData being NEW."""
    with device.osap_srk(parent) as session, device.client.oiap(entity) as old:
        auth = session.encrypt_auth(NEW)
        request = ChangeAuth(SRK_HANDLE, protocol, auth, kind, enc_data)
        return device.client.execute(request, session, old).out_data


def refused(device: Device, enc_data: bytes, kind: int = EntityType.KEY, **how: Any) -> int:
    """The return code of `change`."""
    try:
        change(device, enc_data, kind, **how)
    except TpmError as error:
        return error.rc
    return 0


# --- 17.1 TPM_ChangeAuth -----------------------------------------------------------------------


def test_a_key_with_new_auth_answers_to_it_and_to_no_other(owned: Device) -> None:
    old = owned.key("signing")
    changed = replace(old, enc_data=change(owned, old.enc_data))
    handle = owned.run(LoadKey2(SRK_HANDLE, changed), SRK).inkey_handle
    assert owned.refusal(Sign(handle, NONCE), USAGE) == Rc.AUTHFAIL
    assert owned.refusal(Sign(handle, NONCE), NEW) == Rc.SUCCESS
    # The old blob stays valid.
    assert owned.refusal(Sign(owned.load("signing").handle, NONCE), USAGE) == Rc.SUCCESS


def test_sealed_data_with_new_auth(owned: Device) -> None:
    blob = seal.seal(owned.client, keys.srk(SRK), Secret(b"secret"), USAGE)
    changed = replace(blob, enc_data=change(owned, blob.enc_data, EntityType.DATA))
    assert seal.unseal(owned.client, keys.srk(SRK), changed, NEW).reveal() == b"secret"
    with pytest.raises(Exception, match="AUTH2FAIL"):
        seal.unseal(owned.client, keys.srk(SRK), changed, USAGE)


def test_both_sessions_end(owned: Device) -> None:
    with owned.osap_srk() as session, owned.client.oiap(USAGE) as old:
        auth = session.encrypt_auth(NEW)
        enc_data = owned.key("signing").enc_data
        owned.client.execute(
            ChangeAuth(SRK_HANDLE, ADCP, auth, EntityType.KEY, enc_data), session, old
        )
        assert not session.open
        assert not old.open
        for gone in (session, old):
            with pytest.raises(Exception, match=r"session|INVALID_AUTHHANDLE"):
                owned.client.execute(Sign(SRK_HANDLE, NONCE), gone)


def test_what_change_auth_refuses(owned: Device) -> None:
    enc_data = owned.key("signing").enc_data
    assert refused(owned, enc_data, EntityType.SRK) == Rc.WRONG_ENTITYTYPE
    assert refused(owned, enc_data, EntityType.OWNER) == Rc.WRONG_ENTITYTYPE
    assert refused(owned, enc_data, protocol=OWNER_PROTOCOL) == Rc.BAD_PARAMETER
    assert refused(owned, enc_data, parent=WRONG) == Rc.AUTHFAIL
    assert refused(owned, enc_data, entity=WRONG) == Rc.AUTH2FAIL
    as_data = owned.expected("AuthData of a key as that of data", Rc.INVALID_STRUCTURE)
    assert refused(owned, enc_data, EntityType.DATA) == as_data
    # Actions 1 and 4 come before 7.
    assert refused(owned, enc_data, EntityType.SRK, parent=WRONG) == Rc.WRONG_ENTITYTYPE
    assert refused(owned, enc_data, parent=WRONG, protocol=OWNER_PROTOCOL) == Rc.BAD_PARAMETER
    assert refused(owned, bytes(256)) == Rc.DECRYPT_ERROR
    assert refused(owned, b"") == Rc.DECRYPT_ERROR
    sealed = seal.seal(owned.client, keys.srk(SRK), Secret(b"secret"), USAGE)
    assert refused(owned, sealed.enc_data) == Rc.INVALID_STRUCTURE


def test_sessions_of_the_wrong_kind(owned: Device) -> None:
    enc_data = owned.key("signing").enc_data
    request = ChangeAuth(SRK_HANDLE, ADCP, bytes(20), EntityType.KEY, enc_data)
    assert owned.refusal(request, SRK, USAGE) == Rc.BAD_MODE
    loaded = owned.load("signing")
    with (
        owned.osap_srk() as session,
        owned.client.osap(EntityType.KEYHANDLE, loaded.handle, USAGE) as second,
    ):
        request = replace(request, new_auth=session.encrypt_auth(NEW))
        assert owned.refusal_in(request, session, second) == Rc.BAD_MODE


def test_the_parent_has_to_be_a_storage_key(owned: Device) -> None:
    key = owned.load("bind")
    enc_data = owned.key("signing").enc_data
    with key.osap(owned.client) as session, owned.client.oiap(USAGE) as entity:
        auth = session.encrypt_auth(NEW)
        request = ChangeAuth(key.handle, ADCP, auth, EntityType.KEY, enc_data)
        assert owned.refusal_in(request, session, entity) == Rc.INVALID_KEYUSAGE


# --- 17.2 TPM_ChangeAuthOwner ------------------------------------------------------------------


def change_owner(device: Device, kind: int, protocol: int = ADCP, secret: Secret = OWNER) -> int:
    with device.osap_owner(secret) as session:
        request = ChangeAuthOwner(protocol, session.encrypt_auth(NEW), kind)
        return device.refusal_in(request, session)


@pytest.mark.alters
def test_the_owner_changes_the_owners_auth(owned: Device) -> None:
    request = OwnerReadInternalPub(SRK_HANDLE)
    with owned.osap_owner() as other:
        assert change_owner(owned, EntityType.OWNER) == Rc.SUCCESS
        # 17.2 action 8
        assert owned.refusal_in(request, other) == Rc.INVALID_AUTHHANDLE
    assert owned.refusal(request, OWNER) == Rc.AUTHFAIL
    assert owned.refusal(request, NEW) == Rc.SUCCESS
    owned.restart()
    assert owned.refusal(request, NEW) == Rc.SUCCESS
    assert owned.refusal(LoadKey2(SRK_HANDLE, owned.key("signing")), SRK) == Rc.SUCCESS


@pytest.mark.alters
def test_the_owner_changes_the_auth_of_the_srk(owned: Device) -> None:
    request = LoadKey2(SRK_HANDLE, owned.key("signing"))
    with owned.osap_srk() as old, owned.osap_owner() as owner:
        assert change_owner(owned, EntityType.SRK) == Rc.SUCCESS
        # Action 8 is about the owner's sessions only.
        assert owned.refusal_in(request, old) == Rc.SUCCESS
        assert owned.refusal_in(OwnerReadInternalPub(SRK_HANDLE), owner) == Rc.INVALID_AUTHHANDLE
    assert owned.refusal(request, SRK) == Rc.AUTHFAIL
    assert owned.refusal(request, NEW) == Rc.SUCCESS
    assert owned.refusal(OwnerReadInternalPub(SRK_HANDLE), OWNER) == Rc.SUCCESS


def test_what_change_auth_owner_refuses(owned: Device) -> None:
    assert change_owner(owned, EntityType.KEY) == Rc.WRONG_ENTITYTYPE
    assert change_owner(owned, EntityType.OWNER, OWNER_PROTOCOL) == Rc.BAD_PARAMETER
    assert change_owner(owned, EntityType.OWNER, secret=WRONG) == Rc.AUTHFAIL
    oiap = ChangeAuthOwner(ADCP, bytes(20), EntityType.OWNER)
    assert owned.refusal(oiap, OWNER) == Rc.BAD_MODE
    assert owned.refusal(OwnerReadInternalPub(SRK_HANDLE), OWNER) == Rc.SUCCESS


# --- 27.4 the asymmetric way -------------------------------------------------------------------

EPHEMERAL = rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE, bits=1024)
LINK = hmac.digest(USAGE.reveal(), NEW.reveal(), "sha1")
VALIDATE = ChangeAuthValidate(NEW.reveal(), NONCE).encode()


def start(device: Device) -> ChangeAuthAsymStartReply:
    identity = device.load("identity")
    return device.run(ChangeAuthAsymStart(identity.handle, NONCE, EPHEMERAL), USAGE)


def encrypted(reply: ChangeAuthAsymStartReply, plain: bytes = VALIDATE) -> bytes:
    return oaep_encrypt(to_public_key(public_part(reply.temp_key)), plain)


def finish(device: Device, reply: ChangeAuthAsymStartReply) -> ChangeAuthAsymFinish:
    enc_data = device.key("signing").enc_data
    return ChangeAuthAsymFinish(
        SRK_HANDLE, reply.eph_handle, EntityType.KEY, LINK, encrypted(reply), enc_data
    )


def test_the_ephemeral_key_is_certified_by_the_identity(owned: Device) -> None:
    reply = start(owned)
    key = reply.temp_key
    assert (key.key_usage, key.auth_data_usage) == (KeyUsage.AUTHCHANGE, AuthDataUsage.NEVER)
    assert (key.algorithm_parms, key.pcr_info, key.enc_data) == (EPHEMERAL, b"", b"")
    assert reply.certify_info == CertifyInfo(
        KeyUsage.AUTHCHANGE,
        KeyFlag.VOLATILE,
        AuthDataUsage.NEVER,
        EPHEMERAL,
        hashlib.sha1(key.pub_key).digest(),
        NONCE,
        parent_pcr_status=bool(owned.expected("parentPCRStatus of an ephemeral key", False)),
        pcr_info=b"",
    )
    identity = to_public_key(public_part(owned.key("identity")))
    verify_sha1(identity, reply.sig, reply.certify_info.encode(), "certificate")
    assert reply.eph_handle in keys.loaded_handles(owned.client)


def test_a_key_gets_its_new_auth_under_the_ephemeral_key(owned: Device) -> None:
    """For the SRK as parent it is the owner who authorises (27.4.2, Description)."""
    reply = start(owned)
    done = owned.run(finish(owned, reply), OWNER)
    assert hmac.digest(NEW.reveal(), done.salt_nonce + NONCE, "sha1") == done.change_proof
    assert reply.eph_handle not in keys.loaded_handles(owned.client)
    changed = replace(owned.key("signing"), enc_data=done.out_data)
    handle = owned.run(LoadKey2(SRK_HANDLE, changed), SRK).inkey_handle
    assert owned.refusal(Sign(handle, NONCE), USAGE) == Rc.AUTHFAIL
    assert owned.refusal(Sign(handle, NONCE), NEW) == Rc.SUCCESS


def test_under_another_parent_its_own_secret_authorises(owned: Device) -> None:
    parent = owned.load("storage")
    child = keys.create(owned.client, parent, keys.signing_key(bits=1024), USAGE)
    reply = start(owned)
    request = replace(finish(owned, reply), parent_handle=parent.handle, enc_data=child.enc_data)
    assert owned.refusal(request, OWNER) == Rc.AUTHFAIL
    changed = replace(child, enc_data=owned.run(request, USAGE).out_data)
    handle = owned.run(LoadKey2(parent.handle, changed), USAGE).inkey_handle
    assert owned.refusal(Sign(handle, NONCE), NEW) == Rc.SUCCESS


def test_sealed_data_under_the_ephemeral_key(owned: Device) -> None:
    """Action 2: encData may come from TPM_STORED_DATA as well."""
    blob = seal.seal(owned.client, keys.srk(SRK), Secret(b"secret"), USAGE)
    request = replace(
        finish(owned, start(owned)), entity_type=EntityType.DATA, enc_data=blob.enc_data
    )
    rc = owned.expected("sealed data under the ephemeral key", Rc.SUCCESS)
    assert owned.refusal(request, OWNER) == rc


@pytest.mark.parametrize(
    ("parms", "rc"),
    [
        (rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE, bits=512), Rc.SUCCESS),
        (rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE, bits=256), Rc.BAD_KEY_PROPERTY),
        (rsa_parms(EncScheme.RSA_PKCS_V15, SigScheme.NONE, bits=512), Rc.BAD_KEY_PROPERTY),
        (rsa_parms(EncScheme.NONE, SigScheme.RSA_PKCS_V15_SHA1), Rc.BAD_KEY_PROPERTY),
    ],
    ids=["512", "256", "pkcs", "signing"],
)
def test_which_ephemeral_keys_there_are(owned: Device, parms: KeyParms, rc: Rc) -> None:
    request = ChangeAuthAsymStart(owned.load("identity").handle, NONCE, parms)
    assert owned.refusal(request, USAGE) == rc


def test_only_an_identity_certifies_an_ephemeral_key(owned: Device) -> None:
    identity = owned.load("identity").handle
    for handle, secrets, rc in (
        (owned.load("signing").handle, (USAGE,), Rc.INVALID_KEYUSAGE),
        (SRK_HANDLE, (SRK,), Rc.INVALID_KEYUSAGE),
        (NO_HANDLE, (USAGE,), Rc.INVALID_KEYHANDLE),
        (identity, (), Rc.AUTHFAIL),
        (identity, (WRONG,), Rc.AUTHFAIL),
    ):
        assert owned.refusal(ChangeAuthAsymStart(handle, NONCE, EPHEMERAL), *secrets) == rc


def test_what_the_finish_refuses(owned: Device) -> None:
    reply = start(owned)
    good = finish(owned, reply)
    for changes, rc in (
        ({"entity_type": EntityType.SRK}, Rc.WRONG_ENTITYTYPE),
        ({"new_auth_link": bytes(20)}, Rc.AUTHFAIL),
        ({"enc_new_auth": bytes(128)}, Rc.DECRYPT_ERROR),
        ({"enc_new_auth": encrypted(reply, VALIDATE[:-1])}, Rc.BAD_PARAM_SIZE),
        ({"enc_data": bytes(256)}, Rc.DECRYPT_ERROR),
        ({"eph_handle": NO_HANDLE}, Rc.INVALID_KEYHANDLE),
        ({"eph_handle": owned.load("signing").handle}, Rc.BAD_PARAMETER),
    ):
        assert owned.refusal(replace(good, **changes), OWNER) == rc, changes
    for secrets in ((), (WRONG,), (SRK,)):
        assert owned.refusal(good, *secrets) == Rc.AUTHFAIL
    assert owned.refusal(good, OWNER) == Rc.SUCCESS


def test_an_ephemeral_key_is_good_for_nothing_else(owned: Device) -> None:
    handle = start(owned).eph_handle
    assert owned.refusal(Sign(handle, NONCE)) == Rc.INVALID_KEYUSAGE
    assert owned.refusal(UnBind(handle, bytes(128))) == Rc.INVALID_KEYUSAGE
