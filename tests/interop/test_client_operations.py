"""Every client operation in the order of a TPM's life: against libtpms and swtpm, which we did not
write, and against our own engine, which has to be no different.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from hwtpm.client import (
    Tpm,
    counters,
    entropy,
    identity,
    info,
    keys,
    nv,
    owner,
    pcr,
    quote,
    seal,
    testing,
)
from hwtpm.client.rsa import from_public_key, to_public_key
from hwtpm.errors import (
    TpmError,
    Unsupported,
    UsageError,
    VerificationError,
)
from hwtpm.secret import WELL_KNOWN, Secret
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.const import KeyFlag, KeyHandleValue, NvPermission
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PubKey
from hwtpm.transport import open_transport

OWNER = Secret.auth_from_text("owner")
USAGE = Secret.auth_from_text("usage")
WRONG = Secret.auth_from_text("wrong")
NONCE = bytes(range(20))


def refused(code: Rc) -> pytest.RaisesExc[TpmError]:
    return pytest.RaisesExc(TpmError, check=lambda error: error.rc == code)


def opened(backend: str, tmp: Path) -> Tpm:
    return Tpm(open_transport(f"{backend}:{tmp / 'state'}"))


@dataclass(frozen=True)
class Owned:
    tpm: Tpm
    ek: PubKey
    srk_pub: PubKey
    srk: keys.KeyRef


@pytest.fixture(scope="module", params=["libtpms", "swtpm", "sim"])
def owned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Owned]:
    with opened(request.param, tmp_path_factory.mktemp("tpm")) as tpm:
        ek = owner.create_ek(tpm)
        assert owner.read_ek(tpm) == ek
        taken = owner.take_ownership(tpm, OWNER, USAGE)
        yield Owned(tpm, ek, taken.srk, keys.srk(USAGE))


@pytest.fixture
def tpm(owned: Owned) -> Iterator[Tpm]:
    """The owned TPM; whatever a test loads it has to unload, sessions included."""
    before = {kind: keys.loaded_handles(owned.tpm, kind) for kind in (1, 2)}
    yield owned.tpm
    after = {kind: keys.loaded_handles(owned.tpm, kind) for kind in (1, 2)}
    assert after == before


@pytest.fixture(scope="module")
def signer(owned: Owned) -> Iterator[keys.KeyRef]:
    key = keys.create(owned.tpm, owned.srk, keys.signing_key(bits=1024), USAGE)
    with keys.loaded(owned.tpm, owned.srk, key, USAGE) as ref:
        yield ref


@pytest.fixture
def signer_pub(tpm: Tpm, signer: keys.KeyRef) -> rsa.RSAPublicKey:
    return to_public_key(keys.get_pub(tpm, signer))


# --- what it is ------------------------------------------------------------------------------


def test_info_names_vendor_versions_and_state(tpm: Tpm) -> None:
    what = info.info(tpm)
    ours = tpm.attached.backend == "sim"
    assert (what.manufacturer, what.spec_version) == ("HWTP" if ours else "IBM", "1.2")
    assert (what.enabled, what.active, what.owned) == (True, True, True)
    assert what.has_endorsement_key is True
    assert what.limits.pcrs == 24
    assert what.limits.input_buffer == 4096
    assert what.timing is not None
    assert what.timing.a_us > 0
    assert what.da is not None
    assert not what.da.locked_out


def test_owner_reads_the_same_endorsement_key_and_srk(owned: Owned, tpm: Tpm) -> None:
    assert owner.read_ek_as_owner(tpm, OWNER) == owned.ek
    assert owner.read_srk_as_owner(tpm, OWNER) == owned.srk_pub
    with refused(Rc.DISABLED_CMD):
        owner.read_ek(tpm)
    owner.disable_pubek_read(tpm, OWNER)


def test_a_second_owner_is_refused(owned: Owned, tpm: Tpm) -> None:
    with refused(Rc.OWNER_SET):
        owner.take_ownership(tpm, WRONG, ek=owned.ek)


def test_self_test_passes_with_a_report(tpm: Tpm) -> None:
    result = testing.self_test(tpm)
    assert result.passed
    assert result.result
    testing.continue_self_test(tpm)


# --- PCRs and randomness ---------------------------------------------------------------------


def test_extend_hashes_into_the_pcr_and_reset_clears_it(tpm: Tpm) -> None:
    pcr.reset(tpm, [16])
    digest = hashlib.sha1(b"event").digest()
    expected = hashlib.sha1(bytes(20) + digest).digest()
    assert pcr.extend(tpm, 16, digest) == expected
    assert pcr.read(tpm, 16) == expected
    pcr.reset(tpm, [16, 23])
    assert pcr.read(tpm, 16) == bytes(20)


def test_all_pcrs_are_read_in_order(tpm: Tpm) -> None:
    values = pcr.read_many(tpm)
    assert [one.index for one in values.pcrs] == list(range(24))
    assert values.by_index()[17] == b"\xff" * 20
    assert [one.index for one in pcr.read_many(tpm, [5, 3, 5]).pcrs] == [3, 5]


def test_static_pcrs_cannot_be_reset(tpm: Tpm) -> None:
    with refused(Rc.NOTRESETABLE):
        pcr.reset(tpm, [0])


def test_random_bytes_come_in_the_wanted_number(tpm: Tpm) -> None:
    first, second = entropy.get_random(tpm, 3000), entropy.get_random(tpm, 3000)
    assert len(first.data) == 3000
    assert first.data != second.data
    assert first.commands > 1
    entropy.stir(tpm, b"seed" * 8)


# --- keys ------------------------------------------------------------------------------------


def test_signature_verifies_outside_the_tpm(
    tpm: Tpm, signer: keys.KeyRef, signer_pub: rsa.RSAPublicKey
) -> None:
    signature = keys.sign(tpm, signer, hashlib.sha1(b"text").digest())
    signer_pub.verify(signature, b"text", padding.PKCS1v15(), hashes.SHA1())


def test_wrong_key_password_is_an_authorisation_failure(tpm: Tpm, signer: keys.KeyRef) -> None:
    with refused(Rc.AUTHFAIL):
        keys.sign(tpm, replace(signer, auth=WRONG), bytes(20))
    owner.reset_lock(tpm, OWNER)


def test_public_keys_convert_both_ways(tpm: Tpm, signer: keys.KeyRef) -> None:
    pub = keys.get_pub(tpm, signer)
    assert from_public_key(to_public_key(pub)) == pub


def test_storage_key_is_parent_of_a_binding_key_that_unbinds(owned: Owned, tpm: Tpm) -> None:
    parent_blob = keys.create(tpm, owned.srk, keys.storage_key(), USAGE)
    with keys.loaded(tpm, owned.srk, parent_blob, USAGE) as parent:
        child_blob = keys.create(tpm, parent, keys.binding_key(bits=1024, needs_auth=False))
        with keys.loaded(tpm, parent, child_blob) as child:
            assert child.auth is None
            bound = keys.bind(to_public_key(keys.get_pub(tpm, child)), b"for you only")
            assert keys.unbind(tpm, child, bound).reveal() == b"for you only"


def test_binding_too_much_data_is_refused_before_any_tpm_sees_it(owned: Owned) -> None:
    with pytest.raises(Unsupported, match="do not fit"):
        keys.bind(to_public_key(owned.ek), bytes(300))


def test_migratable_key_takes_a_second_password(owned: Owned, tpm: Tpm) -> None:
    template = keys.signing_key(bits=1024, flags=KeyFlag.MIGRATABLE)
    blob = keys.create(tpm, owned.srk, template, USAGE, Secret.auth_from_text("migration"))
    with keys.loaded(tpm, owned.srk, blob, USAGE) as key:
        assert keys.sign(tpm, key, bytes(20))
    with pytest.raises(UsageError, match="migration"):
        keys.create(tpm, owned.srk, template, USAGE)


def test_key_bound_to_pcrs_stops_working_when_they_change(owned: Owned, tpm: Tpm) -> None:
    pcr.reset(tpm, [16])
    policy = seal.pcr_policy({16: bytes(20)})
    blob = keys.create(tpm, owned.srk, keys.signing_key(bits=1024, pcr_info=policy), USAGE)
    with keys.loaded(tpm, owned.srk, blob, USAGE) as key:
        assert keys.sign(tpm, key, bytes(20))
        pcr.extend(tpm, 16, bytes(20))
        with refused(Rc.WRONGPCRVAL):
            keys.sign(tpm, key, bytes(20))


def test_a_failing_block_flushes_key_and_keeps_its_error(owned: Owned, tpm: Tpm) -> None:
    blob = keys.create(tpm, owned.srk, keys.signing_key(bits=1024), USAGE)
    with pytest.raises(TpmError) as failure, keys.loaded(tpm, owned.srk, blob, USAGE) as key:
        flush_and_flush_again(tpm, key)
    assert failure.value.__notes__[0].startswith(f"key {key.handle:#010x} not flushed")


def flush_and_flush_again(tpm: Tpm, key: keys.KeyRef) -> None:
    """Fails, and leaves nothing for the block's own flush to do, so that this fails as well."""
    for _ in range(2):
        keys.flush(tpm, key.handle)


