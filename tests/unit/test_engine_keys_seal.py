"""Our engine's sealed and bound data: blobs are opened by other means, refusals by cause."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from engine_rig import (
    DATA_AUTH,
    KEY_AUTH,
    OAEP,
    OWNER_AUTH,
    SRK,
    SRK_AUTH,
    Identity,
    Loaded,
    Rig,
    new_identity,
    owned_engine,
    pcr_info,
    pcr_info_long,
    private_of,
    public_of,
    template,
)

from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.integrity import Extend
from hwtpm.tpm12.commands.storage import Seal, UnBind, Unseal
from hwtpm.tpm12.const import AuthDataUsage, EncScheme, EntityType, KeyFlag, KeyUsage, Payload
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import (
    LEGACY_FORM,
    BoundData,
    PcrInfo,
    PcrInfoLong,
    PcrSelection,
    SealedData,
    StoredData,
    pcr_composite_hash,
)

PCR1_ZERO = pcr_composite_hash(PcrSelection.of((1,)), {1: bytes(20)})


def rc_of(action: Callable[[], object]) -> int:
    try:
        action()
    except TpmError as error:
        return error.rc
    return 0


class TestSeal:
    @pytest.mark.parametrize(
        ("info", "form"),
        [
            (b"", LEGACY_FORM),
            (pcr_info((1,), b"r" * 20), LEGACY_FORM),
            (pcr_info_long((1,), b"r" * 20), 0x00160000),
        ],
    )
    def test_blob_is_what_the_specification_says(
        self, rig: Rig, tpm_identity: Identity, info: bytes, form: int
    ) -> None:
        blob = rig.seal(b"secret", info)
        plain = SealedData.decode(private_of(tpm_identity.srk).decrypt(blob.enc_data, OAEP))
        public = blob.form.to_bytes(4, "big") + len(blob.seal_info).to_bytes(4, "big")
        assert blob.form == form
        assert plain == SealedData(
            Payload.SEAL,
            DATA_AUTH,
            tpm_identity.tpm_proof,
            hashlib.sha1(public + blob.seal_info).digest(),
            b"secret",
        )

    def test_digest_and_locality_at_creation_are_the_tpms(self, rig: Rig) -> None:
        rig.wire.locality = 1
        old = PcrInfo.decode(rig.seal(b"x", pcr_info((1,), b"r" * 20)).seal_info)
        new = PcrInfoLong.decode(rig.seal(b"x", pcr_info_long((1,), b"r" * 20, 4)).seal_info)
        assert (old.digest_at_creation, old.digest_at_release) == (PCR1_ZERO, b"r" * 20)
        assert (new.digest_at_creation, new.digest_at_release) == (PCR1_ZERO, b"r" * 20)
        assert (new.locality_at_creation, new.locality_at_release) == (1 << 1, 4)

    def test_largest_data_fits_and_one_more_does_not(self, rig: Rig) -> None:
        largest = b"x" * (256 - 42 - 65)
        assert rig.unseal(rig.seal(largest)) == largest
        assert rc_of(lambda: rig.seal(largest + b"x")) == Rc.BAD_DATASIZE
        assert rc_of(lambda: rig.seal(b"")) == Rc.BAD_PARAMETER

    @pytest.mark.parametrize(
        "info",
        [
            b"junk",
            pcr_info((1,), bytes(20)) + b"1",
            pcr_info_long((1,), bytes(20), 0),
            PcrInfo(PcrSelection(b"\0\0\0\1"), bytes(20), bytes(20)).encode(),
        ],
    )
    def test_bad_pcr_info_is_badindex(self, rig: Rig, info: bytes) -> None:
        assert rc_of(lambda: rig.seal(b"x", info)) == Rc.BADINDEX

    def test_only_osap_can_carry_new_auth(self, rig: Rig) -> None:
        assert rig.refusal(Seal(SRK, bytes(20), b"", b"x"), SRK_AUTH) == Rc.BAD_MODE

    def test_parent_is_a_storage_key_that_cannot_migrate(self, rig: Rig) -> None:
        for key in (
            template(KeyUsage.STORAGE, key_flags=KeyFlag.MIGRATABLE),
            template(KeyUsage.SIGNING, 512),
            template(KeyUsage.BIND),
        ):
            handle = rig.make_key(key).handle
            assert rc_of(lambda h=handle: rig.seal(b"x", b"", h, KEY_AUTH)) == Rc.INVALID_KEYUSAGE


class TestUnseal:
    @pytest.mark.parametrize(
        "info", [b"", pcr_info((1,), PCR1_ZERO), pcr_info_long((1,), PCR1_ZERO)]
    )
    def test_gives_back_what_was_sealed(self, rig: Rig, info: bytes) -> None:
        assert rig.unseal(rig.seal(b"secret", info)) == b"secret"

    @pytest.mark.parametrize("info", [pcr_info((1,), PCR1_ZERO), pcr_info_long((1,), PCR1_ZERO)])
    def test_other_pcrs_are_wrongpcrval(self, rig: Rig, info: bytes) -> None:
        blob = rig.seal(b"secret", info)
        rig.run(Extend(2, bytes(20)))
        assert rig.unseal(blob) == b"secret"
        rig.run(Extend(1, bytes(20)))
        assert rc_of(lambda: rig.unseal(blob)) == Rc.WRONGPCRVAL

    def test_other_localities_are_bad_locality(self, rig: Rig) -> None:
        blob = rig.seal(b"secret", pcr_info_long((1,), PCR1_ZERO, 0b01100))
        expected = {0: Rc.BAD_LOCALITY, 1: Rc.BAD_LOCALITY, 2: 0, 3: 0, 4: Rc.BAD_LOCALITY}
        for locality, rc in expected.items():
            rig.wire.locality = locality
            assert rc_of(lambda: rig.unseal(blob)) == rc

    def test_wrong_auth_of_parent_and_of_data(self, rig: Rig) -> None:
        unseal = Unseal(SRK, rig.seal(b"secret"))
        assert rig.refusal(unseal, b"x" * 20, DATA_AUTH) == Rc.AUTHFAIL
        assert rig.refusal(unseal, SRK_AUTH, b"x" * 20) == Rc.AUTH2FAIL
        assert rig.refusal(unseal, DATA_AUTH) == Rc.AUTHFAIL

    def test_parent_without_auth_takes_the_datas_session_alone(self, rig: Rig) -> None:
        free = template(KeyUsage.STORAGE, auth_data_usage=AuthDataUsage.NEVER)
        parent = rig.make_key(free).handle
        unseal = Unseal(parent, rig.seal(b"secret", b"", parent, KEY_AUTH))
        assert rig.run(unseal, DATA_AUTH).secret == b"secret"
        assert rig.run(unseal, KEY_AUTH, DATA_AUTH).secret == b"secret"
        assert rig.refusal(unseal, b"x" * 20) == Rc.AUTHFAIL
        assert rig.refusal(unseal, b"x" * 20, DATA_AUTH) == Rc.AUTHFAIL

    def test_an_osap_session_of_something_else_proves_nothing(self, rig: Rig) -> None:
        blob = rig.seal(b"secret")
        with rig.osap(SRK, SRK_AUTH) as parent, rig.osap(SRK, SRK_AUTH) as data:
            action = rc_of(lambda: rig.client.execute(Unseal(SRK, blob), parent, data))
        assert action == Rc.AUTH2FAIL

    def test_changed_blobs_are_notsealed(self, rig: Rig) -> None:
        blob = rig.seal(b"secret", pcr_info((1,), b"n" * 20))
        flipped = bytes((blob.enc_data[0] ^ 1,)) + blob.enc_data[1:]
        for changed in (
            *(replace(blob, enc_data=data) for data in (flipped, b"", b"\xff" * 256, b"1" * 300)),
            replace(blob, seal_info=pcr_info((1,), PCR1_ZERO)),
            replace(blob, seal_info=b""),
            replace(blob, seal_info=b"12"),
            replace(blob, form=0x00160000),
            replace(blob, form=0x00160006),
        ):
            assert rc_of(lambda c=changed: rig.unseal(c)) == Rc.NOTSEALED_BLOB
        assert rc_of(lambda: rig.unseal(replace(blob, form=0x01020000))) == Rc.BAD_VERSION

    def test_crafted_blobs_are_notsealed(self, rig: Rig, tpm_identity: Identity) -> None:
        blob = StoredData(LEGACY_FORM, b"", b"")
        right = SealedData(
            Payload.SEAL, DATA_AUTH, tpm_identity.tpm_proof, blob.digest_of_public_part(), b"x"
        )
        srk = public_of(tpm_identity.srk.key.pub_key)

        def unseal(plain: bytes) -> int:
            return rc_of(lambda: rig.unseal(replace(blob, enc_data=srk.encrypt(plain, OAEP))))

        assert unseal(right.encode()) == 0
        assert unseal(replace(right, tpm_proof=bytes(20)).encode()) == Rc.NOTSEALED_BLOB
        assert unseal(replace(right, payload=Payload.BIND).encode()) == Rc.NOTSEALED_BLOB
        assert unseal(replace(right, stored_digest=bytes(20)).encode()) == Rc.NOTSEALED_BLOB
        assert unseal(b"junk") == Rc.NOTSEALED_BLOB

    def test_another_parent_or_tpm_cannot_open_it(self, rig: Rig, tpm_identity: Identity) -> None:
        blob = rig.seal(b"secret")
        other = rig.make_key(template(KeyUsage.STORAGE)).handle
        assert rc_of(lambda: rig.unseal(blob, other, KEY_AUTH)) == Rc.NOTSEALED_BLOB
        foreign = Rig(owned_engine(new_identity()))
        assert rc_of(lambda: foreign.unseal(blob)) == Rc.NOTSEALED_BLOB
        cleared = Rig(owned_engine(replace(tpm_identity, tpm_proof=b"n" * 20)))
        assert rc_of(lambda: cleared.unseal(blob)) == Rc.NOTSEALED_BLOB


class TestSealx:
    def test_data_travels_encrypted_both_ways(self, rig: Rig, tpm_identity: Identity) -> None:
        blob = rig.sealx(b"secret" * 20)
        plain = SealedData.decode(private_of(tpm_identity.srk).decrypt(blob.enc_data, OAEP))
        assert plain.data == b"secret" * 20
        assert blob.form == 0x00160005
        assert rig.unsealx(blob) == b"secret" * 20

    def test_unseal_needs_osap_and_two_sessions(self, rig: Rig) -> None:
        assert rc_of(lambda: rig.unseal(rig.sealx(b"secret"))) == Rc.BAD_MODE
        free = template(KeyUsage.STORAGE, auth_data_usage=AuthDataUsage.NEVER)
        parent = rig.make_key(free).handle
        blob = rig.sealx(b"secret", parent, KEY_AUTH)
        assert rig.refusal(Unseal(parent, blob), DATA_AUTH) == Rc.AUTHFAIL

    def test_takes_the_long_pcr_info_only(self, rig: Rig) -> None:
        old = pcr_info((1,), bytes(20))
        assert rc_of(lambda: rig.sealx(b"x", info=old)) == Rc.BADINDEX
        assert rig.unsealx(rig.sealx(b"x", info=pcr_info_long((1,), PCR1_ZERO))) == b"x"


@pytest.fixture
def binding(rig: Rig) -> Loaded:
    return rig.make_key(template(KeyUsage.BIND))


class TestUnBind:
    @pytest.mark.parametrize("data", [b"", b"bound", b"x" * (256 - 42 - 5)])
    def test_gives_back_what_was_bound(self, rig: Rig, binding: Loaded, data: bytes) -> None:
        cipher = public_of(binding.key.pub_key).encrypt(
            BoundData(Payload.BIND, data).encode(), OAEP
        )
        assert rig.run(UnBind(binding.handle, cipher), KEY_AUTH).out_data == data

    @pytest.mark.parametrize(
        ("plain", "rc"),
        [
            (BoundData(Payload.SEAL, b"x").encode(), Rc.INVALID_STRUCTURE),
            (b"\1\2\0\0\2data", Rc.BAD_VERSION),
            (b"\1\1", Rc.BAD_PARAM_SIZE),
            (b"", Rc.BAD_PARAM_SIZE),
        ],
    )
    def test_what_is_not_bound_data_is_refused(
        self, rig: Rig, binding: Loaded, plain: bytes, rc: Rc
    ) -> None:
        cipher = public_of(binding.key.pub_key).encrypt(plain, OAEP)
        assert rig.refusal(UnBind(binding.handle, cipher), KEY_AUTH) == rc

    def test_garbage_is_decrypt_error(self, rig: Rig, binding: Loaded) -> None:
        for cipher in (b"\1" * 256, b"1" * 255, b"\xff" * 256):
            assert rig.refusal(UnBind(binding.handle, cipher), KEY_AUTH) == Rc.DECRYPT_ERROR
        assert rig.refusal(UnBind(binding.handle, b"1" * 257), KEY_AUTH) == Rc.BAD_DATASIZE
        assert rig.refusal(UnBind(binding.handle, b""), KEY_AUTH) == Rc.BAD_PARAMETER

    def test_pkcs15_binding_key_still_checks_bound_data(self, rig: Rig) -> None:
        key = rig.make_key(template(KeyUsage.BIND, enc=EncScheme.RSA_PKCS_V15))
        public = public_of(key.key.pub_key)
        bound = BoundData(Payload.BIND, b"bound").encode()
        cipher = public.encrypt(bound, padding.PKCS1v15())
        assert rig.run(UnBind(key.handle, cipher), KEY_AUTH).out_data == b"bound"
        raw = public.encrypt(b"raw data", padding.PKCS1v15())
        assert rig.refusal(UnBind(key.handle, raw), KEY_AUTH) == Rc.BAD_VERSION

    def test_legacy_pkcs15_key_decrypts_raw_data(self, rig: Rig) -> None:
        key = rig.make_key(template(KeyUsage.LEGACY, enc=EncScheme.RSA_PKCS_V15))
        cipher = public_of(key.key.pub_key).encrypt(b"raw", padding.PKCS1v15())
        assert rig.run(UnBind(key.handle, cipher), KEY_AUTH).out_data == b"raw"

    def test_legacy_oaep_key_checks_bound_data(self, rig: Rig) -> None:
        key = rig.make_key(template(KeyUsage.LEGACY))
        raw = public_of(key.key.pub_key).encrypt(b"raw data", OAEP)
        assert rig.refusal(UnBind(key.handle, raw), KEY_AUTH) == Rc.BAD_VERSION

    def test_other_keys_do_not_unbind(self, rig: Rig) -> None:
        for usage in (KeyUsage.SIGNING, KeyUsage.STORAGE):
            handle = rig.make_key(template(usage)).handle
            assert rig.refusal(UnBind(handle, b"1" * 256), KEY_AUTH) == Rc.INVALID_KEYUSAGE

    def test_authorisation_by_auth_data_usage(self, rig: Rig, binding: Loaded) -> None:
        assert rig.refusal(UnBind(binding.handle, b"1" * 256)) == Rc.AUTHFAIL
        free = rig.make_key(template(KeyUsage.BIND, auth_data_usage=AuthDataUsage.NEVER))
        cipher = public_of(free.key.pub_key).encrypt(BoundData(2, b"x").encode(), OAEP)
        assert rig.run(UnBind(free.handle, cipher)).out_data == b"x"


def test_osap_session_of_the_owner_does_not_authorise_the_srk(rig: Rig) -> None:
    with rig.client.osap(EntityType.OWNER, 0x40000001, Secret(OWNER_AUTH)) as owner:
        request = Seal(SRK, owner.encrypt_auth(Secret(DATA_AUTH)), b"", b"x")
        assert rc_of(lambda: rig.client.execute(request, owner)) == Rc.AUTHFAIL
