"""Structures of TPM 1.2 (TPM Main, Version 1.2, Revision 116, Part 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Final

from hwtpm.tpm12.const import DIGEST_SIZE, KeyFlag, Tag
from hwtpm.wire import (
    Array,
    Blob,
    BoolByte,
    Fixed,
    Handle,
    OneOf,
    Rest,
    Struct,
    Uint,
    structure,
)

__all__ = [
    "KEY12_FORM",
    "LEGACY_FORM",
    "U8",
    "U16",
    "U32",
    "U64",
    "AsymCaContents",
    "AuthValue",
    "Bool",
    "BoundData",
    "CapVersionInfo",
    "CounterValue",
    "CurrentTicks",
    "DaActionType",
    "DaInfo",
    "DaInfoLimited",
    "Data",
    "Digest",
    "EkBlob",
    "EkBlobActivate",
    "EncAuth",
    "IdentityContents",
    "Key",
    "KeyHandle",
    "KeyHandleList",
    "KeyParms",
    "Nonce",
    "NvAttributes",
    "NvDataPublic",
    "PcrComposite",
    "PcrInfo",
    "PcrInfoLong",
    "PcrInfoShort",
    "PcrSelection",
    "PermanentFlags",
    "PubKey",
    "QuoteInfo",
    "QuoteInfo2",
    "RsaKeyParms",
    "SealedData",
    "SecretAuth",
    "SecretData",
    "SecretNonce",
    "SignInfo",
    "StclearFlags",
    "StoreAsymKey",
    "StoredData",
    "SymmetricKey",
    "Version",
    "pcr_composite_hash",
]

U8 = Annotated[int, Uint("BYTE", 1)]
U16 = Annotated[int, Uint("UINT16", 2)]
U32 = Annotated[int, Uint("UINT32", 4)]
U64 = Annotated[int, Uint("UINT64", 8)]
Bool = Annotated[bool, BoolByte()]
Digest = Annotated[bytes, Fixed("TPM_DIGEST", DIGEST_SIZE)]
Nonce = Annotated[bytes, Fixed("TPM_NONCE", DIGEST_SIZE)]
AuthValue = Annotated[bytes, Fixed("TPM_SECRET", DIGEST_SIZE, secret=True)]
EncAuth = Annotated[bytes, Fixed("TPM_ENCAUTH", DIGEST_SIZE)]
KeyHandle = Annotated[int, Handle()]

MAX_BLOB: Final = 4096  # nothing inside a frame can be longer than the frame
MAX_MODULUS: Final = 256
Data = Annotated[bytes, Blob(MAX_BLOB)]
SecretData = Annotated[bytes, Blob(MAX_BLOB, secret=True)]
SecretNonce = Annotated[bytes, Fixed("TPM_NONCE", DIGEST_SIZE, secret=True)]
SecretAuth = Annotated[bytes, Fixed("TPM_ENCAUTH", DIGEST_SIZE, secret=True)]

_STRUCT_VER: Final = bytes((1, 1, 0, 0))


@structure("TPM_VERSION", ref="Part 2, 5.3")
class Version(Struct):
    """A version of TPM or firmware."""

    major: U8
    minor: U8
    rev_major: U8
    rev_minor: U8


@structure("TPM_CAP_VERSION_INFO", ref="Part 2, 21.6", head=Tag.CAP_VERSION_INFO.to_bytes(2, "big"))
class CapVersionInfo(Struct):
    """What TPM this is, by TPM_CAP_VERSION_VAL."""

    version: Version
    spec_level: U16
    errata_rev: U8
    tpm_vendor_id: Annotated[bytes, Fixed("BYTE[4]", 4)]
    vendor_specific: Annotated[bytes, Blob(MAX_BLOB, prefix=2)]


@structure("TPM_PCR_SELECTION", ref="Part 2, 8.1")
class PcrSelection(Struct):
    """A set of PCRs; PCR 0 is bit 0 of byte 0."""

    select: Annotated[bytes, Blob(8, prefix=2)]

    @classmethod
    def of(cls, pcrs: Iterable[int], size: int = 3) -> PcrSelection:
        """The selection of these PCR indices, `size` bytes long."""
        bits = sum(1 << pcr for pcr in set(pcrs))
        return cls(bits.to_bytes(size, "little"))

    @property
    def indices(self) -> tuple[int, ...]:
        """The selected PCR indices, ascending."""
        bits = int.from_bytes(self.select, "little")
        return tuple(i for i in range(8 * len(self.select)) if bits >> i & 1)


@structure("TPM_PCR_COMPOSITE", ref="Part 2, 8.2")
class PcrComposite(Struct):
    """Selected PCRs and their values, ascending, 20 bytes each."""

    select: PcrSelection
    values: Annotated[bytes, Blob(64 * DIGEST_SIZE)]

    def digest(self) -> bytes:
        """TPM_COMPOSITE_HASH: the SHA-1 over the structure (Part 2 section 5.4.1)."""
        return hashlib.sha1(self.encode()).digest()


def pcr_composite_hash(select: PcrSelection, pcrs: dict[int, bytes]) -> bytes:
    """The composite hash of the selected values; KeyError if one is missing."""
    return PcrComposite(select, b"".join(pcrs[i] for i in select.indices)).digest()


@structure("TPM_PCR_INFO", ref="Part 2, 8.3")
class PcrInfo(Struct):
    """PCRs that a 1.1 style key or sealed blob is bound to."""

    pcr_selection: PcrSelection
    digest_at_release: Digest
    digest_at_creation: Digest


@structure("TPM_PCR_INFO_LONG", ref="Part 2, 8.4", head=Tag.PCR_INFO_LONG.to_bytes(2, "big"))
class PcrInfoLong(Struct):
    """PCRs and localities that a key or sealed blob is bound to."""

    locality_at_creation: U8
    locality_at_release: U8
    creation_pcr_selection: PcrSelection
    release_pcr_selection: PcrSelection
    digest_at_creation: Digest
    digest_at_release: Digest


@structure("TPM_PCR_INFO_SHORT", ref="Part 2, 8.5")
class PcrInfoShort(Struct):
    """PCRs and localities that a release depends on."""

    pcr_selection: PcrSelection
    locality_at_release: U8
    digest_at_release: Digest


@structure("TPM_RSA_KEY_PARMS", ref="Part 2, 10.1.1")
class RsaKeyParms(Struct):
    """RSA parameters; an empty exponent stands for 65537."""

    key_length: U32
    num_primes: U32
    exponent: Annotated[bytes, Blob(MAX_MODULUS)]


@structure("TPM_KEY_PARMS", ref="Part 2, 10.1")
class KeyParms(Struct):
    """Algorithm and schemes of a key; `parms` is a TPM_RSA_KEY_PARMS for RSA keys."""

    algorithm_id: U32
    enc_scheme: U16
    sig_scheme: U16
    parms: Data


LEGACY_FORM: Final = 0x01010000
"""First four bytes of the 1.1 forms of TPM_KEY and TPM_STORED_DATA: TPM_STRUCT_VER 1.1.0.0."""
KEY12_FORM: Final = Tag.KEY12 << 16
_KeyForm = Annotated[int, OneOf("TPM_STRUCT_VER", 4, (LEGACY_FORM, KEY12_FORM))]


@structure("TPM_KEY", ref="Part 2, 10.2 and 10.3 (TPM_KEY12)")
class Key(Struct):
    """A wrapped key. `form` tells TPM_KEY (pcr_info is a TPM_PCR_INFO) from TPM_KEY12
    (pcr_info is a TPM_PCR_INFO_LONG)."""

    form: _KeyForm
    key_usage: U16
    key_flags: U32
    auth_data_usage: U8
    algorithm_parms: KeyParms
    pcr_info: Data
    pub_key: Annotated[bytes, Blob(MAX_MODULUS)]
    enc_data: Data

    @property
    def migratable(self) -> bool:
        """True if the key may leave for another TPM."""
        return bool(self.key_flags & KeyFlag.MIGRATABLE)

    def public_part(self) -> bytes:
        """The bytes up to the private part, which pubDataDigest covers (Part 2 section 10.2)."""
        return self.encode()[: -4 - len(self.enc_data)]

    def digest_of_public_part(self) -> bytes:
        """What TPM_STORE_ASYMKEY.pubDataDigest holds."""
        return hashlib.sha1(self.public_part()).digest()


@structure("TPM_PUBKEY", ref="Part 2, 10.5")
class PubKey(Struct):
    """A public key: its parameters and the modulus."""

    algorithm_parms: KeyParms
    pub_key: Annotated[bytes, Blob(MAX_MODULUS)]

    def digest(self) -> bytes:
        """SHA-1 of the structure, the key's name throughout this project."""
        return hashlib.sha1(self.encode()).digest()