# --- sealing ---------------------------------------------------------------------------------


def test_sealed_data_needs_its_password(owned: Owned, tpm: Tpm) -> None:
    data = Secret(b"disk key")
    blob = seal.seal(tpm, owned.srk, data, USAGE)
    assert seal.unseal(tpm, owned.srk, blob, USAGE) == data
    with refused(Rc.AUTH2FAIL):
        seal.unseal(tpm, owned.srk, blob, WRONG)
    owner.reset_lock(tpm, OWNER)


def test_sealed_data_needs_its_pcrs(owned: Owned, tpm: Tpm) -> None:
    pcr.reset(tpm, [16])
    policy = seal.pcr_policy(pcr.read_many(tpm, [0, 16]).by_index())
    blob = seal.seal(tpm, owned.srk, Secret(b"disk key"), policy=policy)
    assert seal.unseal(tpm, owned.srk, blob).reveal() == b"disk key"
    pcr.extend(tpm, 16, bytes(20))
    with refused(Rc.WRONGPCRVAL):
        seal.unseal(tpm, owned.srk, blob)


def test_sealed_data_needs_its_locality(owned: Owned, tpm: Tpm) -> None:
    policy = seal.pcr_policy({}, locality_mask=seal.localities(2, 3))
    blob = seal.seal(tpm, owned.srk, Secret(b"for the hypervisor"), policy=policy)
    with refused(Rc.BAD_LOCALITY):
        seal.unseal(tpm, owned.srk, blob)


