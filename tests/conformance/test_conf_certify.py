"""Certificates of keys (Part 3 sections 13.8 and 13.9), checked with `cryptography`."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from conformance_rig import MIGRATION, NO_HANDLE, SRK, SRK_HANDLE, USAGE, WRONG, ZEROS, Device

from hwtpm.client import keys, pcr
from hwtpm.client.keys import KeyRef
from hwtpm.client.rsa import public_part, to_public_key, verify_sha1
from hwtpm.tpm12.commands.cryptography import CertifyKey, CertifyKey2
from hwtpm.tpm12.const import (
    EVERY_LOCALITY,
    AuthDataUsage,
    KeyFlag,
    KeyUsage,
    Payload,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import (
    KEY12_FORM,
    Key,
    PcrInfo,
    PcrInfoLong,
    PcrInfoShort,
    PcrSelection,
    pcr_composite_hash,
)
from hwtpm.tpm12.types.certify import CertifyInfo, CertifyInfo2

NONCE = hashlib.sha1(b"anti replay").digest()


def info(key: Key, pcr_info: bytes = b"") -> CertifyInfo:
    return CertifyInfo(
        key.key_usage,
        key.key_flags,
        key.auth_data_usage,
        key.algorithm_parms,
        hashlib.sha1(key.pub_key).digest(),
        NONCE,
        parent_pcr_status=False,
        pcr_info=pcr_info,
    )


def info2(key: Key, pcr_info: bytes = b"", payload: int = Payload.ASYM) -> CertifyInfo2:
    of = info(key)
    return CertifyInfo2(
        payload,
        of.key_usage,
        of.key_flags,
        of.auth_data_usage,
        of.algorithm_parms,
        of.pubkey_digest,
        of.data,
        of.parent_pcr_status,
        pcr_info,
        b"",
    )


def verify(certifier: Key, certificate: CertifyInfo | CertifyInfo2, signature: bytes) -> None:
    public = to_public_key(public_part(certifier))
    verify_sha1(public, signature, certificate.encode(), "certificate")


def make(device: Device, template: Key) -> tuple[Key, KeyRef]:
    """A new key under the SRK, loaded."""
    auth = MIGRATION if template.migratable else None
    key = keys.create(device.client, keys.srk(SRK), template, USAGE, auth)
    return key, keys.load(device.client, keys.srk(SRK), key, USAGE)


def bound(device: Device, pcrs: tuple[int, ...], localities: int, form: int = KEY12_FORM) -> Key:
    """The template of a signing key that is bound to the present values of these PCRs."""
    template = keys.signing_key(bits=512)
    selection = PcrSelection.of(pcrs)
    digest = pcr_composite_hash(selection, {i: device.pcr(i) for i in pcrs})
    if form == KEY12_FORM:
        long = PcrInfoLong(1, localities, selection, selection, ZEROS, digest)
        return replace(template, form=form, pcr_info=long.encode())
    return replace(template, form=form, pcr_info=PcrInfo(selection, digest, ZEROS).encode())


CERTIFIERS = ("signing", "identity", "signing INFO")


@pytest.mark.parametrize("name", CERTIFIERS)
@pytest.mark.parametrize("subject", ["signing", "bind", "storage", "identity"])
def test_a_certificate_says_what_the_key_is(owned: Device, name: str, subject: str) -> None:
    certifier, key = owned.load(name), owned.load(subject)
    reply = owned.run(CertifyKey(certifier.handle, key.handle, NONCE), USAGE, USAGE)
    assert reply.certify_info == info(owned.key(subject))
    verify(owned.key(name), reply.certify_info, reply.out_data)
    second = owned.run(CertifyKey2(key.handle, certifier.handle, ZEROS, NONCE), USAGE, USAGE)
    assert second.certify_info == info2(owned.key(subject))
    verify(owned.key(name), second.certify_info, second.out_data)


def test_a_key_may_certify_itself(owned: Device) -> None:
    key = owned.load("signing")
    reply = owned.run(CertifyKey(key.handle, key.handle, NONCE), USAGE, USAGE)
    verify(owned.key("signing"), reply.certify_info, reply.out_data)


@pytest.mark.parametrize("form", [KEY12_FORM, keys.signing_key().form])
def test_low_pcrs_and_every_locality_make_a_1_1_certificate(owned: Device, form: int) -> None:
    """13.8 actions 7 to 9: digestAtCreation is zero."""
    key, ref = make(owned, bound(owned, (1, 2), EVERY_LOCALITY, form))
    signer = owned.load("signing")
    reply = owned.run(CertifyKey(signer.handle, ref.handle, NONCE), USAGE, USAGE)
    selection = PcrSelection.of((1, 2))
    digest = pcr_composite_hash(selection, {i: owned.pcr(i) for i in (1, 2)})
    assert reply.certify_info == info(key, PcrInfo(selection, digest, ZEROS).encode())
    verify(owned.key("signing"), reply.certify_info, reply.out_data)


@pytest.mark.parametrize(
    ("pcrs", "localities"), [((1, 16), EVERY_LOCALITY), ((1,), 0b00001), ((23,), 0b10001)]
)
def test_high_pcrs_or_localities_make_a_1_2_certificate(
    owned: Device, pcrs: tuple[int, ...], localities: int
) -> None:
    key, ref = make(owned, bound(owned, pcrs, localities))
    signer = owned.load("signing")
    selection = PcrSelection.of(pcrs)
    digest = pcr_composite_hash(selection, {i: owned.pcr(i) for i in pcrs})
    expected = info2(key, PcrInfoShort(selection, localities, digest).encode())
    one, two = certificates(signer, ref)
    for reply in (owned.run(one, USAGE, USAGE), owned.run(two, USAGE, USAGE)):
        assert reply.certify_info == expected
        verify(owned.key("signing"), reply.certify_info, reply.out_data)


def certificates(certifier: KeyRef, key: KeyRef) -> tuple[CertifyKey, CertifyKey2]:
    return (
        CertifyKey(certifier.handle, key.handle, NONCE),
        CertifyKey2(key.handle, certifier.handle, ZEROS, NONCE),
    )


def test_a_key_is_certified_in_its_state_and_locality_only(owned: Device) -> None:
    owned.reset_pcr16()
    _, key = make(owned, bound(owned, (16,), 0b00001))
    signer = owned.load("signing")
    locality = owned.expected("certifying from the wrong locality", Rc.BAD_LOCALITY)
    for request in (*certificates(signer, key), *certificates(key, signer)):
        assert owned.refusal(request, USAGE, USAGE) == Rc.SUCCESS
        assert owned.refusal(request, USAGE, USAGE, locality=1) == locality
    pcr.extend(owned.client, 16, ZEROS)
    for request in (*certificates(signer, key), *certificates(key, signer)):
        assert owned.refusal(request, USAGE, USAGE) == Rc.WRONGPCRVAL


def test_a_key_that_may_be_read_in_every_state(owned: Device) -> None:
    """pcrIgnoredOnRead: 13.8 action 9.a, 13.9 action 13.c."""
    owned.reset_pcr16()
    template = replace(bound(owned, (16,), 0b00001), key_flags=KeyFlag.PCR_IGNORED_ON_READ)
    _, key = make(owned, template)
    pcr.extend(owned.client, 16, ZEROS)
    rc = owned.expected("certifying a key that ignores PCRs on reading", Rc.SUCCESS)
    for request in certificates(owned.load("signing"), key):
        assert owned.refusal(request, USAGE, USAGE, locality=1) == rc


def test_below_a_key_with_pcrs_the_certificate_says_so(owned: Device) -> None:
    selection = PcrSelection.of((1,))
    digest = pcr_composite_hash(selection, {1: owned.pcr(1)})
    pcr_info = PcrInfo(selection, digest, ZEROS).encode()
    _, parent = make(owned, replace(keys.storage_key(), pcr_info=pcr_info))
    child = keys.create(owned.client, parent, keys.signing_key(bits=512), USAGE)
    ref = keys.load(owned.client, parent, child, USAGE)
    reply = owned.run(CertifyKey(ref.handle, ref.handle, NONCE), USAGE, USAGE)
    assert reply.certify_info.parent_pcr_status


def test_an_identity_certifies_nothing_that_can_leave(owned: Device) -> None:
    template = replace(keys.signing_key(bits=512), key_flags=KeyFlag.MIGRATABLE)
    key, ref = make(owned, template)
    identity, signer = owned.load("identity"), owned.load("signing")
    for request in (
        CertifyKey(identity.handle, ref.handle, NONCE),
        CertifyKey2(ref.handle, identity.handle, ZEROS, NONCE),
    ):
        assert owned.refusal(request, USAGE, USAGE) == Rc.MIGRATEFAIL
    reply = owned.run(CertifyKey(signer.handle, ref.handle, NONCE), USAGE, USAGE)
    assert reply.certify_info == info(key)


def test_which_keys_certify(owned: Device) -> None:
    key = owned.load("signing").handle
    for name in ("bind", "storage", "signing DER"):  # action 1
        handle = owned.load(name).handle
        for request in (
            CertifyKey(handle, key, NONCE),
            CertifyKey2(key, handle, ZEROS, NONCE),
        ):
            assert owned.refusal(request, USAGE, USAGE) == Rc.BAD_KEY_PROPERTY, name
            # Before any proof, which is action 2.
            assert owned.refusal(request, WRONG, WRONG) == Rc.BAD_KEY_PROPERTY, name
    assert owned.refusal(CertifyKey(SRK_HANDLE, key, NONCE), SRK, USAGE) == Rc.BAD_KEY_PROPERTY


def test_the_srk_can_be_certified(owned: Device) -> None:
    signer = owned.load("signing")
    reply = owned.run(CertifyKey(signer.handle, SRK_HANDLE, NONCE), USAGE, SRK)
    assert owned.prepared.srk is not None
    assert reply.certify_info.key_usage == KeyUsage.STORAGE
    assert reply.certify_info.pubkey_digest == hashlib.sha1(owned.prepared.srk.pub_key).digest()


@pytest.mark.parametrize("two", [False, True])
def test_whose_secrets_it_takes(owned: Device, two: bool) -> None:
    """Action 2 of both; the second one named is the certified key for 13.8, else the certifier."""
    certifier, key = owned.load("signing").handle, owned.load("bind").handle
    request = (
        CertifyKey2(key, certifier, ZEROS, NONCE) if two else CertifyKey(certifier, key, NONCE)
    )
    assert owned.refusal(request, WRONG, USAGE) == Rc.AUTHFAIL
    assert owned.refusal(request, USAGE, WRONG) == Rc.AUTH2FAIL
    assert owned.refusal(request, USAGE) == Rc.AUTHFAIL
    assert owned.refusal(request) == Rc.AUTHFAIL
    for missing in (NO_HANDLE, NO_HANDLE):
        gone = replace(request, key_handle=missing)
        assert owned.refusal(gone, USAGE, USAGE) == Rc.INVALID_KEYHANDLE


def usage(value: int) -> Key:
    return replace(keys.signing_key(bits=512), auth_data_usage=value)


NEVER, ALWAYS, PRIVATE = AuthDataUsage.NEVER, AuthDataUsage.ALWAYS, AuthDataUsage.PRIV_USE_ONLY


@pytest.mark.parametrize(
    ("of_certifier", "of_key", "none", "one"),
    [
        (NEVER, NEVER, Rc.SUCCESS, Rc.SUCCESS),
        (NEVER, PRIVATE, Rc.SUCCESS, Rc.SUCCESS),
        (NEVER, ALWAYS, Rc.AUTHFAIL, Rc.SUCCESS),
        (PRIVATE, NEVER, Rc.AUTHFAIL, Rc.AUTHFAIL),
        (ALWAYS, NEVER, Rc.AUTHFAIL, Rc.AUTHFAIL),
    ],
)
def test_keys_that_need_no_secret_for_this(
    owned: Device, of_certifier: int, of_key: int, none: Rc, one: Rc
) -> None:
    certifier, key = make(owned, usage(of_certifier))[1], make(owned, usage(of_key))[1]
    request = CertifyKey(certifier.handle, key.handle, NONCE)
    assert owned.refusal(request) == none
    assert owned.refusal(request, USAGE) == one


@pytest.mark.parametrize(
    ("of_certifier", "of_key", "none", "one"),
    [
        (NEVER, NEVER, Rc.SUCCESS, Rc.SUCCESS),
        (NEVER, PRIVATE, Rc.SUCCESS, Rc.SUCCESS),
        (ALWAYS, PRIVATE, Rc.AUTHFAIL, Rc.SUCCESS),
        (ALWAYS, NEVER, Rc.AUTHFAIL, Rc.SUCCESS),
        (NEVER, ALWAYS, Rc.AUTHFAIL, Rc.AUTHFAIL),
    ],
)
def test_keys_that_need_no_secret_for_the_second_command(
    owned: Device, of_certifier: int, of_key: int, none: Rc, one: Rc
) -> None:
    certifier, key = make(owned, usage(of_certifier))[1], make(owned, usage(of_key))[1]
    request = CertifyKey2(key.handle, certifier.handle, ZEROS, NONCE)
    assert owned.refusal(request) == none
    assert owned.refusal(request, USAGE) == one


def test_a_wrong_secret_in_the_only_session(owned: Device) -> None:
    certifier, key = make(owned, usage(ALWAYS))[1], make(owned, usage(NEVER))[1]
    request = CertifyKey2(key.handle, certifier.handle, ZEROS, NONCE)
    assert owned.refusal(request, WRONG) == Rc.AUTH2FAIL


def test_the_digest_of_authorities_counts_for_certified_migration_keys_only(owned: Device) -> None:
    certifier, key = owned.load("signing"), owned.load("bind")
    request = CertifyKey2(key.handle, certifier.handle, NONCE, NONCE)
    assert owned.run(request, USAGE, USAGE).certify_info.migration_authority == b""
