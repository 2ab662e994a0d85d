"""What binds a vTPM's state into a quote of the chip (pure).

The chip signs a nonce that the vTPM process makes: Xen's deep quote form,
SHA-1(0^4 | "DQUT" | nonce | TPM_PCR_INFO_SHORT of the vTPM's PCRs), whose inner nonce is
SHA-1("vstack deep quote 1" | challenge | vTPM EK name | vTPM AIK name). A name is the SHA-1 of the
TPM_PUBKEY. So the chip's signature covers the challenge, which vTPM it is, which key signed for it,
and its PCRs; none of them can be exchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from hwtpm.tpm12.types import PcrInfoShort, PcrSelection, PubKey, pcr_composite_hash

__all__ = ["deep_quote_nonce"]


def deep_quote_nonce(challenge: bytes, ek: PubKey, aik: PubKey, pcrs: Mapping[int, bytes]) -> bytes:
    """The 20 bytes that the vTPM gives its manager to quote.

    Args:
        challenge: 20 bytes of the verifier.
        ek: the vTPM's endorsement public key.
        aik: the vTPM's identity key that signed the same PCRs and challenge.
        pcrs: the vTPM's quoted PCRs by index.
    """
    inner = hashlib.sha1(b"vstack deep quote 1" + challenge + ek.digest() + aik.digest()).digest()
    selection = PcrSelection.of(pcrs)
    info = PcrInfoShort(selection, 1, pcr_composite_hash(selection, dict(pcrs)))
    return hashlib.sha1(bytes(4) + b"DQUT" + inner + info.encode()).digest()
