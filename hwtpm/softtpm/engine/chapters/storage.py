"""Storage functions: sealing, binding, wrapped keys (Part 3 section 10) and TPM_LoadKey (27.8)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.keys import LoadedKey, ReleaseCondition
from hwtpm.softtpm.engine.oaep import mgf1, xor
from hwtpm.softtpm.engine.release import check_release, created_pcr_info
from hwtpm.softtpm.engine.rsa import decrypt, decrypt_given
from hwtpm.softtpm.engine.wrapping import (
    check_properties,
    create_wrapped,
    require_storage,
    unwrap,
)
from hwtpm.tpm12.aes import AES_BLOCK_SIZE, aes128_ctr
from hwtpm.tpm12.commands.deprecated import LoadKey, LoadKeyReply
from hwtpm.tpm12.commands.storage import (
    CreateWrapKey,
    CreateWrapKeyReply,
    GetPubKey,
    GetPubKeyReply,
    LoadKey2,
    LoadKey2Reply,
    Seal,
    SealReply,
    Sealx,
    SealxReply,
    UnBind,
    UnBindReply,
    Unseal,
    UnsealReply,
)
from hwtpm.tpm12.const import (
    ET_AES128_CTR,
    ET_XOR,
    EncScheme,
    EntityType,
    KeyFlag,
    KeyHandleValue,
    KeyUsage,
    Payload,
    Tag,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import LEGACY_FORM, BoundData, Key, SealedData, StoredData
from hwtpm.wire import Fault, WireError

__all__: list[str] = []

_STORED12_FORM: Final = Tag.STORED_DATA12 << 16
_SEALX_ET: Final = {ET_XOR: ET_XOR << 8 | EntityType.KEY, ET_AES128_CTR: ET_AES128_CTR << 8}
"""TPM_STORED_DATA12.et of what TPM_Sealx makes, by its session's ADIP scheme (10.7 action 11): how
TPM_Unseal encrypts the data. Zero stands for not at all."""
_SEALED_ENTITY: Final = (int(EntityType.DATA), b"")
"""No OSAP session is ever bound to sealed data, so only OIAP proves its AuthData."""

_RC_OF_BOUND_FAULT: Final = {Fault.SHORT: Rc.BAD_PARAM_SIZE, Fault.HEAD: Rc.BAD_VERSION}


def _require_sealing(key: LoadedKey) -> None:
    require_storage(key)
    if key.key.migratable:
        raise Refuse(Rc.INVALID_KEYUSAGE)


def _seal(call: Call, request: Seal | Sealx, form: int, auth: bytes, data: bytes) -> StoredData:
    """What both seal commands do once they know the blob's form and have the data in clear."""
    key = call.keys[0]
    check_release(call, key.condition)
    if not data:
        raise Refuse(Rc.BAD_PARAMETER)
    _require_sealing(key)
    try:
        info = created_pcr_info(call, form, request.pcr_info)
    except Refuse:
        raise Refuse(Rc.BADINDEX) from None
    blob = StoredData(form, info, b"")
    sealed = SealedData(
        payload=Payload.SEAL,
        auth_data=auth,
        tpm_proof=call.tpm.permanent.tpm_proof,
        stored_digest=blob.digest_of_public_part(),
        data=data,
    )
    try:
        enc_data = call.tpm.entropy.encrypt_oaep(key.private.public_key(), sealed.encode())
    except ValueError:
        raise Refuse(Rc.BAD_DATASIZE) from None
    return replace(blob, enc_data=enc_data)


def _crypted(call: Call, et: int, data: bytes) -> bytes:
    """The data encrypted or decrypted by the first session, an OSAP or DSAP one (10.2 action 9,
    10.7 actions 13 and 14)."""
    session = call.sessions[0]
    nonces, secret = session.nonce_even + call.tails[0].nonce_odd, session.shared_secret
    if et == _SEALX_ET[ET_XOR]:
        return xor(data, mgf1(nonces + b"XOR" + secret, len(data)))
    counter = hashlib.sha1(nonces).digest()[:AES_BLOCK_SIZE]
    return aes128_ctr(secret[:AES_BLOCK_SIZE], counter, data)


@serves(Seal)
def seal(call: Call, request: Seal) -> SealReply:
    """10.1."""
    auth = call.new_auth(request.enc_auth)
    is_long = request.pcr_info[:2] == Tag.PCR_INFO_LONG.to_bytes(2, "big")
    form = _STORED12_FORM if is_long else LEGACY_FORM
    return SealReply(_seal(call, request, form, auth, request.in_data))


@serves(Sealx)
def sealx(call: Call, request: Sealx) -> SealxReply:
    """10.7."""
    auth = call.new_auth(request.enc_auth)
    et = _SEALX_ET[call.sessions[0].adip]
    data = _crypted(call, et, request.in_data)
    return SealxReply(_seal(call, request, _STORED12_FORM | et, auth, data))


