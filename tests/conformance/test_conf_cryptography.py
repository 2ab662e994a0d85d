"""Cryptographic functions (Part 3 section 13): SHA-1, signatures, random numbers."""

from __future__ import annotations

import hashlib

import pytest
from conformance_rig import NO_HANDLE, SRK, SRK_HANDLE, USAGE, WRONG, Device
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from hwtpm.client.keys import get_pub
from hwtpm.client.rsa import to_public_key
from hwtpm.tpm12.commands.cryptography import (
    GetRandom,
    SHA1Complete,
    SHA1CompleteExtend,
    SHA1Start,
    SHA1Update,
    Sign,
    StirRandom,
)
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Request
from hwtpm.wire import Struct

# --- 13.1 to 13.4 SHA-1 ------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 127, 128, 1000])
def test_a_hash_over_pieces_is_sha1(new: Device, length: int) -> None:
    data = bytes(range(256)) * 4
    data = data[:length]
    new.run(SHA1Start())
    whole = max(length - 1, 0) // 64 * 64
    for at in range(0, whole, 64):
        new.run(SHA1Update(data[at : at + 64]))
    assert new.run(SHA1Complete(data[whole:])).hash_value == hashlib.sha1(data).digest()


def test_a_hash_can_end_in_a_pcr(new: Device) -> None:
    before = new.pcr(12)
    new.run(SHA1Start())
    reply = new.run(SHA1CompleteExtend(12, b"event"))
    assert reply.hash_value == hashlib.sha1(b"event").digest()
    assert reply.out_digest == hashlib.sha1(before + reply.hash_value).digest() == new.pcr(12)


def test_the_pieces_may_be_as_long_as_announced(new: Device) -> None:
    size = new.run(SHA1Start()).max_num_bytes
    assert size >= 64
    assert size % 64 == 0
    piece = bytes(size)
    new.run(SHA1Update(piece))
    assert new.run(SHA1Complete(b"")).hash_value == hashlib.sha1(piece).digest()


@pytest.mark.parametrize(
    "command", [SHA1Update(bytes(64)), SHA1Complete(b""), SHA1CompleteExtend(0, b"")]
)
def test_without_a_calculation_there_is_nothing_to_go_on_with(
    new: Device, command: Request[Struct]
) -> None:
    before = new.pcr(0)
    assert new.refusal(command) == Rc.SHA_THREAD
    assert new.pcr(0) == before


def test_another_command_ends_the_calculation(new: Device) -> None:
    new.run(SHA1Start())
    new.run(PcrRead(0))
    assert new.refusal(SHA1Complete(b"")) == Rc.SHA_THREAD


@pytest.mark.parametrize("length", [1, 63, 65])
def test_an_update_of_no_whole_blocks_is_refused_and_ends_it(new: Device, length: int) -> None:
    new.run(SHA1Start())
    assert new.refusal(SHA1Update(bytes(length))) == Rc.SHA_ERROR
    assert new.refusal(SHA1Complete(b"")) == Rc.SHA_THREAD


def test_the_last_piece_has_at_most_64_bytes(new: Device) -> None:
    for command in (SHA1Complete(bytes(65)), SHA1CompleteExtend(0, bytes(65))):
        before = new.pcr(0)
        new.run(SHA1Start())
        assert new.refusal(command) == Rc.SHA_ERROR
        assert new.pcr(0) == before


def test_a_last_piece_too_long_is_one_without_a_calculation_too(new: Device) -> None:
    for command in (SHA1Complete(bytes(65)), SHA1CompleteExtend(0, bytes(65))):
        assert new.refusal(command) == Rc.SHA_ERROR


def test_extending_a_pcr_that_is_not_there_or_not_ours(new: Device) -> None:
    new.run(SHA1Start())
    assert new.refusal(SHA1CompleteExtend(24, b"")) == Rc.BADINDEX
    new.run(SHA1Start())
    assert new.refusal(SHA1CompleteExtend(17, b"")) == Rc.BAD_LOCALITY


# --- 13.5 TPM_Sign -----------------------------------------------------------------------------


def test_a_signature_over_a_digest_verifies(owned: Device) -> None:
    key = owned.load("signing")
    digest = hashlib.sha1(b"text").digest()
    signature = owned.run(Sign(key.handle, digest), USAGE).sig
    public = to_public_key(get_pub(owned.client, key))
    public.verify(signature, digest, padding.PKCS1v15(), Prehashed(hashes.SHA1()))


def test_the_info_scheme_signs_a_sign_info_structure(owned: Device) -> None:
    """Part 2 5.14: replay is nonceOdd's twin nonceEven unless a nonce is given; the signature is
    over a structure, not over the data."""
    key = owned.load("signing INFO")
    signature = owned.run(Sign(key.handle, b"any text"), USAGE).sig
    public = to_public_key(get_pub(owned.client, key))
    recovered = public.recover_data_from_signature(signature, padding.PKCS1v15(), hashes.SHA1())
    assert len(recovered) == 20
    assert recovered != hashlib.sha1(b"any text").digest()


def test_the_der_scheme_signs_what_it_is_given(owned: Device) -> None:
    key = owned.load("signing DER")
    info = bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(b"text").digest()
    signature = owned.run(Sign(key.handle, info), USAGE).sig
    public = to_public_key(get_pub(owned.client, key))
    public.verify(signature, b"text", padding.PKCS1v15(), hashes.SHA1())
    assert owned.refusal(Sign(key.handle, bytes(128 - 10)), USAGE) == Rc.BAD_PARAMETER


def test_what_sign_refuses(owned: Device) -> None:
    signer, bind = owned.load("signing"), owned.load("bind")
    digest = bytes(20)
    assert owned.refusal(Sign(NO_HANDLE, digest), USAGE) == Rc.INVALID_KEYHANDLE
    assert owned.refusal(Sign(SRK_HANDLE, digest), SRK) == Rc.INVALID_KEYUSAGE
    assert owned.refusal(Sign(bind.handle, digest), USAGE) == Rc.INVALID_KEYUSAGE
    assert owned.refusal(Sign(signer.handle, bytes(19)), USAGE) == Rc.BAD_PARAMETER
    assert owned.refusal(Sign(signer.handle, bytes(21)), USAGE) == Rc.BAD_PARAMETER
    assert owned.refusal(Sign(signer.handle, b""), USAGE) == Rc.BAD_PARAMETER
    assert owned.refusal(Sign(signer.handle, digest)) == Rc.AUTHFAIL
    assert owned.refusal(Sign(signer.handle, digest), WRONG) == Rc.AUTHFAIL


def test_identity_keys_do_not_sign(owned: Device) -> None:
    key = owned.load("identity")
    assert owned.refusal(Sign(key.handle, bytes(20)), USAGE) == Rc.INVALID_KEYUSAGE


# --- 13.6 and 13.7 random numbers --------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 20, 256, 1000])
def test_random_bytes_come_as_asked(new: Device, count: int) -> None:
    first = new.run(GetRandom(count)).random_bytes
    assert len(first) == count
    assert count < 20 or first != new.run(GetRandom(count)).random_bytes


@pytest.mark.parametrize("count", [5000, 0xFFFFFFFF])
def test_more_random_than_fits_is_cut(new: Device, count: int) -> None:
    assert 0 < len(new.run(GetRandom(count)).random_bytes) <= 4096 - 14


def test_entropy_is_taken_up_to_256_bytes(new: Device) -> None:
    assert new.refusal(StirRandom(bytes(256))) == Rc.SUCCESS
    assert new.refusal(StirRandom(b"")) == Rc.SUCCESS
