"""TPM_DAA_BLOB: DAA secrets that the TPM gives out and takes back (Part 2 sections 22.8, 22.9).

Only the TPM that made a blob opens it, and only until its daaProof and daaBlobKey change. The
specification leaves the cipher to the TPM: here AES-128 in counter mode.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse
from hwtpm.tpm12.aes import AES_BLOCK_SIZE, aes128_ctr
from hwtpm.tpm12.const import DIGEST_SIZE, ResourceType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types.daa import DaaBlob, DaaSensitive
from hwtpm.wire import WireError

__all__ = ["open_blob", "seal_blob"]

_LABEL: Final = bytes(16)


def seal_blob(call: Call, kind: ResourceType, data: bytes) -> bytes:
    """The blob of that type (DAA_TPM, DAA_V0, DAA_V1) that holds `data`."""
    counter = call.tpm.random(AES_BLOCK_SIZE)
    sensitive = aes128_ctr(call.tpm.permanent.daa_blob_key, counter, DaaSensitive(data).encode())
    blob = DaaBlob(kind, _LABEL, bytes(DIGEST_SIZE), counter, sensitive)
    return replace(blob, blob_integrity=_integrity(call, blob)).encode()


def open_blob(call: Call, kind: ResourceType, encoded: bytes) -> bytes:
    """What `seal_blob` was given.

    Raises:
        Refuse: DAA_INPUT_DATA0 if it is no such blob of this TPM, or of another type.
    """
    try:
        blob = DaaBlob.decode(encoded)
    except WireError:
        raise Refuse(Rc.DAA_INPUT_DATA0) from None
    genuine = hmac.compare_digest(blob.blob_integrity, _integrity(call, blob))
    if not genuine or blob.resource_type != kind:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    key = call.tpm.permanent.daa_blob_key
    return DaaSensitive.decode(
        aes128_ctr(key, blob.additional_data, blob.sensitive_data)
    ).internal_data


def _integrity(call: Call, blob: DaaBlob) -> bytes:
    """HMAC of the whole blob, with zeros in the HMAC's own place."""
    blank = replace(blob, blob_integrity=bytes(DIGEST_SIZE)).encode()
    return hmac.digest(call.tpm.permanent.daa_proof, blank, "sha1")
