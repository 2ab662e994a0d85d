"""TPM_DAA_BLOB: DAA secrets that the TPM gives out and takes back (Part 2 sections 22.8, 22.9).

Only the TPM that made a blob opens it, and only until its daaProof and daaBlobKey change. The
specification leaves the cipher open. It is libtpms', so a TPM that moves between the two keeps its
credentials: AES-128-CBC with padding by PKCS #7 and an initial vector of zeros. Two blobs that
begin alike show that they do, which tells their issuer at most: v0 and v1 are random.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hwtpm.softtpm.engine.call import Call, Refuse
from hwtpm.tpm12.aes import AES_BLOCK_SIZE
from hwtpm.tpm12.const import DIGEST_SIZE, ResourceType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types.daa import DaaBlob, DaaSensitive
from hwtpm.wire import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.modes import CBC

__all__ = ["open_blob", "seal_blob"]

_LABEL: Final = bytes(16)
_BLOCK_BITS: Final = 8 * AES_BLOCK_SIZE


def seal_blob(call: Call, kind: ResourceType, data: bytes) -> bytes:
    """The blob of that type (DAA_TPM, DAA_V0, DAA_V1) that holds `data`."""
    from cryptography.hazmat.primitives.padding import PKCS7

    padder, encryptor = PKCS7(_BLOCK_BITS).padder(), _cipher(call).encryptor()
    padded = padder.update(DaaSensitive(data).encode()) + padder.finalize()
    sensitive = encryptor.update(padded) + encryptor.finalize()
    blob = DaaBlob(kind, _LABEL, bytes(DIGEST_SIZE), b"", sensitive)
    return replace(blob, blob_integrity=_integrity(call, blob)).encode()


def open_blob(call: Call, kind: ResourceType, encoded: bytes) -> bytes:
    """What `seal_blob` was given.

    Raises:
        Refuse: DAA_INPUT_DATA0 if it is no such blob of this TPM, or of another type.
    """
    from cryptography.hazmat.primitives.padding import PKCS7

    try:
        blob = DaaBlob.decode(encoded)
        genuine = hmac.compare_digest(blob.blob_integrity, _integrity(call, blob))
        if not genuine or blob.resource_type != kind:
            raise Refuse(Rc.DAA_INPUT_DATA0)
        decryptor, unpadder = _cipher(call).decryptor(), PKCS7(_BLOCK_BITS).unpadder()
        padded = decryptor.update(blob.sensitive_data) + decryptor.finalize()
        return DaaSensitive.decode(unpadder.update(padded) + unpadder.finalize()).internal_data
    except (WireError, ValueError):
        raise Refuse(Rc.DAA_INPUT_DATA0) from None


def _cipher(call: Call) -> Cipher[CBC]:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = algorithms.AES128(call.tpm.permanent.daa_blob_key)
    return Cipher(key, modes.CBC(bytes(AES_BLOCK_SIZE)))


def _integrity(call: Call, blob: DaaBlob) -> bytes:
    """HMAC of the whole blob, with zeros in the HMAC's own place."""
    blank = replace(blob, blob_integrity=bytes(DIGEST_SIZE)).encode()
    return hmac.digest(call.tpm.permanent.daa_proof, blank, "sha1")
