"""Our engine and libtpms with the same root keys: each uses what the other made.

Our engine takes over the identity of a libtpms TPM (root keys and tpmProof, by the product's own
import), so both are the same TPM as far as blobs are concerned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from engine_rig import (
    DATA_AUTH,
    EK,
    KEY_AUTH,
    OAEP,
    OWNER_AUTH,
    SRK,
    SRK_AUTH,
    Identity,
    Rig,
    key12,
    owned_engine,
    owned_libtpms,
    pcr_info,
    pcr_info_long,
    public_of,
    template,
)

from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.migration import import_permanent
from hwtpm.tpm12.commands.authdata import ChangeAuth
from hwtpm.tpm12.commands.cryptography import CertifyKey, CertifyKey2, Sign
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.identity import ActivateIdentity
from hwtpm.tpm12.commands.integrity import Quote, Quote2
from hwtpm.tpm12.commands.storage import CreateWrapKey, GetPubKey, LoadKey2, Seal, UnBind, Unseal
from hwtpm.tpm12.const import (
    PROTOCOL_ADCP,
    AuthDataUsage,
    EncScheme,
    EntityType,
    KeyAlgorithm,
    KeyFlag,
    KeyUsage,
    Payload,
    ResourceType,
    SigScheme,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Request
from hwtpm.tpm12.types import (
    AsymCaContents,
    BoundData,
    Key,
    KeyParms,
    PcrSelection,
    SymmetricKey,
    pcr_composite_hash,
)
from hwtpm.wire import Struct

PCRS = PcrSelection.of((1, 2))
PCR1_ZERO = pcr_composite_hash(PcrSelection.of((1,)), {1: bytes(20)})
SMALL = template(KeyUsage.SIGNING, 1024)


def identity_of(storage: MemoryStorage) -> Identity:
    state = import_permanent(storage.blobs[StateName.PERMANENT], bytes)
    assert state.ek is not None
    assert state.srk is not None
    return Identity(state.ek, state.srk, state.tpm_proof)


@dataclass(frozen=True, slots=True)
class Pair:
    """The two TPMs; tests take one as the maker and the other as the user."""

    ours: Rig
    theirs: Rig

    def both_ways(self) -> tuple[tuple[Rig, Rig], tuple[Rig, Rig]]:
        return (self.ours, self.theirs), (self.theirs, self.ours)


@pytest.fixture(scope="module")
def theirs() -> Iterator[tuple[Rig, Identity]]:
    storage = MemoryStorage()
    rig = Rig(owned_libtpms(storage))
    try:
        yield rig, identity_of(storage)
    finally:
        rig.client.close()


@pytest.fixture
def pair(theirs: tuple[Rig, Identity]) -> Pair:
    rig, identity = theirs
    rig.wire.locality = 0
    return Pair(Rig(owned_engine(identity)), rig)


def unload(rig: Rig, handle: int) -> None:
    rig.run(FlushSpecific(handle, ResourceType.KEY))


def refusals(pair: Pair, request: Request[Struct], *secrets: bytes) -> tuple[int, int]:
    return pair.ours.refusal(request, *secrets), pair.theirs.refusal(request, *secrets)


@pytest.mark.parametrize(
    "key",
    [
        template(KeyUsage.SIGNING, 512),
        template(KeyUsage.SIGNING, 1024, key_flags=KeyFlag.MIGRATABLE),
        template(KeyUsage.SIGNING, 2048, pcr_info=pcr_info((1,), PCR1_ZERO)),
        key12(template(KeyUsage.SIGNING, 1024, pcr_info=pcr_info_long((1,), PCR1_ZERO))),
    ],
    ids=["non-migratable", "migratable", "pcrs", "key12-pcrs-localities"],
)
def test_each_loads_and_signs_alike_with_the_others_key(pair: Pair, key: Key) -> None:
    for maker, user in pair.both_ways():
        made = maker.create_key(key)
        signatures = []
        for rig in (maker, user):
            loaded = rig.load(made)
            signatures.append(
                (
                    rig.run(Sign(loaded.handle, b"s" * 20), KEY_AUTH).sig,
                    rig.run(Quote(loaded.handle, b"n" * 20, PCRS), KEY_AUTH),
                    rig.run(Quote2(loaded.handle, b"n" * 20, PCRS, False), KEY_AUTH),
                    rig.run(GetPubKey(loaded.handle), KEY_AUTH),
                )
            )
            unload(rig, loaded.handle)
        assert signatures[0] == signatures[1]


@pytest.mark.parametrize("scheme", [SigScheme.RSA_PKCS_V15_DER, SigScheme.RSA_PKCS_V15_INFO])
def test_other_signature_schemes_sign_alike(pair: Pair, scheme: SigScheme) -> None:
    made = pair.theirs.create_key(template(KeyUsage.SIGNING, 512, sig=scheme))
    signatures = []
    for rig in (pair.ours, pair.theirs):
        loaded = rig.load(made)
        plain_random, rig.client.random = rig.client.random, lambda size: b"\x5a" * size
        signatures.append(rig.run(Sign(loaded.handle, b"area to sign"), KEY_AUTH).sig)
        rig.client.random = plain_random
        unload(rig, loaded.handle)
    assert signatures[0] == signatures[1]


def test_keys_below_a_wrapped_storage_key_cross_too(pair: Pair) -> None:
    for maker, user in pair.both_ways():
        storage = maker.make_key(template(KeyUsage.STORAGE))
        leaf = maker.create_key(SMALL, storage.handle, KEY_AUTH)
        parent = user.load(storage.key)
        child = user.load(leaf, parent.handle, KEY_AUTH)
        assert user.refusal(Sign(child.handle, bytes(20)), KEY_AUTH) == 0
        for rig, handle in ((user, child.handle), (user, parent.handle), (maker, storage.handle)):
            unload(rig, handle)


@pytest.mark.parametrize(
    "info",
    [b"", pcr_info((1,), PCR1_ZERO), pcr_info_long((1,), PCR1_ZERO, 0b00010)],
    ids=["no-pcrs", "pcr-info", "pcr-info-long"],
)
def test_each_unseals_what_the_other_sealed(pair: Pair, info: bytes) -> None:
    for maker, user in pair.both_ways():
        maker.wire.locality = user.wire.locality = 1
        assert user.unseal(maker.seal(b"secret" * 20, info)) == b"secret" * 20
        assert user.unsealx(maker.sealx(b"secret" * 20)) == b"secret" * 20


def test_each_quotes_with_the_others_identity_and_activates_it(pair: Pair) -> None:
    session_key = SymmetricKey(KeyAlgorithm.AES128, EncScheme.SYM_CTR, b"0123456789abcdef")
    ek = pair.theirs.run(OwnerReadInternalPub(EK), OWNER_AUTH).public_portion
    for maker, user in pair.both_ways():
        aik = user.load(maker.make_identity(template(KeyUsage.IDENTITY)).id_key)
        contents = AsymCaContents(session_key, aik.public.digest()).encode()
        request = ActivateIdentity(aik.handle, public_of(ek.pub_key).encrypt(contents, OAEP))
        assert user.run(request, KEY_AUTH, OWNER_AUTH).symmetric_key == session_key
        assert user.refusal(Quote(aik.handle, bytes(20), PCRS), KEY_AUTH) == 0
        unload(user, aik.handle)


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        (template(KeyUsage.BIND), BoundData(Payload.BIND, b"bound").encode()),
        (template(KeyUsage.BIND), BoundData(Payload.SEAL, b"bound").encode()),
        (template(KeyUsage.BIND), b"\1\2\0\0\2data"),
        (template(KeyUsage.BIND), b"\1\1"),
        (template(KeyUsage.LEGACY), b"raw data"),
    ],
    ids=["bound", "payload", "version", "short", "legacy-raw"],
)
def test_unbind_answers_alike(pair: Pair, key: Key, plain: bytes) -> None:
    made = pair.theirs.create_key(key)
    cipher = public_of(made.pub_key).encrypt(plain, OAEP)
    answers: list[int | bytes] = []
    for rig in (pair.ours, pair.theirs):
        handle = rig.load(made).handle
        try:
            answers.append(rig.run(UnBind(handle, cipher), KEY_AUTH).out_data)
        except TpmError as error:
            answers.append(error.rc)
        unload(rig, handle)
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "key",
    [
        template(KeyUsage.SIGNING, 256),
        template(KeyUsage.SIGNING, 520),
        template(KeyUsage.SIGNING, 4096),
        template(KeyUsage.SIGNING, enc=EncScheme.RSA_OAEP_SHA1_MGF1),
        template(KeyUsage.SIGNING, sig=SigScheme.NONE),
        template(KeyUsage.LEGACY, 512, sig=SigScheme.RSA_PKCS_V15_INFO),
        template(KeyUsage.LEGACY, 512, enc=EncScheme.NONE),
        template(KeyUsage.STORAGE, 1024),
        template(KeyUsage.STORAGE, enc=EncScheme.RSA_PKCS_V15),
        template(KeyUsage.BIND, 512, sig=SigScheme.RSA_PKCS_V15_SHA1),
        template(KeyUsage.IDENTITY),
        template(KeyUsage.IDENTITY, 512),
        template(KeyUsage.AUTHCHANGE, 512),
        template(KeyUsage.MIGRATE, 1024),
        replace(SMALL, key_usage=0),
        replace(SMALL, key_flags=0x20),
        replace(SMALL, key_flags=KeyFlag.MIGRATE_AUTHORITY),
        replace(SMALL, algorithm_parms=KeyParms(6, 1, 2, b"")),
        replace(SMALL, algorithm_parms=KeyParms(1, 1, 2, b"123")),
        replace(SMALL, pcr_info=b"123"),
        replace(SMALL, pcr_info=pcr_info_long((1,), bytes(20))),
    ],
)
def test_create_refuses_alike(pair: Pair, key: Key) -> None:
    codes = []
    for rig in (pair.ours, pair.theirs):
        with pytest.raises(TpmError) as caught:
            rig.create_key(key)
        codes.append(caught.value.rc)
    assert codes[0] == codes[1]


def test_sessions_of_the_wrong_kind_are_refused_alike(pair: Pair) -> None:
    for request in (
        CreateWrapKey(SRK, bytes(20), bytes(20), SMALL),
        Seal(SRK, bytes(20), b"", b"x"),
    ):
        ours, theirs = refusals(pair, request, SRK_AUTH)
        assert ours == theirs == Rc.BAD_MODE


def test_changed_keys_and_blobs_are_refused_alike(pair: Pair) -> None:
    key = pair.ours.create_key(SMALL)
    blob = pair.theirs.seal(b"secret", pcr_info((1,), bytes(20)))
    flipped = bytes((blob.enc_data[0] ^ 1,)) + blob.enc_data[1:]
    for request, secrets in (
        *(
            (LoadKey2(SRK, replace(key, enc_data=data)), (SRK_AUTH,))
            for data in (flipped, b"", key.enc_data[1:], b"\xff" * 256)
        ),
        (LoadKey2(SRK, replace(key, auth_data_usage=AuthDataUsage.NEVER)), (SRK_AUTH,)),
        (LoadKey2(SRK, replace(key, key_flags=0x20)), (SRK_AUTH,)),
        (LoadKey2(SRK, key), ()),
        (LoadKey2(5, key), (SRK_AUTH,)),
        *(
            (Unseal(SRK, changed), (SRK_AUTH, DATA_AUTH))
            for changed in (
                blob,
                replace(blob, enc_data=flipped),
                replace(blob, enc_data=b""),
                replace(blob, seal_info=b""),
                replace(blob, form=0x02010000),
            )
        ),
    ):
        ours, theirs = refusals(pair, request, *secrets)
        assert ours == theirs != 0


def test_impossible_selections_are_refused_alike(pair: Pair) -> None:
    made = pair.ours.create_key(SMALL)
    for select in (bytes(4), b"\0\0\0\1"):
        codes = []
        for rig in (pair.ours, pair.theirs):
            handle = rig.load(made).handle
            codes.append(rig.refusal(Quote(handle, bytes(20), PcrSelection(select)), KEY_AUTH))
            unload(rig, handle)
        assert codes == [Rc.INVALID_PCR_INFO] * 2


def test_uses_of_the_wrong_key_are_refused_alike(pair: Pair) -> None:
    keys = {
        KeyUsage.SIGNING: template(KeyUsage.SIGNING, 512),
        KeyUsage.STORAGE: template(KeyUsage.STORAGE, key_flags=KeyFlag.MIGRATABLE),
        KeyUsage.BIND: template(KeyUsage.BIND, 512),
        KeyUsage.LEGACY: template(KeyUsage.LEGACY, 512, sig=SigScheme.RSA_PKCS_V15_DER),
    }
    for key in keys.values():
        made = pair.ours.create_key(key)
        handles = tuple(rig.load(made).handle for rig in (pair.ours, pair.theirs))

        def codes(handle: int, rig: Rig) -> list[int]:
            requests: list[Request[Struct]] = [
                Sign(handle, b""),
                Sign(handle, b"x" * 54),
                UnBind(handle, b""),
                Quote(handle, bytes(20), PCRS),
                LoadKey2(handle, SMALL),
            ]
            return [rig.refusal(request, KEY_AUTH) for request in requests]

        answers = [
            codes(handle, rig)
            for handle, rig in zip(handles, (pair.ours, pair.theirs), strict=True)
        ]
        assert answers[0] == answers[1]
        unload(pair.theirs, handles[1])


def test_each_certifies_alike_what_the_other_made(pair: Pair) -> None:
    """With fixed keys and nonces both commands are deterministic, signatures included."""
    signer, key = (
        pair.ours.create_key(SMALL),
        pair.theirs.create_key(
            key12(template(KeyUsage.SIGNING, 512, pcr_info=pcr_info_long((1,), PCR1_ZERO, 1)))
        ),
    )
    plain = pair.theirs.create_key(template(KeyUsage.STORAGE))
    certificates = []
    for rig in (pair.ours, pair.theirs):
        certifier, *subjects = (rig.load(k).handle for k in (signer, key, plain))
        certificates.append(
            [
                rig.run(request, KEY_AUTH, KEY_AUTH)
                for subject in subjects
                for request in (
                    CertifyKey(certifier, subject, b"n" * 20),
                    CertifyKey2(subject, certifier, bytes(20), b"n" * 20),
                )
            ]
        )
        for handle in (certifier, *subjects):
            unload(rig, handle)
    assert certificates[0] == certificates[1]


def test_each_uses_what_the_other_gave_a_new_secret(pair: Pair) -> None:
    for maker, user in pair.both_ways():
        made = maker.create_key(SMALL)
        with maker.osap(SRK, SRK_AUTH) as parent, maker.client.oiap(Secret(KEY_AUTH)) as old:
            auth = parent.encrypt_auth(Secret(DATA_AUTH))
            request = ChangeAuth(SRK, PROTOCOL_ADCP, auth, EntityType.KEY, made.enc_data)
            enc_data = maker.client.execute(request, parent, old).out_data
        handle = user.load(replace(made, enc_data=enc_data)).handle
        assert user.refusal(Sign(handle, bytes(20)), DATA_AUTH) == 0
        unload(user, handle)