def _open_sealed(call: Call, key: LoadedKey, blob: StoredData) -> SealedData:
    """What this TPM sealed; Refuse(NOTSEALED_BLOB) if it did not, or the blob was changed."""
    try:
        plain = decrypt(key.private, blob.enc_data, EncScheme.RSA_OAEP_SHA1_MGF1)
        sealed = SealedData.decode(plain)
    except (ValueError, WireError):
        raise Refuse(Rc.NOTSEALED_BLOB) from None
    if (
        sealed.payload != Payload.SEAL
        or not hmac.compare_digest(sealed.tpm_proof, call.tpm.permanent.tpm_proof)
        or sealed.stored_digest != blob.digest_of_public_part()
    ):
        raise Refuse(Rc.NOTSEALED_BLOB)
    return sealed


@serves(Unseal)
def unseal(call: Call, request: Unseal) -> UnsealReply:
    """10.2. Data whose parent needs no authorisation may come with the data's session alone."""
    key, blob = call.keys[0], request.in_data
    check_release(call, key.condition)
    _require_sealing(key)
    if blob.form != LEGACY_FORM and blob.form >> 16 != Tag.STORED_DATA12:
        raise Refuse(Rc.BAD_VERSION)
    sealed = _open_sealed(call, key, blob)
    check_release(call, ReleaseCondition.of(blob.form, blob.seal_info))
    call.authorise(sealed.auth_data, _SEALED_ENTITY)
    et = 0 if blob.form == LEGACY_FORM else blob.form & 0xFFFF
    if not et:
        return UnsealReply(sealed.data)
    if len(call.sessions) != 2:
        raise Refuse(Rc.AUTHFAIL)
    if call.sessions[0].entity is None:
        raise Refuse(Rc.BAD_MODE)
    if et not in _SEALX_ET.values():
        raise Refuse(Rc.INAPPROPRIATE_ENC)
    call.tails[0].continue_session = 0
    return UnsealReply(_crypted(call, et, sealed.data))


@serves(UnBind)
def unbind(call: Call, request: UnBind) -> UnBindReply:
    """10.3."""
    key = call.keys[0]
    if not request.in_data:
        raise Refuse(Rc.BAD_PARAMETER)
    call.authorise_use(key)
    check_release(call, key.condition)
    usage, scheme = key.key.key_usage, key.key.algorithm_parms.enc_scheme
    if usage not in (KeyUsage.BIND, KeyUsage.LEGACY):
        raise Refuse(Rc.INVALID_KEYUSAGE)
    plain = decrypt_given(key.private, request.in_data, scheme)
    if usage == KeyUsage.LEGACY and scheme != EncScheme.RSA_OAEP_SHA1_MGF1:
        return UnBindReply(plain)
    try:
        bound = BoundData.decode(plain)
    except WireError as error:
        raise Refuse(_RC_OF_BOUND_FAULT[error.fault]) from None
    if bound.payload != Payload.BIND:
        raise Refuse(Rc.INVALID_STRUCTURE)
    return UnBindReply(bound.payload_data)


@serves(CreateWrapKey)
def create_wrap_key(call: Call, request: CreateWrapKey) -> CreateWrapKeyReply:
    """10.4."""
    parent, template = call.keys[0], request.key_info
    usage_auth = call.new_auth(request.data_usage_auth)
    migration_auth = call.new_auth(request.data_migration_auth, second=True)
    check_release(call, parent.condition)
    check_properties(call, template)
    require_storage(parent)
    if (
        (parent.key.migratable and not template.migratable)
        or template.key_usage in (KeyUsage.IDENTITY, KeyUsage.AUTHCHANGE)
        or template.key_flags & KeyFlag.MIGRATE_AUTHORITY
    ):
        raise Refuse(Rc.INVALID_KEYUSAGE)
    if not template.migratable:
        migration_auth = call.tpm.permanent.tpm_proof
    key, _ = create_wrapped(call, parent, template, usage_auth, migration_auth)
    return CreateWrapKeyReply(key)


def _load(call: Call, wrapped: Key) -> int:
    """10.5, and 27.8 which has the same actions."""
    parent = call.keys[0]
    check_release(call, parent.condition)
    require_storage(parent)
    loaded = unwrap(call, parent, wrapped)
    call.tpm.keys.put(loaded)
    return loaded.handle


@serves(LoadKey2)
def load_key2(call: Call, request: LoadKey2) -> LoadKey2Reply:
    """10.5."""
    return LoadKey2Reply(_load(call, request.in_key))


@serves(LoadKey)
def load_key(call: Call, request: LoadKey) -> LoadKeyReply:
    """27.8."""
    return LoadKeyReply(_load(call, request.in_key))


@serves(GetPubKey)
def get_pub_key(call: Call, request: GetPubKey) -> GetPubKeyReply:
    """10.6."""
    key = call.keys[0]
    if key.handle == KeyHandleValue.SRK and not call.tpm.permanent.flags.read_srk_pub:
        raise Refuse(Rc.INVALID_KEYHANDLE)
    if not key.key.key_flags & KeyFlag.PCR_IGNORED_ON_READ:
        check_release(call, key.condition)
    return GetPubKeyReply(key.public)
