"""DAA structures (TPM Main, Version 1.2, Revision 116, Part 2, section 22)."""

from __future__ import annotations

import hashlib
from typing import Annotated

from hwtpm.tpm12.const import Tag
from hwtpm.tpm12.types import MAX_BLOB, U32, Data, Digest
from hwtpm.wire import Blob, Fixed, Struct, structure

__all__ = ["DaaBlob", "DaaIssuer", "DaaSensitive", "DaaTpm"]


@structure("TPM_DAA_ISSUER", ref="Part 2, 22.3", head=Tag.DAA_ISSUER.to_bytes(2, "big"))
class DaaIssuer(Struct):
    """An issuer's public parameters: the digests of all but q, which is a prime of 208 bits."""

    digest_r0: Digest
    digest_r1: Digest
    digest_s0: Digest
    digest_s1: Digest
    digest_n: Digest
    digest_gamma: Digest
    generic_q: Annotated[bytes, Fixed("BYTE[26]", 26)]

    def digest(self) -> bytes:
        """SHA-1 of the structure: TPM_DAA_TPM.DAA_digestIssuer."""
        return hashlib.sha1(self.encode()).digest()


@structure("TPM_DAA_TPM", ref="Part 2, 22.4", head=Tag.DAA_TPM.to_bytes(2, "big"))
class DaaTpm(Struct):
    """What one TPM has of its own with one issuer: its secret f follows from rekey and count."""

    digest_issuer: Digest
    digest_v0: Digest
    digest_v1: Digest
    rekey: Annotated[bytes, Fixed("TPM_DIGEST", 20, secret=True)]
    count: U32


@structure("TPM_DAA_BLOB", ref="Part 2, 22.8", head=Tag.DAA_BLOB.to_bytes(2, "big"))
class DaaBlob(Struct):
    """What a TPM gives out of its DAA secrets: an encrypted TPM_DAA_SENSITIVE.

    `blob_integrity` is the HMAC, keyed with daaProof, of the structure with zeros in its place.
    """

    resource_type: U32
    label: Annotated[bytes, Fixed("BYTE[16]", 16)]
    blob_integrity: Digest
    additional_data: Data
    sensitive_data: Data


@structure("TPM_DAA_SENSITIVE", ref="Part 2, 22.9", head=Tag.DAA_SENSITIVE.to_bytes(2, "big"))
class DaaSensitive(Struct):
    """The encrypted part of a TPM_DAA_BLOB: a TPM_DAA_TPM, v0 or v1."""

    internal_data: Annotated[bytes, Blob(MAX_BLOB, secret=True)]
