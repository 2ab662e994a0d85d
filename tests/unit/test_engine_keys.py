"""Our engine's wrapped keys and signatures: created keys are opened and checked by other means."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from engine_rig import (
    EK,
    KEY_AUTH,
    MIGRATION_AUTH,
    OAEP,
    PREHASHED,
    SRK,
    SRK_AUTH,
    Identity,
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

from hwtpm.client import keys, transport
from hwtpm.client.transport import Cipher
from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.softtpm.engine import Engine
from hwtpm.tpm12.commands.context import LoadContext, SaveContext
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.integrity import Extend, PcrRead
from hwtpm.tpm12.commands.storage import CreateWrapKey, GetPubKey, LoadKey2
from hwtpm.tpm12.const import (
    AuthDataUsage,
    EncScheme,
    KeyFlag,
    KeyUsage,
    Payload,
    ResourceType,
    SigScheme,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import (
    Key,
    KeyParms,
    PcrInfo,
    PcrInfoLong,
    PcrSelection,
    RsaKeyParms,
    SignInfo,
    StoreAsymKey,
    pcr_composite_hash,
)

SMALL = template(KeyUsage.SIGNING, 1024)
MIGRATABLE = replace(SMALL, key_flags=KeyFlag.MIGRATABLE)
PCR1_ZERO = pcr_composite_hash(PcrSelection.of((1,)), {1: bytes(20)})


def with_rsa(key: Key, bits: int, primes: int, exponent: bytes) -> Key:
    parms = RsaKeyParms(bits, primes, exponent).encode()
    return replace(key, algorithm_parms=replace(key.algorithm_parms, parms=parms))


def open_wrapped(identity: Identity, key: Key) -> StoreAsymKey:
    return StoreAsymKey.decode(private_of(identity.srk).decrypt(key.enc_data, OAEP))


def create_refusal(rig: Rig, key: Key, **how: object) -> int:
    try:
        rig.create_key(key, **how)  # type: ignore[arg-type]
    except TpmError as error:
        return error.rc
    return 0


def load_refusal(rig: Rig, key: Key, parent: int = SRK, auth: bytes = SRK_AUTH) -> int:
    return rig.refusal(LoadKey2(parent, key), auth)


@pytest.fixture(scope="module")
def outside() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)


def wrap_outside(
    identity: Identity, private: rsa.RSAPrivateKey, key: Key = MIGRATABLE, **changes: object
) -> Key:
    """A key made outside any TPM and wrapped to the SRK, as a TSS wraps software keys."""
    numbers = private.private_numbers()
    public = replace(key, pub_key=numbers.public_numbers.n.to_bytes(128, "big"))
    store = StoreAsymKey(
        Payload.ASYM,
        KEY_AUTH,
        MIGRATION_AUTH,
        hashlib.sha1(public.public_part()).digest(),
        numbers.p.to_bytes(64, "big"),
    )
    plain = replace(store, **changes).encode()  # type: ignore[arg-type]
    return replace(public, enc_data=public_of(identity.srk.key.pub_key).encrypt(plain, OAEP))


class TestCreate:
    @pytest.mark.parametrize("bits", [512, 768, 1024, 2048])
    def test_private_part_opens_with_srk_and_fits_public_part(
        self, rig: Rig, tpm_identity: Identity, bits: int
    ) -> None:
        key = rig.create_key(template(KeyUsage.SIGNING, bits))
        store = open_wrapped(tpm_identity, key)
        modulus = int.from_bytes(key.pub_key, "big")
        prime = int.from_bytes(store.priv_key, "big")
        assert modulus.bit_length() == bits
        assert 1 < prime < modulus
        assert modulus % prime == 0
        assert store.payload == Payload.ASYM
        assert store.usage_auth == KEY_AUTH
        assert store.pub_data_digest == hashlib.sha1(key.public_part()).digest()

    def test_migration_auth_is_tpm_proof_unless_migratable(
        self, rig: Rig, tpm_identity: Identity
    ) -> None:
        fixed = open_wrapped(tpm_identity, rig.create_key(SMALL))
        movable = open_wrapped(tpm_identity, rig.create_key(MIGRATABLE))
        assert fixed.migration_auth == tpm_identity.tpm_proof
        assert movable.migration_auth == MIGRATION_AUTH

    def test_digest_and_locality_at_creation_are_the_tpms(self, rig: Rig) -> None:
        rig.run(Extend(1, b"e" * 20))
        now = pcr_composite_hash(
            PcrSelection.of((1,)), {1: hashlib.sha1(bytes(20) + b"e" * 20).digest()}
        )
        old = rig.create_key(replace(SMALL, pcr_info=pcr_info((1,), b"r" * 20)))
        assert PcrInfo.decode(old.pcr_info) == PcrInfo(PcrSelection.of((1,)), b"r" * 20, now)
        rig.wire.locality = 3
        new = rig.create_key(key12(replace(SMALL, pcr_info=pcr_info_long((1,), b"r" * 20, 6))))
        info = PcrInfoLong.decode(new.pcr_info)
        assert (info.locality_at_creation, info.locality_at_release) == (1 << 3, 6)
        assert (info.digest_at_creation, info.digest_at_release) == (now, b"r" * 20)

    @pytest.mark.parametrize(
        "key",
        [
            template(KeyUsage.SIGNING, 256),
            template(KeyUsage.SIGNING, 520),
            template(KeyUsage.SIGNING, 4096),
            template(KeyUsage.SIGNING, enc=EncScheme.RSA_OAEP_SHA1_MGF1),
            template(KeyUsage.SIGNING, sig=SigScheme.NONE),
            template(KeyUsage.LEGACY, sig=SigScheme.RSA_PKCS_V15_INFO),
            template(KeyUsage.LEGACY, enc=EncScheme.NONE),
            template(KeyUsage.STORAGE, 1024),
            template(KeyUsage.STORAGE, enc=EncScheme.RSA_PKCS_V15),
            template(KeyUsage.STORAGE, sig=SigScheme.RSA_PKCS_V15_SHA1),
            template(KeyUsage.MIGRATE, 1024),
            template(KeyUsage.BIND, enc=EncScheme.SYM_CTR),
            replace(SMALL, key_usage=0x17),
            replace(SMALL, key_flags=0x20),
            replace(SMALL, algorithm_parms=KeyParms(6, 1, 2, b"")),
            with_rsa(SMALL, 1024, 3, b""),
            with_rsa(SMALL, 1024, 2, b"\3"),
            with_rsa(template(KeyUsage.STORAGE), 2048, 2, b"\1\0\1"),
        ],
    )
    def test_impossible_properties_are_bad_key_property(self, rig: Rig, key: Key) -> None:
        assert create_refusal(rig, key) == Rc.BAD_KEY_PROPERTY

    @pytest.mark.parametrize(
        "key",
        [
            template(KeyUsage.IDENTITY),
            template(KeyUsage.AUTHCHANGE),
            replace(SMALL, key_flags=KeyFlag.MIGRATE_AUTHORITY),
        ],
    )
    def test_keys_of_other_commands_are_invalid_keyusage(self, rig: Rig, key: Key) -> None:
        assert create_refusal(rig, key) == Rc.INVALID_KEYUSAGE

    @pytest.mark.parametrize(
        "key",
        [
            replace(SMALL, pcr_info=b"junk"),
            replace(SMALL, pcr_info=pcr_info_long((1,), bytes(20))),
            key12(replace(SMALL, pcr_info=pcr_info((1,), bytes(20)))),
            key12(replace(SMALL, pcr_info=pcr_info_long((1,), bytes(20), 0))),
            key12(replace(SMALL, pcr_info=pcr_info_long((1,), bytes(20), 0x20))),
            replace(SMALL, pcr_info=PcrInfo(PcrSelection(b""), bytes(20), bytes(20)).encode()),
            replace(SMALL, pcr_info=PcrInfo(PcrSelection(bytes(4)), bytes(20), bytes(20)).encode()),
        ],
    )
    def test_bad_pcr_info_is_refused(self, rig: Rig, key: Key) -> None:
        assert create_refusal(rig, key) == Rc.INVALID_PCR_INFO

    def test_undecodable_rsa_parameters_are_bad_param_size(self, rig: Rig) -> None:
        key = replace(SMALL, algorithm_parms=replace(SMALL.algorithm_parms, parms=b"123"))
        assert create_refusal(rig, key) == Rc.BAD_PARAM_SIZE

    def test_only_osap_can_carry_new_auth(self, rig: Rig) -> None:
        request = CreateWrapKey(SRK, bytes(20), bytes(20), SMALL)
        assert rig.refusal(request, SRK_AUTH) == Rc.BAD_MODE

    def test_wrong_parent_auth_is_authfail(self, rig: Rig) -> None:
        assert create_refusal(rig, SMALL, parent_auth=b"x" * 20) == Rc.AUTHFAIL

    def test_parent_has_to_be_a_storage_key(self, rig: Rig) -> None:
        leaf = rig.make_key(SMALL)
        how = {"parent": leaf.handle, "parent_auth": KEY_AUTH}
        assert create_refusal(rig, SMALL, **how) == Rc.INVALID_KEYUSAGE

    def test_migratable_parent_has_migratable_children_only(self, rig: Rig) -> None:
        parent = rig.make_key(template(KeyUsage.STORAGE, key_flags=KeyFlag.MIGRATABLE))
        how = {"parent": parent.handle, "parent_auth": KEY_AUTH}
        assert create_refusal(rig, SMALL, **how) == Rc.INVALID_KEYUSAGE
        child = rig.create_key(MIGRATABLE, parent.handle, KEY_AUTH)
        assert load_refusal(rig, child, parent.handle, KEY_AUTH) == 0


class TestLoad:
    def test_key_made_outside_loads_and_signs(
        self, rig: Rig, tpm_identity: Identity, outside: rsa.RSAPrivateKey
    ) -> None:
        key = rig.load(wrap_outside(tpm_identity, outside))
        signature = rig.run(Sign(key.handle, b"s" * 20), KEY_AUTH).sig
        expected = outside.sign(b"s" * 20, padding.PKCS1v15(), PREHASHED)
        assert signature == expected

    def test_a_session_for_a_key_is_for_no_other_of_the_same_modulus(
        self, rig: Rig, tpm_identity: Identity, outside: rsa.RSAPrivateKey
    ) -> None:
        one = rig.load(wrap_outside(tpm_identity, outside))
        other = rig.load(wrap_outside(tpm_identity, outside, key12(MIGRATABLE)))
        with rig.osap(one.handle, KEY_AUTH) as session:
            rig.client.execute(Sign(one.handle, bytes(20)), session)
            with pytest.raises(TpmError) as refused:
                rig.client.execute(Sign(other.handle, bytes(20)), session)
        assert refused.value.rc == Rc.AUTHFAIL

    @pytest.mark.parametrize(
        ("changes", "rc"),
        [
            ({"priv_key": bytes(63) + b"\5"}, Rc.BAD_PARAMETER),
            ({"priv_key": bytes(64)}, Rc.BAD_PARAMETER),
            ({"priv_key": bytes(63) + b"\2"}, Rc.BAD_PARAMETER),
            ({"priv_key": bytes(63) + b"\1"}, Rc.BAD_PARAMETER),
            ({"priv_key": b""}, Rc.BAD_PARAMETER),
            ({"pub_data_digest": bytes(20)}, Rc.AUTHFAIL),
            ({"payload": Payload.BIND}, Rc.INVALID_STRUCTURE),
            ({"payload": Payload.MIGRATE}, Rc.INVALID_STRUCTURE),
        ],
    )
    def test_crafted_private_parts_are_refused(
        self,
        rig: Rig,
        tpm_identity: Identity,
        outside: rsa.RSAPrivateKey,
        changes: dict[str, object],
        rc: Rc,
    ) -> None:
        assert load_refusal(rig, wrap_outside(tpm_identity, outside, **changes)) == rc

    @pytest.mark.parametrize(
        ("key", "rc"),
        [
            (SMALL, Rc.INVALID_KEYUSAGE),  # not migratable, and does not know tpmProof
            (template(KeyUsage.STORAGE, 1024, key_flags=2), Rc.BAD_KEY_PROPERTY),
            (template(KeyUsage.SIGNING, 2048, key_flags=2), Rc.BAD_KEY_PROPERTY),
            (template(KeyUsage.AUTHCHANGE, 1024, key_flags=2), Rc.INVALID_KEYUSAGE),
            (replace(MIGRATABLE, pcr_info=b"1"), Rc.INVALID_PCR_INFO),
            (replace(MIGRATABLE, key_flags=0x22), Rc.BAD_KEY_PROPERTY),
        ],
    )
    def test_keys_that_must_not_load(
        self,
        rig: Rig,
        tpm_identity: Identity,
        outside: rsa.RSAPrivateKey,
        key: Key,
        rc: Rc,
    ) -> None:
        assert load_refusal(rig, wrap_outside(tpm_identity, outside, key)) == rc

    def test_even_modulus_is_refused_at_load(
        self, rig: Rig, tpm_identity: Identity, outside: rsa.RSAPrivateKey
    ) -> None:
        wrapped = wrap_outside(tpm_identity, outside)
        prime = outside.private_numbers().p
        even = replace(wrapped, pub_key=(prime * 2**512).to_bytes(128, "big"))
        store = replace(
            open_wrapped(tpm_identity, wrapped),
            pub_data_digest=hashlib.sha1(even.public_part()).digest(),
        )
        srk = public_of(tpm_identity.srk.key.pub_key)
        even = replace(even, enc_data=srk.encrypt(store.encode(), OAEP))
        assert load_refusal(rig, even) == Rc.BAD_PARAMETER

    def test_changed_blobs_are_refused(self, rig: Rig) -> None:
        key = rig.create_key(SMALL)
        flipped = bytes((key.enc_data[0] ^ 1,)) + key.enc_data[1:]
        for enc_data in (flipped, b"", b"\xff" * 256, key.enc_data[1:]):
            assert load_refusal(rig, replace(key, enc_data=enc_data)) == Rc.DECRYPT_ERROR
        assert load_refusal(rig, replace(key, enc_data=b"\1" * 300)) == Rc.BAD_DATASIZE
        for changed in (
            replace(key, auth_data_usage=AuthDataUsage.NEVER),
            replace(key, key_flags=KeyFlag.MIGRATABLE),
            key12(key),
        ):
            assert load_refusal(rig, changed) == Rc.AUTHFAIL
        assert load_refusal(rig, key) == 0

    def test_only_the_parent_opens_it(self, rig: Rig) -> None:
        other = rig.make_key(template(KeyUsage.STORAGE))
        key = rig.create_key(SMALL)
        assert load_refusal(rig, key, other.handle, KEY_AUTH) == Rc.DECRYPT_ERROR
        leaf = rig.load(key)
        assert load_refusal(rig, key, leaf.handle, KEY_AUTH) == Rc.INVALID_KEYUSAGE

    def test_another_tpm_refuses_it(self, rig: Rig, tpm_identity: Identity) -> None:
        key = rig.create_key(SMALL)
        foreign = Rig(owned_engine(new_identity()))
        assert load_refusal(foreign, key) == Rc.DECRYPT_ERROR
        cleared = Rig(owned_engine(replace(tpm_identity, tpm_proof=b"n" * 20)))
        assert load_refusal(cleared, key) == Rc.INVALID_KEYUSAGE

    def test_slots_run_out_with_nospace(self, rig: Rig) -> None:
        key = rig.create_key(template(KeyUsage.SIGNING, 512))
        handles = {rig.load(key).handle for _ in range(20)}
        assert len(handles) == 20
        assert load_refusal(rig, key) == Rc.NOSPACE
        rig.run(FlushSpecific(handles.pop(), ResourceType.KEY))
        assert load_refusal(rig, key) == 0

    def test_key_bound_to_pcrs_marks_its_children(self, rig: Rig) -> None:
        parent = rig.make_key(template(KeyUsage.STORAGE, pcr_info=pcr_info((1,), PCR1_ZERO)))
        child = rig.create_key(SMALL, parent.handle, KEY_AUTH)
        child_handle = rig.load(child, parent.handle, KEY_AUTH).handle
        engine = rig.wire.tpm
        assert isinstance(engine, Engine)
        assert engine.key(child_handle).parent_condition
        assert not engine.key(parent.handle).parent_condition
        rig.run(Extend(1, bytes(20)))
        assert load_refusal(rig, child, parent.handle, KEY_AUTH) == Rc.WRONGPCRVAL

    def test_parent_without_auth_needs_no_session(self, rig: Rig) -> None:
        parent = rig.make_key(template(KeyUsage.STORAGE, auth_data_usage=AuthDataUsage.NEVER))
        child = rig.create_key(SMALL, parent.handle, KEY_AUTH)
        assert rig.refusal(LoadKey2(parent.handle, child)) == 0
        assert rig.refusal(LoadKey2(SRK, child)) == Rc.AUTHFAIL

    def test_fips_mode_takes_no_weak_keys(self, rig: Rig) -> None:
        weak = (
            template(KeyUsage.SIGNING, 512),
            template(KeyUsage.LEGACY),
            replace(SMALL, auth_data_usage=AuthDataUsage.NEVER),
        )
        assert [self._refusal_in_fips_mode(rig, key) for key in weak] == [Rc.NOTFIPS] * 3
        assert self._refusal_in_fips_mode(rig, SMALL) == 0

    def test_fips_mode_hides_no_command_behind_a_mask(self, rig: Rig) -> None:
        """24.1 action 3.a."""
        engine = rig.wire.tpm
        assert isinstance(engine, Engine)
        flags = replace(engine.permanent.flags, fips=True)
        engine.permanent = replace(engine.permanent, flags=flags)
        srk, public = keys.srk(Secret(SRK_AUTH)), engine.root_key(SRK).public
        with pytest.raises(TpmError, match="INAPPROPRIATE_ENC"):
            transport.establish(rig.client, srk, public, cipher=Cipher.MGF1)
        with transport.establish(rig.client, srk, public, cipher=Cipher.AES128_CTR) as session:
            assert session.tpm.execute_with(PcrRead(0)).out_digest == bytes(20)

    @staticmethod
    def _refusal_in_fips_mode(rig: Rig, key: Key) -> int:
        engine = rig.wire.tpm
        assert isinstance(engine, Engine)
        # The session comes first: in FIPS mode it could not encrypt AuthData with XOR.
        with rig.osap(SRK, SRK_AUTH) as session:
            auths = (session.encrypt_auth(Secret(KEY_AUTH)),) * 2
            before = engine.permanent
            engine.permanent = replace(before, flags=replace(before.flags, fips=True))
            try:
                rig.client.execute(CreateWrapKey(SRK, *auths, key), session)
            except TpmError as error:
                return error.rc
            finally:
                engine.permanent = before
        return 0


class TestGetPubKey:
    def test_reads_what_was_loaded(self, rig: Rig) -> None:
        key = rig.make_key(SMALL)
        assert rig.run(GetPubKey(key.handle), KEY_AUTH).pub_key == key.public

    @pytest.mark.parametrize(
        ("usage", "rc"),
        [
            (AuthDataUsage.ALWAYS, Rc.AUTHFAIL),
            (AuthDataUsage.NEVER, 0),
            (AuthDataUsage.PRIV_USE_ONLY, 0),
        ],
    )
    def test_session_may_be_left_out_by_auth_data_usage(
        self, rig: Rig, usage: AuthDataUsage, rc: int
    ) -> None:
        key = rig.make_key(replace(SMALL, auth_data_usage=usage))
        assert rig.refusal(GetPubKey(key.handle)) == rc
        assert rig.refusal(GetPubKey(key.handle), KEY_AUTH) == 0
        assert rig.refusal(GetPubKey(key.handle), b"x" * 20) == Rc.AUTHFAIL

    def test_pcrs_matter_unless_ignored_on_read(self, rig: Rig) -> None:
        info = pcr_info((1,), b"never" * 4)
        bound = rig.make_key(replace(SMALL, pcr_info=info))
        ignoring = rig.make_key(
            replace(SMALL, pcr_info=info, key_flags=KeyFlag.PCR_IGNORED_ON_READ)
        )
        assert rig.refusal(GetPubKey(bound.handle), KEY_AUTH) == Rc.WRONGPCRVAL
        assert rig.refusal(GetPubKey(ignoring.handle), KEY_AUTH) == 0
        assert rig.refusal(Sign(ignoring.handle, bytes(20)), KEY_AUTH) == Rc.WRONGPCRVAL

    def test_srk_is_readable_by_flag_only(self, rig: Rig, tpm_identity: Identity) -> None:
        assert rig.refusal(GetPubKey(SRK), SRK_AUTH) == Rc.INVALID_KEYHANDLE
        engine = rig.wire.tpm
        assert isinstance(engine, Engine)
        flags = replace(engine.permanent.flags, read_srk_pub=True)
        engine.permanent = replace(engine.permanent, flags=flags)
        public = rig.run(GetPubKey(SRK), SRK_AUTH).pub_key
        assert public.pub_key == tpm_identity.srk.key.pub_key

    def test_unknown_and_endorsement_handles_are_invalid(self, rig: Rig) -> None:
        for handle in (EK, 5):
            assert rig.refusal(GetPubKey(handle), KEY_AUTH) == Rc.INVALID_KEYHANDLE


class TestSign:
    def test_sha1_scheme_signs_a_digest(self, rig: Rig) -> None:
        key = rig.make_key(template(KeyUsage.SIGNING, 768))
        digest = hashlib.sha1(b"message").digest()
        verify(key.key.pub_key, rig.run(Sign(key.handle, digest), KEY_AUTH).sig, b"message")
        for area in (digest[1:], digest + b"1", b""):
            assert rig.refusal(Sign(key.handle, area), KEY_AUTH) == Rc.BAD_PARAMETER

    def test_der_scheme_signs_bytes_as_they_are(self, rig: Rig) -> None:
        key = rig.make_key(template(KeyUsage.SIGNING, 512, sig=SigScheme.RSA_PKCS_V15_DER))
        numbers = public_of(key.key.pub_key).public_numbers()
        for area in (b"1", b"raw bytes", b"x" * 53):
            signature = rig.run(Sign(key.handle, area), KEY_AUTH).sig
            block = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n)
            filler = b"\xff" * (64 - 3 - len(area))
            assert block.to_bytes(64, "big") == b"\0\1" + filler + b"\0" + area
        assert rig.refusal(Sign(key.handle, b"x" * 54), KEY_AUTH) == Rc.BAD_PARAMETER

    def test_info_scheme_signs_sign_info_with_the_odd_nonce(self, rig: Rig) -> None:
        key = rig.make_key(template(KeyUsage.SIGNING, 512, sig=SigScheme.RSA_PKCS_V15_INFO))
        rig.client.random = lambda size: b"\x5a" * size
        signature = rig.run(Sign(key.handle, b"area" * 100), KEY_AUTH).sig
        verify(key.key.pub_key, signature, SignInfo(b"SIGN", b"\x5a" * 20, b"area" * 100).encode())

    def test_info_scheme_needs_a_session(self, rig: Rig) -> None:
        free = template(
            KeyUsage.SIGNING,
            512,
            sig=SigScheme.RSA_PKCS_V15_INFO,
            auth_data_usage=AuthDataUsage.NEVER,
        )
        assert rig.refusal(Sign(rig.make_key(free).handle, bytes(20))) == Rc.BAD_PARAMETER

    @pytest.mark.parametrize(
        ("usage", "rc"),
        [
            (KeyUsage.LEGACY, 0),
            (KeyUsage.BIND, Rc.INVALID_KEYUSAGE),
            (KeyUsage.STORAGE, Rc.INVALID_KEYUSAGE),
        ],
    )
    def test_only_signing_and_legacy_keys_sign(self, rig: Rig, usage: KeyUsage, rc: int) -> None:
        key = rig.make_key(template(usage))
        assert rig.refusal(Sign(key.handle, bytes(20)), KEY_AUTH) == rc

    def test_authorisation_by_auth_data_usage(self, rig: Rig) -> None:
        key = rig.make_key(SMALL)
        assert rig.refusal(Sign(key.handle, bytes(20))) == Rc.AUTHFAIL
        assert rig.refusal(Sign(key.handle, bytes(20)), b"x" * 20) == Rc.AUTHFAIL
        read_only = rig.make_key(replace(SMALL, auth_data_usage=AuthDataUsage.PRIV_USE_ONLY))
        assert rig.refusal(Sign(read_only.handle, bytes(20))) == Rc.AUTHFAIL
        free = rig.make_key(replace(SMALL, auth_data_usage=AuthDataUsage.NEVER))
        assert rig.refusal(Sign(free.handle, bytes(20))) == 0
        assert rig.refusal(Sign(free.handle, bytes(20)), b"x" * 20) == Rc.AUTHFAIL

    def test_pcr_and_locality_conditions_hold_at_use(self, rig: Rig) -> None:
        info = pcr_info_long((1,), PCR1_ZERO, 0b00100)
        key = rig.make_key(key12(replace(SMALL, pcr_info=info)))
        sign = Sign(key.handle, bytes(20))
        assert rig.refusal(sign, KEY_AUTH) == Rc.BAD_LOCALITY
        rig.wire.locality = 2
        assert rig.refusal(sign, KEY_AUTH) == 0
        rig.run(Extend(1, bytes(20)))
        assert rig.refusal(sign, KEY_AUTH) == Rc.WRONGPCRVAL


def test_a_key_with_primes_of_different_lengths_can_be_put_away(
    rig: Rig, tpm_identity: Identity
) -> None:
    """Anybody can wrap a key under a storage key; the blob of TPM_SaveContext has the shorter
    prime, whichever one came."""
    numbers = [rsa.generate_private_key(65537, bits).private_numbers() for bits in (2048, 1024)]
    long, short = (each.p for each in numbers)
    public = replace(
        template(KeyUsage.SIGNING, 1536, key_flags=KeyFlag.MIGRATABLE),
        pub_key=(long * short).to_bytes(192, "big"),
    )
    digest = public.digest_of_public_part()
    store = StoreAsymKey(
        Payload.ASYM, KEY_AUTH, MIGRATION_AUTH, digest, long.to_bytes(128, "big")
    ).encode()
    srk = public_of(tpm_identity.srk.key.pub_key)
    key = rig.load(replace(public, enc_data=srk.encrypt(store, OAEP)))
    blob = rig.run(SaveContext(key.handle, ResourceType.KEY, bytes(16))).context_blob
    rig.run(FlushSpecific(key.handle, ResourceType.KEY))
    handle = rig.run(LoadContext(0, False, blob)).handle
    signature = rig.run(Sign(handle, bytes(20)), KEY_AUTH).sig
    public_of(public.pub_key).verify(signature, bytes(20), padding.PKCS1v15(), PREHASHED)
