"""Integrity collection and reporting (Part 3 section 16); PCRs of a PC Client TPM.

PCR attributes: PC Client TIS 1.2 section 11.2.4 and the PC Client implementation specification:
0 to 15 static, 16 and 23 for everybody, 17 to 22 dynamic with these localities.
"""

from __future__ import annotations

import hashlib

import pytest
from conformance_rig import NO_HANDLE, ONES, SRK, SRK_HANDLE, USAGE, WRONG, ZEROS, Device

from hwtpm.client import pcr, quote
from hwtpm.client.keys import KeyRef, get_pub
from hwtpm.client.rsa import to_public_key
from hwtpm.tpm12.commands.integrity import Extend, PcrRead, PcrReset, Quote, Quote2
from hwtpm.tpm12.commands.optin import PhysicalEnable
from hwtpm.tpm12.commands.ownership import ForceClear
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PcrSelection

DIGEST = hashlib.sha1(b"measured").digest()
NONCE = hashlib.sha1(b"external data").digest()

EXTENDERS = {
    **{index: {0, 1, 2, 3, 4} for index in [*range(16), 16, 23]},
    17: {2, 3, 4},
    18: {2, 3, 4},
    19: {2, 3},
    20: {1, 2, 3},
    21: {2},
    22: {2},
}
RESETTERS = {
    **{index: set[int]() for index in range(16)},
    16: {0, 1, 2, 3, 4},
    17: {4},
    18: {4},
    19: {4},
    20: {2, 4},
    21: {2},
    22: {2},
    23: {0, 1, 2, 3, 4},
}


def sha1(*parts: bytes) -> bytes:
    return hashlib.sha1(b"".join(parts)).digest()


def test_pcrs_start_as_the_pc_client_specification_says(new: Device) -> None:
    new.restart()
    assert [new.pcr(index) for index in range(24)] == [ZEROS] * 17 + [ONES] * 6 + [ZEROS]


@pytest.mark.parametrize("index", [24, 32, 0xFFFFFFFF])
def test_a_pcr_that_does_not_exist_is_refused(new: Device, index: int) -> None:
    assert new.refusal(PcrRead(index)) == Rc.BADINDEX
    assert new.refusal(Extend(index, DIGEST)) == Rc.BADINDEX


@pytest.mark.alters
def test_extend_obeys_localities_and_hashes_old_value_and_digest(new: Device) -> None:
    for index, localities in EXTENDERS.items():
        for locality in range(5):
            old = new.pcr(index)
            if locality in localities:
                reply = new.run(Extend(index, DIGEST), locality=locality)
                assert reply.out_digest == sha1(old, DIGEST)
                assert new.pcr(index) == sha1(old, DIGEST)
            else:
                assert new.refusal(Extend(index, DIGEST), locality=locality) == Rc.BAD_LOCALITY
                assert new.pcr(index) == old


@pytest.mark.alters
@pytest.mark.parametrize("trusted_system", [False, True])
def test_reset_obeys_attributes_and_localities(new: Device, trusted_system: bool) -> None:
    if trusted_system:
        new.tpm.hash_start()
        new.tpm.hash_end()
    for index, localities in RESETTERS.items():
        for locality in range(5):
            before = new.run(Extend(index, DIGEST), locality=min(EXTENDERS[index])).out_digest
            rc = new.refusal(PcrReset(PcrSelection.of([index])), locality=locality)
            if locality in localities:
                assert rc == Rc.SUCCESS
                ones = not trusted_system and index in range(17, 23)
                assert new.pcr(index) == (ONES if ones else ZEROS)
            else:
                assert rc == (Rc.NOTLOCAL if localities else Rc.NOTRESETABLE)
                assert new.pcr(index) == before


@pytest.mark.alters
def test_a_refused_reset_leaves_all_pcrs_alone(new: Device) -> None:
    values = [new.run(Extend(index, DIGEST)).out_digest for index in (16, 23)]
    for other, rc in ((0, Rc.NOTRESETABLE), (21, Rc.NOTLOCAL)):
        assert new.refusal(PcrReset(PcrSelection.of([16, other, 23]))) == rc
        assert [new.pcr(16), new.pcr(23)] == values


def test_reset_of_no_pcr_is_refused(new: Device) -> None:
    assert new.refusal(PcrReset(PcrSelection(bytes(3)))) == Rc.INVALID_PCR_INFO


def test_a_selection_of_more_pcrs_than_there_are_is_refused(new: Device) -> None:
    assert new.refusal(PcrReset(PcrSelection(b"\0\0\1\1"))) == Rc.INVALID_PCR_INFO


