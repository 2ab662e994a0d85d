"""Saved contexts (Part 2 section 18)."""

from __future__ import annotations

from typing import Annotated

from hwtpm.tpm12.const import Tag
from hwtpm.tpm12.types import U32, Data, Digest, Nonce, SecretData
from hwtpm.wire import Fixed, Struct, structure

__all__ = ["ContextBlob", "ContextSensitive"]


@structure("TPM_CONTEXT_BLOB", ref="Part 2, 18.1", head=Tag.CONTEXT_BLOB.to_bytes(2, "big"))
class ContextBlob(Struct):
    """A resource held outside the TPM. The two data areas are whatever its maker put there."""

    resource_type: U32
    handle: U32
    label: Annotated[bytes, Fixed("BYTE[16]", 16)]
    context_count: U32
    integrity_digest: Digest
    additional_data: Data
    sensitive_data: Data


@structure(
    "TPM_CONTEXT_SENSITIVE", ref="Part 2, 18.2", head=Tag.CONTEXT_SENSITIVE.to_bytes(2, "big")
)
class ContextSensitive(Struct):
    """What a context blob holds encrypted: the nonce of its time and the resource itself."""

    context_nonce: Nonce
    internal_data: SecretData
