"""Storage functions (Part 3 section 10): seal, bind, wrapped keys."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from conformance_rig import (
    MIGRATION,
    NO_HANDLE,
    OWNER,
    SRK,
    SRK_HANDLE,
    USAGE,
    WRONG,
    ZEROS,
    Device,
)

from hwtpm.client import keys, pcr, seal
from hwtpm.client.info import capability
from hwtpm.client.rsa import oaep_encrypt, rsa_parms, to_public_key
from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.storage import (
    CreateWrapKey,
    GetPubKey,
    LoadKey2,
    Seal,
    UnBind,
    Unseal,
)
from hwtpm.tpm12.const import (
    DEFAULT_EXPONENT,
    AuthDataUsage,
    Capability,
    CapProperty,
    EncScheme,
    KeyFlag,
    KeyUsage,
    SigScheme,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import Key, PcrInfo, PcrInfoLong, PcrSelection, RsaKeyParms, StoredData

DATA = Secret(b"what is sealed")
ROOT = keys.srk(SRK)
SIGNING = keys.signing_key(bits=1024)


def rc_of(error: pytest.ExceptionInfo[TpmError]) -> int:
    return error.value.rc


# --- 10.1 and 10.2 seal and unseal -------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16, 149])
def test_sealed_data_comes_back(owned: Device, size: int) -> None:
    data = Secret(bytes(range(size)))
    blob = seal.seal(owned.client, ROOT, data, USAGE)
    assert len(blob.enc_data) == 256
    assert seal.unseal(owned.client, ROOT, blob, USAGE) == data


def test_sealed_data_survives_a_restart(owned: Device) -> None:
    blob = seal.seal(owned.client, ROOT, DATA, USAGE)
    owned.restart()
    assert seal.unseal(owned.client, ROOT, blob, USAGE) == DATA


def test_unseal_needs_both_secrets(owned: Device) -> None:
    blob = seal.seal(owned.client, ROOT, DATA, USAGE)
    request = Unseal(SRK_HANDLE, blob)
    assert owned.refusal(request, SRK, WRONG) == Rc.AUTH2FAIL
    assert owned.refusal(request, WRONG, USAGE) == Rc.AUTHFAIL
    assert owned.refusal(request, USAGE) == Rc.AUTHFAIL
    assert owned.refusal(request, SRK, USAGE) == Rc.SUCCESS


def test_sealing_to_pcrs_in_the_1_1_form(owned: Device) -> None:
    owned.reset_pcr16()
    selection = PcrSelection.of([16])
    digest = pcr_digest({16: owned.pcr(16)})
    info = PcrInfo(selection, digest, ZEROS)
    blob = sealed(owned, info.encode())
    made = PcrInfo.decode(blob.seal_info)
    assert made == PcrInfo(selection, digest, digest)  # digestAtCreation is filled in
    assert seal.unseal(owned.client, ROOT, blob, USAGE) == DATA
    pcr.extend(owned.client, 16, ZEROS)
    assert owned.refusal(Unseal(SRK_HANDLE, blob), SRK, USAGE) == Rc.WRONGPCRVAL


@pytest.mark.parametrize(
    "info",
    [
        PcrInfo(PcrSelection(bytes(3)), b"r" * 20, b"c" * 20),
        PcrInfoLong(1, 0x1F, PcrSelection(bytes(3)), PcrSelection(bytes(3)), b"c" * 20, b"r" * 20),
    ],
    ids=["1.1", "1.2"],
)
def test_no_pcrs_have_a_digest_of_zeros(owned: Device, info: PcrInfo | PcrInfoLong) -> None:
    """Part 2 8.1 action 4: digestAtCreation is set to zeros, digestAtRelease is not checked."""
    blob = sealed(owned, info.encode())
    made = type(info).decode(blob.seal_info)
    assert (made.digest_at_creation, made.digest_at_release) == (ZEROS, b"r" * 20)
    assert seal.unseal(owned.client, ROOT, blob, USAGE) == DATA


def test_sealing_to_pcrs_and_localities_in_the_1_2_form(owned: Device) -> None:
    owned.reset_pcr16()
    values = {16: owned.pcr(16)}
    policy = seal.pcr_policy(values, locality_mask=seal.localities(2, 3))
    blob = seal.seal(owned.client, ROOT, DATA, USAGE, policy=policy)
    assert blob.form == 0x00160000
    request = Unseal(SRK_HANDLE, blob)
    assert owned.refusal(request, SRK, USAGE) == Rc.BAD_LOCALITY
    assert owned.refusal(request, SRK, USAGE, locality=2) == Rc.SUCCESS
    pcr.extend(owned.client, 16, ZEROS)
    assert owned.refusal(request, SRK, USAGE, locality=2) == Rc.WRONGPCRVAL


def pcr_digest(values: dict[int, bytes]) -> bytes:
    return seal.pcr_policy(values).digest_at_release


def sealed(device: Device, info: bytes, data: bytes = DATA.reveal()) -> StoredData:
    with device.osap_srk() as session:
        request = Seal(SRK_HANDLE, session.encrypt_auth(USAGE), info, data)
        return device.client.execute(request, session).sealed_data


@pytest.mark.parametrize(
    ("info", "data", "rc"),
    [
        (b"", b"", Rc.BAD_PARAMETER),
        (b"", bytes(237), Rc.BAD_DATASIZE),
        (b"", bytes(3000), Rc.BAD_DATASIZE),
        (b"\0\3\1\0\0" + bytes(39), b"x", Rc.BADINDEX),
        (b"\0\4\1\0\0\0" + bytes(40), b"x", Rc.BADINDEX),
    ],
)
def test_what_seal_refuses(owned: Device, info: bytes, data: bytes, rc: int) -> None:
    with pytest.raises(TpmError) as refused:
        sealed(owned, info, data)
    assert rc_of(refused) == rc


def test_the_longest_data_to_seal_is_149_bytes(owned: Device) -> None:
    """A 2048-bit key takes 214 bytes by OAEP, 65 of which TPM_SEALED_DATA uses itself."""
    with pytest.raises(TpmError) as refused:
        sealed(owned, b"", bytes(150))
    assert rc_of(refused) == owned.expected("one byte more than can be sealed", Rc.BAD_DATASIZE)


def test_a_seal_needs_osap_and_a_storage_key(owned: Device) -> None:
    assert owned.refusal(Seal(SRK_HANDLE, ZEROS, b"", b"x"), SRK) == Rc.BAD_MODE
    bind = owned.load("bind")
    with pytest.raises(TpmError) as refused:
        seal.seal(owned.client, bind, DATA, USAGE)
    assert rc_of(refused) == Rc.INVALID_KEYUSAGE


def test_changed_blobs_are_not_unsealed(owned: Device) -> None:
    blob = seal.seal(owned.client, ROOT, DATA, USAGE)
    for changed in (
        replace(blob, enc_data=bytes([blob.enc_data[0] & 0x7F ^ 1]) + blob.enc_data[1:]),
        replace(blob, enc_data=bytes(256)),
        replace(blob, enc_data=b""),
        replace(blob, enc_data=blob.enc_data[:-1]),
        replace(blob, seal_info=PcrInfo(PcrSelection.of([0]), ZEROS, ZEROS).encode()),
    ):
        rc = owned.refusal(Unseal(SRK_HANDLE, changed), SRK, USAGE)
        assert rc == Rc.NOTSEALED_BLOB, changed


def test_a_wrapped_key_is_no_sealed_blob(owned: Device) -> None:
    blob = StoredData(0x01010000, b"", owned.key("signing").enc_data)
    assert owned.refusal(Unseal(SRK_HANDLE, blob), SRK, USAGE) == Rc.NOTSEALED_BLOB


def test_a_storage_key_seals_as_the_srk_does(owned: Device) -> None:
    parent = owned.load("storage")
    blob = seal.seal(owned.client, parent, DATA, USAGE)
    assert seal.unseal(owned.client, parent, blob, USAGE) == DATA
    assert owned.refusal(Unseal(SRK_HANDLE, blob), SRK, USAGE) == Rc.NOTSEALED_BLOB


# --- 10.3 TPM_UnBind ---------------------------------------------------------------------------


def test_bound_data_is_unbound(owned: Device) -> None:
    key = owned.load("bind")
    blob = keys.bind(to_public_key(keys.get_pub(owned.client, key)), b"for you")
    assert keys.unbind(owned.client, key, blob).reveal() == b"for you"


def test_what_unbind_refuses(owned: Device) -> None:
    key, signer = owned.load("bind"), owned.load("signing")
    public = to_public_key(keys.get_pub(owned.client, key))
    good = keys.bind(public, b"for you")
    cases = [
        (UnBind(NO_HANDLE, good), USAGE, Rc.INVALID_KEYHANDLE),
        (UnBind(key.handle, good), WRONG, Rc.AUTHFAIL),
        (UnBind(signer.handle, good), USAGE, Rc.INVALID_KEYUSAGE),
        (UnBind(key.handle, b""), USAGE, Rc.BAD_PARAMETER),
        (UnBind(key.handle, bytes(128)), USAGE, Rc.DECRYPT_ERROR),
        (UnBind(key.handle, good[:-1]), USAGE, Rc.DECRYPT_ERROR),
        (UnBind(key.handle, good + b"\0"), USAGE, Rc.BAD_DATASIZE),
        (UnBind(key.handle, oaep_encrypt(public, b"\1\1\0\0\5x")), USAGE, Rc.INVALID_STRUCTURE),
        (UnBind(key.handle, oaep_encrypt(public, b"\1\2\0\0\2x")), USAGE, Rc.BAD_VERSION),
    ]
    for number, (request, secret, rc) in enumerate(cases):
        assert owned.refusal(request, secret) == rc, number


# --- 10.4 TPM_CreateWrapKey --------------------------------------------------------------------


def create(device: Device, template: Key, parent: keys.KeyRef = ROOT) -> Key:
    with parent.osap(device.client) as session:
        request = CreateWrapKey(
            parent.handle,
            session.encrypt_auth(USAGE),
            session.encrypt_second_auth(MIGRATION),
            template,
        )
        return device.client.execute(request, session).wrapped_key


def test_a_new_key_is_its_template_filled_in(owned: Device) -> None:
    key = create(owned, SIGNING)
    assert replace(key, pub_key=b"", enc_data=b"") == SIGNING
    assert len(key.pub_key) == 128
    assert len(key.enc_data) == 256


def parms(enc: EncScheme, sig: SigScheme, bits: int = 1024) -> Key:
    return replace(SIGNING, algorithm_parms=rsa_parms(enc, sig, bits=bits))


OAEP, NO_ENC, NO_SIG = EncScheme.RSA_OAEP_SHA1_MGF1, EncScheme.NONE, SigScheme.NONE
BAD_TEMPLATES = {
    "identity": (replace(keys.signing_key(), key_usage=KeyUsage.IDENTITY), Rc.INVALID_KEYUSAGE),
    "authchange": (replace(keys.storage_key(), key_usage=KeyUsage.AUTHCHANGE), Rc.INVALID_KEYUSAGE),
    "unknown usage": (replace(SIGNING, key_usage=0x77), Rc.BAD_KEY_PROPERTY),
    "migrate authority": (
        replace(SIGNING, key_flags=KeyFlag.MIGRATE_AUTHORITY),
        Rc.INVALID_KEYUSAGE,
    ),
    "no signature scheme": (parms(NO_ENC, NO_SIG), Rc.BAD_KEY_PROPERTY),
    "signing key that encrypts": (parms(OAEP, SigScheme.RSA_PKCS_V15_SHA1), Rc.BAD_KEY_PROPERTY),
    "odd size": (parms(NO_ENC, SigScheme.RSA_PKCS_V15_SHA1, 1000), Rc.BAD_KEY_PROPERTY),
    "too large": (parms(NO_ENC, SigScheme.RSA_PKCS_V15_SHA1, 4096), Rc.BAD_KEY_PROPERTY),
    "small storage key": (
        replace(
            keys.storage_key(),
            algorithm_parms=rsa_parms(OAEP, NO_SIG, bits=1024),
        ),
        Rc.BAD_KEY_PROPERTY,
    ),
    "no RSA": (
        replace(SIGNING, algorithm_parms=replace(SIGNING.algorithm_parms, algorithm_id=6)),
        Rc.BAD_KEY_PROPERTY,
    ),
}


@pytest.mark.parametrize("what", BAD_TEMPLATES)
def test_templates_that_make_no_key(owned: Device, what: str) -> None:
    template, rc = BAD_TEMPLATES[what]
    with pytest.raises(TpmError) as refused:
        create(owned, template)
    assert rc_of(refused) == rc


def test_only_storage_keys_have_children(owned: Device) -> None:
    with pytest.raises(TpmError) as refused:
        create(owned, SIGNING, owned.load("bind"))
    assert rc_of(refused) == Rc.INVALID_KEYUSAGE


# --- 10.5 TPM_LoadKey2 -------------------------------------------------------------------------


def test_loaded_keys_work_until_a_restart(owned: Device) -> None:
    key = owned.load("signing")
    assert keys.sign(owned.client, key, bytes(20))
    owned.restart()
    with pytest.raises(TpmError) as refused:
        keys.sign(owned.client, key, bytes(20))
    assert rc_of(refused) == Rc.INVALID_KEYHANDLE


def test_a_child_is_loaded_under_its_parent_only(owned: Device) -> None:
    parent = owned.load("storage")
    child = create(owned, SIGNING, parent)
    assert keys.load(owned.client, parent, child, USAGE).handle
    assert owned.refusal(LoadKey2(SRK_HANDLE, child), SRK) == Rc.DECRYPT_ERROR


def test_what_load_refuses(owned: Device) -> None:
    key = owned.key("signing")
    bind = owned.load("bind")
    assert owned.refusal(LoadKey2(NO_HANDLE, key), SRK) == Rc.INVALID_KEYHANDLE
    assert owned.refusal(LoadKey2(SRK_HANDLE, key), WRONG) == Rc.AUTHFAIL
    assert owned.refusal(LoadKey2(SRK_HANDLE, key)) == Rc.AUTHFAIL
    assert owned.refusal(LoadKey2(bind.handle, key), USAGE) == Rc.INVALID_KEYUSAGE


def test_what_decrypts_to_no_key_is_not_loaded(owned: Device) -> None:
    """10.5 action 5. An empty message is not asked for: libtpms goes into failure mode."""
    key, srk = owned.key("signing"), owned.prepared.srk
    assert srk is not None
    for junk in (b"junk", bytes(100), ZEROS * 5 + b"\x01" * 90):
        blob = replace(key, enc_data=oaep_encrypt(to_public_key(srk), junk))
        assert owned.refusal(LoadKey2(SRK_HANDLE, blob), SRK) == Rc.INVALID_STRUCTURE


def test_a_key_whose_public_part_was_changed_is_not_loaded(owned: Device) -> None:
    key = owned.key("signing")
    for changed in (
        replace(key, auth_data_usage=AuthDataUsage.NEVER),
        replace(key, key_flags=KeyFlag.PCR_IGNORED_ON_READ),
    ):
        rc = owned.refusal(LoadKey2(SRK_HANDLE, changed), SRK)
        assert rc == Rc.AUTHFAIL, changed
    other = replace(key, pub_key=key.pub_key[:-1] + bytes([key.pub_key[-1] ^ 2]))
    rc = owned.refusal(LoadKey2(SRK_HANDLE, other), SRK)
    assert rc == owned.expected("key with a changed modulus", Rc.AUTHFAIL)


def test_keys_are_loaded_until_the_room_is_used_up(owned: Device) -> None:
    room = struct.unpack(">I", keys_left(owned))[0]
    for _ in range(room):
        owned.load("signing")
    assert owned.refusal(LoadKey2(SRK_HANDLE, owned.key("signing")), SRK) == Rc.NOSPACE


def keys_left(device: Device) -> bytes:
    return capability(device.client, Capability.PROPERTY, CapProperty.KEYS.to_bytes(4, "big"))


# --- 10.6 TPM_GetPubKey ------------------------------------------------------------------------


def test_public_keys_are_read_with_the_keys_secret(owned: Device) -> None:
    key = owned.load("signing")
    assert keys.get_pub(owned.client, key).pub_key == owned.key("signing").pub_key
    request = GetPubKey(key.handle)
    assert owned.refusal(request) == Rc.AUTHFAIL
    assert owned.refusal(request, WRONG) == Rc.AUTHFAIL
    assert owned.refusal(GetPubKey(NO_HANDLE), USAGE) == Rc.INVALID_KEYHANDLE
    free = owned.load("signing without auth")
    assert owned.refusal(GetPubKey(free.handle)) == Rc.SUCCESS


def test_the_srk_is_read_by_nobody_as_delivered(owned: Device) -> None:
    """10.6 action 3: readSRKPub is FALSE; the owner has TPM_OwnerReadInternalPub."""
    assert owned.refusal(GetPubKey(SRK_HANDLE), SRK) == Rc.INVALID_KEYHANDLE
    assert owned.refusal(GetPubKey(SRK_HANDLE), OWNER) == Rc.AUTHFAIL


@pytest.mark.parametrize("exponent", [b"\3", b"\x11", b"\1\0\1"])
def test_which_exponents_there_are(owned: Device, exponent: bytes) -> None:
    parms = RsaKeyParms(1024, 2, exponent).encode()
    template = replace(SIGNING, algorithm_parms=replace(SIGNING.algorithm_parms, parms=parms))
    with owned.osap_srk() as session:
        request = CreateWrapKey(
            SRK_HANDLE,
            session.encrypt_auth(USAGE),
            session.encrypt_second_auth(MIGRATION),
            template,
        )
        refused = owned.refusal_in(request, session)
    if int.from_bytes(exponent, "big") == DEFAULT_EXPONENT:
        assert refused == Rc.SUCCESS
    else:
        rc = owned.expected("keys with another exponent than 65537", Rc.BAD_KEY_PROPERTY)
        assert refused == rc


def test_nothing_to_unbind_is_noticed_before_the_secret(owned: Device) -> None:
    """10.3 actions 1 and 2."""
    key = owned.load("bind")
    for secrets in ((), (USAGE,), (WRONG,)):
        assert owned.refusal(UnBind(key.handle, b""), *secrets) == Rc.BAD_PARAMETER