# --- quotes ----------------------------------------------------------------------------------


def test_quote_proves_the_pcr_values(
    tpm: Tpm, signer: keys.KeyRef, signer_pub: rsa.RSAPublicKey
) -> None:
    values = pcr.read_many(tpm, [0, 10, 17]).by_index()
    what = quote.quote(tpm, signer, NONCE, values)
    assert quote.verify_quote(signer_pub, what, NONCE) == values
    assert quote.verify_quote(signer_pub, what, NONCE, values) == values


def test_tampered_quote_is_refused(
    tpm: Tpm, signer: keys.KeyRef, signer_pub: rsa.RSAPublicKey
) -> None:
    what = quote.quote(tpm, signer, NONCE, [0, 17])
    composite = what.composite
    swapped = replace(composite, values=composite.values[20:] + composite.values[:20])
    other = rsa.generate_private_key(65537, 1024).public_key()
    for key, forged, nonce, expected in (
        (signer_pub, replace(what, composite=swapped), NONCE, None),
        (signer_pub, replace(what, composite=replace(composite, values=b"")), NONCE, None),
        (signer_pub, replace(what, signature=what.signature[::-1]), NONCE, None),
        (signer_pub, replace(what, signature=b""), NONCE, None),
        (signer_pub, replace(what, nonce=bytes(20)), bytes(20), None),
        (signer_pub, what, bytes(20), None),
        (other, what, NONCE, None),
        (signer_pub, what, NONCE, {0: bytes(20)}),
        (signer_pub, what, NONCE, {0: bytes(20), 17: bytes(20)}),
    ):
        with pytest.raises(VerificationError):
            quote.verify_quote(key, forged, nonce, expected)


@pytest.mark.parametrize("add_version", [False, True])
def test_quote2_proves_pcrs_locality_and_version(
    tpm: Tpm, signer: keys.KeyRef, signer_pub: rsa.RSAPublicKey, add_version: bool
) -> None:
    values = pcr.read_many(tpm, [0, 17]).by_index()
    what = quote.quote2(tpm, signer, NONCE, values, add_version=add_version)
    quote.verify_quote2(signer_pub, what, NONCE, values)
    assert (what.version == info.version(tpm)) is add_version
    moved = replace(what.pcr_info, locality_at_release=4)
    for forged, nonce, expected in (
        (replace(what, pcr_info=moved), NONCE, values),
        (replace(what, version_info=what.version_info + b"\0"), NONCE, values),
        (what, bytes(20), values),
        (what, NONCE, values | {0: b"\1" * 20}),
        (what, NONCE, {0: values[0]}),
    ):
        with pytest.raises(VerificationError):
            quote.verify_quote2(signer_pub, forged, nonce, expected)


# --- identities ------------------------------------------------------------------------------


def test_privacy_ca_protocol_proves_that_identity_and_ek_live_together(
    owned: Owned, tpm: Tpm
) -> None:
    ca = from_public_key(rsa.generate_private_key(65537, 2048).public_key())
    made = identity.make(tpm, OWNER, USAGE, identity.chosen_id(b"my identity", ca), srk_auth=USAGE)
    identity.verify_binding(made.public, made.digest, made.binding)
    other = identity.chosen_id(b"another label", ca)
    with pytest.raises(VerificationError):
        identity.verify_binding(made.public, other, made.binding)
    credential = identity.issue(to_public_key(owned.ek), made.public, b"certificate")
    with keys.loaded(tpm, owned.srk, made.key, USAGE) as aik:
        session_key = identity.activate(tpm, OWNER, aik, credential)
        assert identity.open_credential(session_key, credential) == b"certificate"
        what = quote.quote(tpm, aik, NONCE, [0])
        quote.verify_quote(to_public_key(made.public), what, NONCE)
        stranger = identity.issue(to_public_key(owned.ek), ca, b"certificate")
        with pytest.raises(TpmError):
            identity.activate(tpm, OWNER, aik, stranger)
    broken = replace(credential, encrypted=credential.encrypted[:-1] + b"\0\0")
    with pytest.raises(VerificationError):
        identity.open_credential(session_key, broken)


