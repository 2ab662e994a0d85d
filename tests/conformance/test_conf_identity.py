"""Identity creation and activation (Part 3 section 15)."""

from __future__ import annotations

from dataclasses import replace

from conformance_rig import NO_HANDLE, OWNER, SRK, USAGE, WRONG, ZEROS, Device

from hwtpm.client import identity, keys
from hwtpm.client.rsa import oaep_encrypt, public_part, to_public_key
from hwtpm.tpm12.commands.identity import ActivateIdentity, MakeIdentity
from hwtpm.tpm12.const import KeyFlag, KeyUsage, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import AsymCaContents, Key, SymmetricKey

TEMPLATE = replace(keys.signing_key(), key_usage=KeyUsage.IDENTITY)
SESSION_KEY = SymmetricKey(6, 4, bytes(range(16)))


def make(device: Device, template: Key) -> int:
    with device.client.oiap(SRK) as parent, device.osap_owner() as owner:
        request = MakeIdentity(owner.encrypt_auth(USAGE), ZEROS, template)
        return device.refusal_in(request, parent, owner)


def test_a_new_identity_signs_its_label_and_itself(owned: Device) -> None:
    ca = public_part(owned.key("signing"))
    made = identity.make(owned.client, OWNER, USAGE, identity.chosen_id(b"label", ca), srk_auth=SRK)
    identity.verify_binding(made.public, made.digest, made.binding)
    assert made.key.key_usage == KeyUsage.IDENTITY
    assert len(made.public.pub_key) == 256


def test_templates_that_make_no_identity(owned: Device) -> None:
    der = keys.signing_key(scheme=SigScheme.RSA_PKCS_V15_DER).algorithm_parms
    small = keys.signing_key(bits=1024).algorithm_parms
    assert make(owned, replace(TEMPLATE, key_usage=KeyUsage.SIGNING)) == Rc.INVALID_KEYUSAGE
    assert make(owned, replace(TEMPLATE, key_flags=KeyFlag.MIGRATABLE)) == Rc.INVALID_KEYUSAGE
    assert make(owned, replace(TEMPLATE, algorithm_parms=der)) == Rc.BAD_KEY_PROPERTY
    assert make(owned, replace(TEMPLATE, algorithm_parms=small)) == Rc.BAD_KEY_PROPERTY
    # 15.1 action 1.a comes before action 4.
    assert make(owned, keys.signing_key(bits=1024)) == Rc.BAD_KEY_PROPERTY


def test_an_identity_needs_srk_and_owner(owned: Device) -> None:
    request = MakeIdentity(ZEROS, ZEROS, TEMPLATE)
    with owned.client.oiap(WRONG) as parent, owned.osap_owner() as owner:
        assert owned.refusal_in(request, parent, owner) == Rc.AUTHFAIL
    with owned.client.oiap(SRK) as parent, owned.osap_owner(WRONG) as owner:
        assert owned.refusal_in(request, parent, owner) == Rc.AUTH2FAIL


def test_a_credential_for_this_tpm_and_identity_is_opened(owned: Device) -> None:
    aik = owned.load("identity")
    ek, name = to_public_key(owned.ek), public_part(owned.key("identity")).digest()
    blob = oaep_encrypt(ek, AsymCaContents(SESSION_KEY, name).encode())
    request = ActivateIdentity(aik.handle, blob)
    assert owned.run(request, USAGE, OWNER).symmetric_key == SESSION_KEY


def test_credentials_for_somebody_else_are_refused(owned: Device) -> None:
    aik, signer = owned.load("identity"), owned.load("signing")
    ek, name = to_public_key(owned.ek), public_part(owned.key("identity")).digest()
    good = oaep_encrypt(ek, AsymCaContents(SESSION_KEY, name).encode())
    other = oaep_encrypt(ek, AsymCaContents(SESSION_KEY, ZEROS).encode())
    cases = [
        (ActivateIdentity(aik.handle, other), USAGE, OWNER, Rc.BAD_PARAMETER),
        (ActivateIdentity(aik.handle, bytes(256)), USAGE, OWNER, Rc.DECRYPT_ERROR),
        (ActivateIdentity(aik.handle, good[:-1]), USAGE, OWNER, Rc.DECRYPT_ERROR),
        (ActivateIdentity(NO_HANDLE, good), USAGE, OWNER, Rc.INVALID_KEYHANDLE),
        (ActivateIdentity(signer.handle, good), USAGE, OWNER, Rc.BAD_PARAMETER),
    ]
    for number, (request, first, second, rc) in enumerate(cases):
        assert owned.refusal(request, first, second) == rc, number


def test_activation_needs_identity_and_owner(owned: Device) -> None:
    aik = owned.load("identity")
    request = ActivateIdentity(aik.handle, bytes(256))
    first = owned.expected("wrong secret of the identity to activate", Rc.AUTHFAIL)
    second = owned.expected("wrong owner of the identity to activate", Rc.AUTH2FAIL)
    assert owned.refusal(request, WRONG, OWNER) == first
    assert owned.refusal(request, USAGE, WRONG) == second