@structure("TPM_STORE_ASYMKEY", ref="Part 2, 10.6")
class StoreAsymKey(Struct):
    """The private part of a key before it is encrypted by its parent; one RSA prime is enough."""

    payload: U8
    usage_auth: AuthValue
    migration_auth: AuthValue
    pub_data_digest: Digest
    priv_key: Annotated[bytes, Blob(MAX_MODULUS, secret=True)]


@structure("TPM_STORED_DATA", ref="Part 2, 9.1 and 9.2 (TPM_STORED_DATA12)")
class StoredData(Struct):
    """A sealed blob. `form` is TPM_STRUCT_VER for the 1.1 form (seal_info is a TPM_PCR_INFO) or
    the tag 0x0016 and an entity type for TPM_STORED_DATA12 (seal_info is a TPM_PCR_INFO_LONG)."""

    form: U32
    seal_info: Data
    enc_data: Data

    def digest_of_public_part(self) -> bytes:
        """What TPM_SEALED_DATA.storedDigest holds: the SHA-1 without encData (9.3)."""
        return hashlib.sha1(self.encode()[: -4 - len(self.enc_data)]).digest()


@structure("TPM_SEALED_DATA", ref="Part 2, 9.3")
class SealedData(Struct):
    """What TPM_Seal encrypts."""

    payload: U8
    auth_data: AuthValue
    tpm_proof: AuthValue
    stored_digest: Digest
    data: Annotated[bytes, Blob(MAX_BLOB, secret=True)]