# --- NV --------------------------------------------------------------------------------------


def test_nv_area_keeps_long_data_for_the_owner(tpm: Tpm) -> None:
    nv.lock(tpm)
    data = bytes(range(256)) * 5
    permissions = NvPermission.OWNERREAD | NvPermission.OWNERWRITE
    nv.define(tpm, 0x1000, len(data), permissions, owner_auth=OWNER)
    nv.write(tpm, 0x1000, data, owner_auth=OWNER)
    assert nv.read(tpm, 0x1000, owner_auth=OWNER) == data
    assert nv.read(tpm, 0x1000, 3, offset=700, owner_auth=OWNER) == data[700:703]
    described = nv.area(tpm, 0x1000)
    assert (described.size, described.permissions) == (len(data), permissions)
    assert 0x1000 in nv.indices(tpm)
    with refused(Rc.AUTH_CONFLICT):
        nv.read(tpm, 0x1000, 1)
    nv.delete(tpm, 0x1000, owner_auth=OWNER)
    assert 0x1000 not in nv.indices(tpm)


def test_nv_area_with_its_own_password(tpm: Tpm) -> None:
    permissions = NvPermission.AUTHREAD | NvPermission.AUTHWRITE
    nv.define(tpm, 0x1001, 16, permissions, owner_auth=OWNER, area_auth=USAGE)
    nv.write(tpm, 0x1001, b"0123456789abcdef", area_auth=USAGE)
    assert nv.read(tpm, 0x1001, area_auth=USAGE) == b"0123456789abcdef"
    with refused(Rc.AUTHFAIL):
        nv.read(tpm, 0x1001, area_auth=WRONG)
    owner.reset_lock(tpm, OWNER)
    nv.delete(tpm, 0x1001, owner_auth=OWNER)


def test_two_kinds_of_nv_authorisation_at_once_make_no_sense(tpm: Tpm) -> None:
    with pytest.raises(UsageError, match="not with both"):
        nv.write(tpm, 1, b"", owner_auth=OWNER, area_auth=USAGE)


# --- counters --------------------------------------------------------------------------------


def test_counter_only_goes_up_and_its_successor_starts_above(tpm: Tpm) -> None:
    first = counters.create(tpm, OWNER, USAGE, b"one ")
    up = counters.increment(tpm, first.handle, USAGE)
    assert up.value == first.value + 1
    assert counters.read(tpm, first.handle) == up
    second = counters.create(tpm, OWNER, USAGE, b"two ")
    assert second.value > up.value
    counters.release(tpm, first.handle, USAGE)
    counters.release_as_owner(tpm, second.handle, OWNER)
    with refused(Rc.BAD_COUNTER):
        counters.read(tpm, first.handle)


# --- sessions --------------------------------------------------------------------------------


def test_one_session_serves_many_commands(tpm: Tpm) -> None:
    with tpm.oiap(OWNER) as session:
        for _ in range(3):
            tpm.execute(OwnerReadInternalPub(KeyHandleValue.SRK), session)
        assert session.open


# --- the end of an ownership -----------------------------------------------------------------


@pytest.mark.parametrize("backend", ["swtpm", "sim"])
def test_clearing_disables_the_tpm_and_presence_brings_it_back(
    backend: str, tmp_path: Path
) -> None:
    with opened(backend, tmp_path) as tpm:
        assert info.info(tpm).has_endorsement_key is False
        owner.create_ek(tpm)
        owner.take_ownership(tpm, OWNER, WELL_KNOWN)
        blob = keys.create(tpm, keys.srk(), keys.signing_key(bits=1024), USAGE)
        keys.load(tpm, keys.srk(), blob, USAGE)
        tpm.oiap(OWNER)
        assert keys.flush_all(tpm) == 2
        assert keys.flush_all(tpm) == 0
        owner.owner_clear(tpm, OWNER)
        cleared = info.info(tpm)
        assert (cleared.enabled, cleared.owned) == (False, False)
        owner.assert_presence(tpm)
        owner.physical_enable(tpm)
        owner.physical_set_deactivated(tpm, False)
        owner.set_owner_install(tpm, False)
        owner.set_owner_install(tpm, True)
        owner.force_clear(tpm)
        owner.physical_enable(tpm)
        owner.physical_disable(tpm)
        owner.assert_presence(tpm, present=False)
        with refused(Rc.BAD_PRESENCE):
            owner.physical_enable(tpm)