@pytest.mark.alters
def test_tpm_hash_sequence_resets_and_extends_pcr_17(new: Device) -> None:
    for index in range(17, 23):
        new.run(Extend(index, DIGEST), locality=2)
    extended = new.pcr(21)
    new.tpm.hash_start()
    new.tpm.hash_data(b"secure ")
    new.tpm.hash_data(b"loader")
    new.tpm.hash_end()
    assert new.pcr(17) == sha1(ZEROS, sha1(b"secure loader"))
    assert [new.pcr(index) for index in (18, 19, 20)] == [ZEROS] * 3
    ends = new.expected("last PCR that TPM_HASH_START resets", 20)
    assert [new.pcr(i) for i in (21, 22)] == [extended if i > ends else ZEROS for i in (21, 22)]
    assert new.tpm.established


@pytest.mark.alters
@pytest.mark.parametrize("cleared", [False, True])
def test_the_dynamic_pcrs_reset_to_zero_once_there_was_a_launch(
    owned: Device, cleared: bool
) -> None:
    owned.run(PcrReset(PcrSelection.of([20, 21, 22])), locality=2)
    assert [owned.pcr(index) for index in (20, 21, 22)] == [ONES] * 3
    owned.tpm.hash_start()
    owned.tpm.hash_end()
    if cleared:
        owned.assert_presence()
        owned.run(ForceClear())
        owned.run(PhysicalEnable())
    owned.run(PcrReset(PcrSelection.of([20, 21, 22])), locality=2)
    assert [owned.pcr(index) for index in (20, 21, 22)] == [ZEROS] * 3


# --- 16.3 TPM_Quote ----------------------------------------------------------------------------


def test_quote_signs_the_composite_of_the_selected_pcrs(owned: Device) -> None:
    key = owned.load("signing")
    values = pcr.read_many(owned.client, [0, 16, 17, 23]).by_index()
    what = quote.quote(owned.client, key, NONCE, values)
    public = to_public_key(get_pub(owned.client, key))
    assert quote.verify_quote(public, what, NONCE, values) == values
    assert what.composite.select == PcrSelection.of([0, 16, 17, 23])


def test_identity_keys_may_quote(owned: Device) -> None:
    key = owned.load("identity")
    what = quote.quote(owned.client, key, NONCE, [0])
    public = to_public_key(get_pub(owned.client, key))
    assert quote.verify_quote(public, what, NONCE) == {0: owned.pcr(0)}


@pytest.mark.parametrize("command", [Quote, Quote2])
def test_quotes_need_a_signing_key(owned: Device, command: type[Quote] | type[Quote2]) -> None:
    def request(handle: int) -> Quote | Quote2:
        selection = PcrSelection.of([0])
        if command is Quote:
            return Quote(handle, NONCE, selection)
        return Quote2(handle, NONCE, selection, False)

    assert owned.refusal(request(NO_HANDLE), USAGE) == Rc.INVALID_KEYHANDLE
    # The scheme is checked before the usage: a storage or binding key has no signature scheme.
    assert owned.refusal(request(SRK_HANDLE), SRK) == Rc.INAPPROPRIATE_SIG
    bind = owned.load("bind")
    assert owned.refusal(request(bind.handle), USAGE) == Rc.INAPPROPRIATE_SIG
    der = owned.load("signing DER")
    assert owned.refusal(request(der.handle), USAGE) == Rc.INAPPROPRIATE_SIG
    signer = owned.load("signing")
    assert owned.refusal(request(signer.handle)) == Rc.AUTHFAIL
    assert owned.refusal(request(signer.handle), WRONG) == Rc.AUTHFAIL
    assert owned.refusal(request(signer.handle), USAGE) == Rc.SUCCESS


def test_a_key_without_authorisation_quotes_with_and_without_a_session(owned: Device) -> None:
    key = owned.load("signing without auth")
    request = Quote(key.handle, NONCE, PcrSelection.of([3]))
    assert owned.refusal(request) == Rc.SUCCESS
    assert owned.refusal(request, USAGE) == Rc.SUCCESS


# --- 16.5 TPM_Quote2 ---------------------------------------------------------------------------


@pytest.mark.parametrize("add_version", [False, True])
def test_quote2_signs_digest_and_version(owned: Device, add_version: bool) -> None:
    key = owned.load("signing")
    values = pcr.read_many(owned.client, [0, 17]).by_index()
    what = quote.quote2(owned.client, key, NONCE, values, add_version=add_version)
    public = to_public_key(get_pub(owned.client, key))
    quote.verify_quote2(public, what, NONCE, values)
    assert bool(what.version_info) is add_version


@pytest.mark.parametrize("locality", range(5))
def test_quote2_names_the_locality_that_asked(owned: Device, locality: int) -> None:
    key = owned.load("signing without auth")
    with owned.at(locality):
        what = quote.quote2(owned.client, KeyRef(key.handle, None), NONCE, [0])
    assert what.pcr_info.locality_at_release == 1 << locality