@structure("TPM_SYMMETRIC_KEY", ref="Part 2, 9.4")
class SymmetricKey(Struct):
    """A symmetric key, as a privacy CA hands it to TPM_ActivateIdentity."""

    alg_id: U32
    enc_scheme: U16
    data: Annotated[bytes, Blob(MAX_BLOB, prefix=2, secret=True)]


@structure("TPM_ASYM_CA_CONTENTS", ref="Part 2, 12.8")
class AsymCaContents(Struct):
    """What a privacy CA encrypts to the endorsement key for TPM_ActivateIdentity."""

    session_key: SymmetricKey
    id_digest: Digest


@structure("TPM_EK_BLOB", ref="Part 2, 12.1", head=Tag.EK_BLOB.to_bytes(2, "big"))
class EkBlob(Struct):
    """What was encrypted to the endorsement key, 1.2 form; `ek_type` says which structure."""

    ek_type: U16
    blob: Data


@structure("TPM_EK_BLOB_ACTIVATE", ref="Part 2, 12.2", head=Tag.EK_BLOB_ACTIVATE.to_bytes(2, "big"))
class EkBlobActivate(Struct):
    """The 1.2 form of TPM_ASYM_CA_CONTENTS, with PCRs that the release depends on."""

    session_key: SymmetricKey
    id_digest: Digest
    pcr_info: PcrInfoShort


@structure("TPM_BOUND_DATA", ref="Part 2, 9.5", head=_STRUCT_VER)
class BoundData(Struct):
    """What a binding key's owner encrypts outside the TPM for TPM_UnBind."""

    payload: U8
    payload_data: Annotated[bytes, Rest(MAX_BLOB, secret=True)]


@structure("TPM_IDENTITY_CONTENTS", ref="Part 2, 12.5", head=_STRUCT_VER)
class IdentityContents(Struct):
    """What an identity key signs at TPM_MakeIdentity: its label, its CA, itself."""

    ordinal: U32
    label_priv_ca_digest: Digest
    identity_pub_key: PubKey


@structure("TPM_QUOTE_INFO", ref="Part 2, 11.3", head=_STRUCT_VER + b"QUOT")
class QuoteInfo(Struct):
    """What TPM_Quote signs."""

    digest_value: Digest
    external_data: Nonce


@structure("TPM_QUOTE_INFO2", ref="Part 2, 11.4", head=Tag.QUOTE_INFO2.to_bytes(2, "big") + b"QUT2")
class QuoteInfo2(Struct):
    """What TPM_Quote2 signs (a TPM_CAP_VERSION_INFO may follow)."""

    external_data: Nonce
    info_short: PcrInfoShort


