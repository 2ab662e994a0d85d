"""Delegation structures (TPM Main, Version 1.2, Revision 116, Part 2, section 20)."""

from __future__ import annotations

from typing import Annotated

from hwtpm.tpm12.const import DelegateType, Tag
from hwtpm.tpm12.types import U8, U32, AuthValue, Data, Digest, PcrInfoShort, SecretData
from hwtpm.wire import OneOf, Struct, structure

__all__ = [
    "DelegateKeyBlob",
    "DelegateOwnerBlob",
    "DelegatePublic",
    "DelegateSensitive",
    "DelegateTableRow",
    "Delegations",
    "FamilyTableEntry",
]


@structure("TPM_DELEGATIONS", ref="Part 2, 20.2", head=Tag.DELEGATIONS.to_bytes(2, "big"))
class Delegations(Struct):
    """What a delegation permits: bits of 20.2.1 for the owner, of 20.2.3 for a key."""

    delegate_type: Annotated[int, OneOf("UINT32", 4, DelegateType)]
    per1: U32
    per2: U32


@structure(
    "TPM_FAMILY_TABLE_ENTRY", ref="Part 2, 20.5", head=Tag.FAMILY_TABLE_ENTRY.to_bytes(2, "big")
)
class FamilyTableEntry(Struct):
    """A family of delegations."""

    family_label: U8
    family_id: U32
    verification_count: U32
    flags: U32


@structure("TPM_DELEGATE_PUBLIC", ref="Part 2, 20.8", head=Tag.DELEGATE_PUBLIC.to_bytes(2, "big"))
class DelegatePublic(Struct):
    """The public part of a delegation."""

    row_label: U8
    pcr_info: PcrInfoShort
    permissions: Delegations
    family_id: U32
    verification_count: U32


@structure(
    "TPM_DELEGATE_TABLE_ROW", ref="Part 2, 20.9", head=Tag.DELEGATE_TABLE_ROW.to_bytes(2, "big")
)
class DelegateTableRow(Struct):
    """A delegation of the owner that the TPM keeps."""

    pub: DelegatePublic
    auth_value: AuthValue


@structure(
    "TPM_DELEGATE_SENSITIVE", ref="Part 2, 20.11", head=Tag.DELEGATE_SENSITIVE.to_bytes(2, "big")
)
class DelegateSensitive(Struct):
    """The secret part of a delegation, plain only in blobs for a TPM without an owner."""

    auth_value: AuthValue


@structure(
    "TPM_DELEGATE_OWNER_BLOB", ref="Part 2, 20.12", head=Tag.DELEGATE_OWNER_BLOB.to_bytes(2, "big")
)
class DelegateOwnerBlob(Struct):
    """A delegation of the owner outside the TPM."""

    pub: DelegatePublic
    integrity_digest: Digest
    additional_area: Data
    sensitive_area: SecretData


@structure(
    "TPM_DELEGATE_KEY_BLOB", ref="Part 2, 20.13", head=Tag.DELEGATE_KEY_BLOB.to_bytes(2, "big")
)
class DelegateKeyBlob(Struct):
    """A delegation of a key."""

    pub: DelegatePublic
    integrity_digest: Digest
    pub_key_digest: Digest  # SHA-1 of the TPM_STORE_PUBKEY
    additional_area: Data
    sensitive_area: SecretData
