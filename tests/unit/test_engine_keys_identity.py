"""Our engine's endorsement key, identities and quotes, verified with public keys alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from engine_rig import (
    EK,
    KEY_AUTH,
    OAEP,
    OWNER_AUTH,
    SRK,
    SRK_AUTH,
    Identity,
    Loaded,
    Rig,
    key12,
    new_identity,
    owned_engine,
    pcr_info,
    pcr_info_long,
    private_of,
    public_of,
    template,
    verify,
)

from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engine import Engine
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.endorsement import (
    CreateEndorsementKeyPair,
    OwnerReadInternalPub,
    ReadPubek,
)
from hwtpm.tpm12.commands.identity import ActivateIdentity, MakeIdentity
from hwtpm.tpm12.commands.integrity import Extend, Quote, Quote2
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import (
    EK_TYPE_ACTIVATE,
    AuthDataUsage,
    EncScheme,
    KeyAlgorithm,
    KeyFlag,
    KeyUsage,
    SigScheme,
    StartupType,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import (
    AsymCaContents,
    CapVersionInfo,
    EkBlob,
    EkBlobActivate,
    IdentityContents,
    Key,
    KeyParms,
    PcrInfoLong,
    PcrInfoShort,
    PcrSelection,
    QuoteInfo,
    QuoteInfo2,
    RsaKeyParms,
    StoreAsymKey,
    SymmetricKey,
    pcr_composite_hash,
)

LABEL = b"l" * 20
AIK = template(KeyUsage.IDENTITY)
SESSION_KEY = SymmetricKey(KeyAlgorithm.AES128, EncScheme.SYM_CTR, b"0123456789abcdef")
NO_PCRS = PcrInfoShort(PcrSelection.of(()), 0x1F, bytes(20))
PCRS = PcrSelection.of((1, 2))
PCRS_ZERO = pcr_composite_hash(PCRS, {1: bytes(20), 2: bytes(20)})


def rc_of(action: Callable[[], object]) -> int:
    try:
        action()
    except TpmError as error:
        return error.rc
    return 0


def ek_parms(bits: int = 2048, primes: int = 2, exponent: bytes = b"") -> KeyParms:
    return KeyParms(
        KeyAlgorithm.RSA,
        EncScheme.RSA_OAEP_SHA1_MGF1,
        SigScheme.NONE,
        RsaKeyParms(bits, primes, exponent).encode(),
    )


@pytest.fixture
def factory_new() -> Rig:
    engine = Engine(MemoryStorage())
    engine.power_on()
    rig = Rig(engine)
    rig.run(Startup(StartupType.CLEAR))
    return rig


class TestEndorsementKey:
    def test_is_created_once_and_survives_power_cycles(self, factory_new: Rig) -> None:
        rig = factory_new
        assert rig.refusal(ReadPubek(bytes(20))) == Rc.NO_ENDORSEMENT
        made = rig.run(CreateEndorsementKeyPair(b"a" * 20, ek_parms()))
        public = made.pub_endorsement_key
        assert made.checksum == hashlib.sha1(public.encode() + b"a" * 20).digest()
        assert public.algorithm_parms == ek_parms()
        assert rig.refusal(CreateEndorsementKeyPair(bytes(20), ek_parms())) == Rc.DISABLED_CMD
        rig.wire.tpm.power_on()
        rig.run(Startup(StartupType.CLEAR))
        read = rig.run(ReadPubek(b"r" * 20))
        assert read.pub_endorsement_key == public
        assert read.checksum == hashlib.sha1(public.encode() + b"r" * 20).digest()

    @pytest.mark.parametrize(
        "parms",
        [
            ek_parms(1024),
            ek_parms(4096),
            ek_parms(primes=3),
            ek_parms(exponent=b"\3"),
            replace(ek_parms(), algorithm_id=KeyAlgorithm.AES128),
        ],
    )
    def test_weak_or_unknown_kinds_are_bad_key_property(
        self, factory_new: Rig, parms: KeyParms
    ) -> None:
        create = CreateEndorsementKeyPair(bytes(20), parms)
        assert factory_new.refusal(create) == Rc.BAD_KEY_PROPERTY

    def test_schemes_in_the_request_are_ignored(self, factory_new: Rig) -> None:
        odd = replace(ek_parms(), enc_scheme=9, sig_scheme=9)
        made = factory_new.run(CreateEndorsementKeyPair(bytes(20), odd))
        assert made.pub_endorsement_key.algorithm_parms == ek_parms()

    def test_owned_tpm_shows_it_to_the_owner_only(self, rig: Rig, tpm_identity: Identity) -> None:
        assert rig.refusal(ReadPubek(bytes(20))) == Rc.DISABLED_CMD
        ek = rig.run(OwnerReadInternalPub(EK), OWNER_AUTH).public_portion
        srk = rig.run(OwnerReadInternalPub(SRK), OWNER_AUTH).public_portion
        assert ek.pub_key == tpm_identity.ek.key.pub_key
        assert srk.pub_key == tpm_identity.srk.key.pub_key
        assert rig.refusal(OwnerReadInternalPub(EK), b"x" * 20) == Rc.AUTHFAIL
        assert rig.refusal(OwnerReadInternalPub(0x40000001), OWNER_AUTH) == Rc.BAD_PARAMETER


class TestMakeIdentity:
    def test_binding_and_private_part_verify(self, rig: Rig, tpm_identity: Identity) -> None:
        made = rig.make_identity(AIK, LABEL)
        key = made.id_key
        store = StoreAsymKey.decode(private_of(tpm_identity.srk).decrypt(key.enc_data, OAEP))
        assert store.migration_auth == tpm_identity.tpm_proof
        assert store.usage_auth == KEY_AUTH
        aik = rig.load(key)
        contents = IdentityContents(MakeIdentity.command.ordinal, LABEL, aik.public)
        verify(key.pub_key, made.identity_binding, contents.encode())

    def test_locality_at_creation_is_the_tpms(self, rig: Rig) -> None:
        rig.wire.locality = 2
        made = rig.make_identity(key12(replace(AIK, pcr_info=pcr_info_long((1,), bytes(20)))))
        assert PcrInfoLong.decode(made.id_key.pcr_info).locality_at_creation == 1 << 2

    @pytest.mark.parametrize(
        ("key", "rc"),
        [
            (template(KeyUsage.IDENTITY, 1024), Rc.BAD_KEY_PROPERTY),
            (template(KeyUsage.IDENTITY, sig=SigScheme.RSA_PKCS_V15_DER), Rc.BAD_KEY_PROPERTY),
            (
                template(KeyUsage.IDENTITY, enc=EncScheme.RSA_OAEP_SHA1_MGF1),
                Rc.BAD_KEY_PROPERTY,
            ),
            (template(KeyUsage.IDENTITY, key_flags=KeyFlag.MIGRATABLE), Rc.INVALID_KEYUSAGE),
            (template(KeyUsage.SIGNING), Rc.INVALID_KEYUSAGE),
            (replace(AIK, pcr_info=b"junk"), Rc.INVALID_PCR_INFO),
        ],
    )
    def test_other_keys_are_refused(self, rig: Rig, key: Key, rc: Rc) -> None:
        assert rc_of(lambda: rig.make_identity(key)) == rc

    def test_both_authorisations_count(self, rig: Rig) -> None:
        assert rc_of(lambda: rig.make_identity(AIK, srk_auth=b"x" * 20)) == Rc.AUTHFAIL
        assert rc_of(lambda: rig.make_identity(AIK, owner_auth=b"x" * 20)) == Rc.AUTH2FAIL
        request = MakeIdentity(bytes(20), LABEL, AIK)
        assert rig.refusal(request, SRK_AUTH, OWNER_AUTH) == Rc.BAD_MODE
        assert rig.refusal(request, OWNER_AUTH) == Rc.AUTHFAIL

    def test_srk_without_auth_takes_the_owners_session_alone(self, tpm_identity: Identity) -> None:
        srk = tpm_identity.srk
        free = replace(srk, key=replace(srk.key, auth_data_usage=AuthDataUsage.NEVER))
        rig = Rig(owned_engine(replace(tpm_identity, srk=free)))
        with rig.owner_osap() as owner:
            request = MakeIdentity(owner.encrypt_auth(Secret(KEY_AUTH)), LABEL, AIK)
            made = rig.client.execute(request, owner, last=True)
        aik = rig.load(made.id_key)
        assert rig.refusal(Quote(aik.handle, bytes(20), PCRS), KEY_AUTH) == 0


@pytest.fixture
def aik(rig: Rig) -> Loaded:
    return rig.load(rig.make_identity(AIK).id_key)


def activation(
    rig: Rig, identity: Identity, key: Loaded, plain: bytes, *auths: bytes
) -> Callable[[], SymmetricKey]:
    cipher = public_of(identity.ek.key.pub_key).encrypt(plain, OAEP)
    request = ActivateIdentity(key.handle, cipher)
    return lambda: rig.run(request, *(auths or (KEY_AUTH, OWNER_AUTH))).symmetric_key


class TestActivateIdentity:
    def test_both_forms_release_the_session_key(
        self, rig: Rig, tpm_identity: Identity, aik: Loaded
    ) -> None:
        old = AsymCaContents(SESSION_KEY, aik.public.digest()).encode()
        blob = EkBlobActivate(SESSION_KEY, aik.public.digest(), NO_PCRS).encode()
        for plain in (old, EkBlob(EK_TYPE_ACTIVATE, blob).encode()):
            assert activation(rig, tpm_identity, aik, plain)() == SESSION_KEY

    @pytest.mark.parametrize(
        ("info", "rc"),
        [
            (PcrInfoShort(PCRS, 0x1F, PCRS_ZERO), 0),
            (PcrInfoShort(PcrSelection(b""), 0x1F, bytes(20)), 0),
            (PcrInfoShort(PCRS, 0x1F, bytes(20)), Rc.WRONGPCRVAL),
            (PcrInfoShort(PCRS, 0b00100, PCRS_ZERO), Rc.BAD_LOCALITY),
            (PcrInfoShort(PcrSelection(bytes(4)), 0x1F, bytes(20)), Rc.INVALID_PCR_INFO),
        ],
    )
    def test_pcrs_and_locality_of_the_ca_hold(
        self, rig: Rig, tpm_identity: Identity, aik: Loaded, info: PcrInfoShort, rc: int
    ) -> None:
        blob = EkBlobActivate(SESSION_KEY, aik.public.digest(), info).encode()
        plain = EkBlob(EK_TYPE_ACTIVATE, blob).encode()
        assert rc_of(activation(rig, tpm_identity, aik, plain)) == rc

    def test_blob_for_another_identity_is_bad_parameter(
        self, rig: Rig, tpm_identity: Identity, aik: Loaded
    ) -> None:
        old = AsymCaContents(SESSION_KEY, bytes(20)).encode()
        blob = EkBlobActivate(SESSION_KEY, bytes(20), NO_PCRS).encode()
        for plain in (old, EkBlob(EK_TYPE_ACTIVATE, blob).encode()):
            assert rc_of(activation(rig, tpm_identity, aik, plain)) == Rc.BAD_PARAMETER

    def test_malformed_blobs_are_refused(
        self, rig: Rig, tpm_identity: Identity, aik: Loaded
    ) -> None:
        right = AsymCaContents(SESSION_KEY, aik.public.digest()).encode()
        for plain, rc in (
            (right[:-1], Rc.BAD_PARAM_SIZE),
            (b"1", Rc.BAD_PARAM_SIZE),
            (b"\0\x0c", Rc.BAD_PARAM_SIZE),
            (EkBlob(EK_TYPE_ACTIVATE, b"1").encode(), Rc.BAD_PARAM_SIZE),
            (EkBlob(2, b"1").encode(), Rc.BAD_TYPE),
        ):
            assert rc_of(activation(rig, tpm_identity, aik, plain)) == rc
        for cipher in (b"", b"1" * 256, b"1" * 200):
            request = ActivateIdentity(aik.handle, cipher)
            assert rig.refusal(request, KEY_AUTH, OWNER_AUTH) == Rc.DECRYPT_ERROR

    def test_blob_for_another_tpm_is_decrypt_error(self, rig: Rig, aik: Loaded) -> None:
        plain = AsymCaContents(SESSION_KEY, aik.public.digest()).encode()
        assert rc_of(activation(rig, new_identity(), aik, plain)) == Rc.DECRYPT_ERROR

    def test_only_identities_with_both_authorisations(
        self, rig: Rig, tpm_identity: Identity, aik: Loaded
    ) -> None:
        leaf = rig.make_key(template(KeyUsage.SIGNING))
        plain = AsymCaContents(SESSION_KEY, leaf.public.digest()).encode()
        assert rc_of(activation(rig, tpm_identity, leaf, plain)) == Rc.BAD_PARAMETER
        wrong = b"x" * 20
        for auths, rc in (
            ((wrong, OWNER_AUTH), Rc.AUTHFAIL),
            ((KEY_AUTH, wrong), Rc.AUTH2FAIL),
            ((OWNER_AUTH,), Rc.AUTHFAIL),
        ):
            assert rc_of(activation(rig, tpm_identity, aik, plain, *auths)) == rc


class TestQuotes:
    @pytest.mark.parametrize(
        "key",
        [
            template(KeyUsage.SIGNING, 1024),
            template(KeyUsage.SIGNING, 1024, sig=SigScheme.RSA_PKCS_V15_INFO),
            template(KeyUsage.LEGACY, 1024),
        ],
    )
    def test_quote_verifies(self, rig: Rig, key: Key) -> None:
        rig.run(Extend(1, b"e" * 20))
        value = hashlib.sha1(bytes(20) + b"e" * 20).digest()
        loaded = rig.make_key(key)
        quote = rig.run(Quote(loaded.handle, b"n" * 20, PCRS), KEY_AUTH)
        assert quote.pcr_data.values == value + bytes(20)
        digest = pcr_composite_hash(PCRS, {1: value, 2: bytes(20)})
        verify(loaded.key.pub_key, quote.sig, QuoteInfo(digest, b"n" * 20).encode())

    def test_quote2_verifies_with_locality_and_version(self, rig: Rig, aik: Loaded) -> None:
        rig.wire.locality = 3
        quote = rig.run(Quote2(aik.handle, b"n" * 20, PCRS, True), KEY_AUTH)
        assert quote.pcr_data == PcrInfoShort(PCRS, 1 << 3, PCRS_ZERO)
        assert CapVersionInfo.decode(quote.version_info).version.major == 1
        signed = QuoteInfo2(b"n" * 20, quote.pcr_data).encode()
        verify(aik.key.pub_key, quote.sig, signed + quote.version_info)
        bare = rig.run(Quote2(aik.handle, b"n" * 20, PCRS, False), KEY_AUTH)
        assert bare.version_info == b""
        verify(aik.key.pub_key, bare.sig, signed)

    @pytest.mark.parametrize(
        ("key", "rc"),
        [
            (template(KeyUsage.SIGNING, 512, sig=SigScheme.RSA_PKCS_V15_DER), Rc.INAPPROPRIATE_SIG),
            (template(KeyUsage.STORAGE), Rc.INAPPROPRIATE_SIG),
            (
                template(KeyUsage.SIGNING, 512, pcr_info=pcr_info((1,), b"n" * 20)),
                Rc.WRONGPCRVAL,
            ),
        ],
    )
    def test_keys_that_must_not_quote(self, rig: Rig, key: Key, rc: Rc) -> None:
        handle = rig.make_key(key).handle
        assert rig.refusal(Quote(handle, bytes(20), PCRS), KEY_AUTH) == rc
        assert rig.refusal(Quote2(handle, bytes(20), PCRS, False), KEY_AUTH) == rc

    @pytest.mark.parametrize("selection", [b"", bytes(4), b"\0\0\0\1"])
    def test_impossible_selections_are_invalid_pcr_info(
        self, rig: Rig, aik: Loaded, selection: bytes
    ) -> None:
        pcrs = PcrSelection(selection)
        quote2 = Quote2(aik.handle, bytes(20), pcrs, False)
        assert rig.refusal(Quote(aik.handle, bytes(20), pcrs), KEY_AUTH) == Rc.INVALID_PCR_INFO
        assert rig.refusal(quote2, KEY_AUTH) == Rc.INVALID_PCR_INFO

    def test_identities_quote_and_do_not_sign(self, rig: Rig, aik: Loaded) -> None:
        assert rig.refusal(Sign(aik.handle, bytes(20)), KEY_AUTH) == Rc.INVALID_KEYUSAGE
        assert rig.refusal(Quote(aik.handle, bytes(20), PCRS)) == Rc.AUTHFAIL
        assert rig.refusal(Quote(aik.handle, bytes(20), PCRS), b"x" * 20) == Rc.AUTHFAIL