@structure("TPM_SIGN_INFO", ref="Part 2, 5.14", head=Tag.SIGNINFO.to_bytes(2, "big"))
class SignInfo(Struct):
    """What a key with scheme RSASSAPKCS1v15_INFO signs; `fixed` names the command (SIGN for
    TPM_Sign)."""

    fixed: Annotated[bytes, Fixed("BYTE[4]", 4)]
    replay: Nonce
    data: Data


@structure("TPM_NV_ATTRIBUTES", ref="Part 2, 19.2", head=Tag.NV_ATTRIBUTES.to_bytes(2, "big"))
class NvAttributes(Struct):
    """Who may read and write an NV area."""

    attributes: U32


@structure("TPM_NV_DATA_PUBLIC", ref="Part 2, 19.3", head=Tag.NV_DATA_PUBLIC.to_bytes(2, "big"))
class NvDataPublic(Struct):
    """The public description of an NV area."""

    nv_index: U32
    pcr_info_read: PcrInfoShort
    pcr_info_write: PcrInfoShort
    permission: NvAttributes
    read_st_clear: Bool
    write_st_clear: Bool
    write_define: Bool
    data_size: U32


@structure("TPM_COUNTER_VALUE", ref="Part 2, 5.13", head=Tag.COUNTER_VALUE.to_bytes(2, "big"))
class CounterValue(Struct):
    """A monotonic counter and its label."""

    label: Annotated[bytes, Fixed("BYTE[4]", 4)]
    counter: U32


@structure("TPM_CURRENT_TICKS", ref="Part 2, 15.1", head=Tag.CURRENT_TICKS.to_bytes(2, "big"))
class CurrentTicks(Struct):
    """The tick counter, its rate in microseconds a tick, and the session's nonce."""

    current_ticks: U64
    tick_rate: U16
    tick_nonce: Nonce


@structure("TPM_KEY_HANDLE_LIST", ref="Part 2, 5.7")
class KeyHandleList(Struct):
    """Handles of one resource type that are loaded now."""

    handles: Annotated[tuple[int, ...], Array(Uint("UINT32", 4), 512, prefix=2)]


@structure("TPM_DA_ACTION_TYPE", ref="Part 2, 21.10", head=Tag.DA_ACTION_TYPE.to_bytes(2, "big"))
class DaActionType(Struct):
    """What the dictionary-attack logic does when it triggers."""

    actions: U32


@structure("TPM_DA_INFO_LIMITED", ref="Part 2, 21.8", head=Tag.DA_INFO_LIMITED.to_bytes(2, "big"))
class DaInfoLimited(Struct):
    """Dictionary-attack status without the counts, for TPMs that hide them."""

    state: U8
    action_at_threshold: DaActionType
    vendor_data: Data


@structure("TPM_DA_INFO", ref="Part 2, 21.7", head=Tag.DA_INFO.to_bytes(2, "big"))
class DaInfo(Struct):
    """Dictionary-attack status of one entity type."""

    state: U8
    current_count: U16
    threshold_count: U16
    action_at_threshold: DaActionType
    action_depend_value: U32
    vendor_data: Data


@structure("TPM_PERMANENT_FLAGS", ref="Part 2, 7.1", head=Tag.PERMANENT_FLAGS.to_bytes(2, "big"))
class PermanentFlags(Struct):
    """Flags that survive power cycles, in the order of the specification."""

    disable: Bool
    ownership: Bool
    deactivated: Bool
    read_pubek: Bool
    disable_owner_clear: Bool
    allow_maintenance: Bool
    physical_presence_lifetime_lock: Bool
    physical_presence_hw_enable: Bool
    physical_presence_cmd_enable: Bool
    cekp_used: Bool
    tpm_post: Bool
    tpm_post_lock: Bool
    fips: Bool
    operator: Bool
    enable_revoke_ek: Bool
    nv_locked: Bool
    read_srk_pub: Bool
    tpm_established: Bool
    maintenance_done: Bool
    disable_full_da_logic_info: Bool


@structure("TPM_STCLEAR_FLAGS", ref="Part 2, 7.2", head=Tag.STCLEAR_FLAGS.to_bytes(2, "big"))
class StclearFlags(Struct):
    """Flags that TPM_Startup(ST_CLEAR) resets."""

    deactivated: Bool
    disable_force_clear: Bool
    physical_presence: Bool
    physical_presence_lock: Bool
    b_global_lock: Bool
