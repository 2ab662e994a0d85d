"""A root of trust without a chip, for tests of the manager alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hwtpm.client.rsa import from_public_key
from hwtpm.errors import StateError
from hwtpm.secret import Secret
from hwtpm.tpm12 import rc
from hwtpm.tpm12.types import PcrSelection, QuoteInfo, pcr_composite_hash
from vstack.vtpmmgr.root import ChipIdentity, IdentityKey, Quoted

__all__ = ["PaperRoot"]


class PaperRoot:
    """Keeps everything in memory; PCR n holds twenty times n. `refuse` makes every command fail."""

    def __init__(self) -> None:
        self.chip = ChipIdentity("paper", "paper:", "paper", False, False, b"EK", "ec" * 32)
        self.key = rsa.generate_private_key(65537, 2048)
        self.srk = os.urandom(32)
        self.refuse = 0

    def identity(self) -> ChipIdentity:
        return self.chip

    def take(self) -> ChipIdentity:
        self.chip = replace(self.chip, owned=True)
        return self.chip

    def seal(self, secret: Secret) -> bytes:
        nonce = os.urandom(12)
        return nonce + AESGCM(self.srk).encrypt(nonce, secret.reveal(), b"")

    def unseal(self, blob: bytes) -> Secret:
        try:
            return Secret(AESGCM(self.srk).decrypt(blob[:12], blob[12:], b""))
        except (InvalidTag, ValueError) as error:
            raise StateError("paper: does not open this sealed secret") from error

    def random(self, count: int) -> bytes:
        self._work("TPM_GetRandom")
        return os.urandom(count)

    def pcr_read(self, index: int) -> bytes:
        self._work("TPM_PcrRead")
        if index > 23:
            raise rc.error(rc.Rc.BADINDEX, "TPM_PcrRead")
        return bytes([index]) * 20

    def make_identity(self, label_digest: bytes, auth: Secret) -> IdentityKey:
        public = from_public_key(self.key.public_key()).encode()
        return IdentityKey(b"wrapped", public, label_digest, b"binding")

    def quote(
        self, key: IdentityKey, auth: Secret, external_data: bytes, pcrs: Iterable[int]
    ) -> Quoted:
        self._work("TPM_Quote")
        values = {index: self.pcr_read(index) for index in pcrs}
        digest = pcr_composite_hash(PcrSelection.of(values), values)
        signed = QuoteInfo(digest, external_data).encode()
        return Quoted(self.key.sign(signed, padding.PKCS1v15(), hashes.SHA1()), values)

    def activate(self, key: IdentityKey, auth: Secret, blob: bytes) -> Secret:
        self._work("TPM_ActivateIdentity")
        return Secret(blob)

    def close(self) -> None:
        return

    def _work(self, command: str) -> None:
        if self.refuse:
            raise rc.error(self.refuse, command, self.chip.address)
