"""What GET_QUOTE signs, and its verification with nothing but public keys (pure).

Source: Xen's vtpmmgr: the quoted externalData is SHA-1(flags as little-endian u32 | nonce | the
flagged 20-byte hashes in bit order); TPM Main 1.2, Part 2 sections 11.3 (TPM_QUOTE_INFO) and 12.5
(TPM_IDENTITY_CONTENTS).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from hwtpm.client.rsa import to_public_key, verify_sha1
from hwtpm.errors import VerificationError
from hwtpm.tpm12.types import PcrSelection, PubKey, QuoteInfo, pcr_composite_hash
from vstack.vtpmmgr.protocol import ManagerQuote, QuoteFlag

__all__ = ["Subject", "external_data", "group_label", "verify_quote"]

NO_FLAGS: Final = QuoteFlag(0)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a quote is about; the hashes that GET_QUOTE's flags select come from this.

    Attributes:
        vtpm: the vTPM's uuid.
        label_hash: SHA-1 of its label, 20 bytes; zeros if it has none.
        authority: RSA modulus of the group's authority, 256 bytes; zeros if it has none.
        config: the group's encoded configuration list.
    """

    vtpm: UUID
    label_hash: bytes
    authority: bytes
    config: bytes

    def hashes(self, flags: QuoteFlag) -> tuple[bytes, ...]:
        """The flagged hashes, in bit order."""
        inputs = (
            (QuoteFlag.VTPM_UUID, self.vtpm.bytes),
            (QuoteFlag.LABEL, self.label_hash),
            (QuoteFlag.GROUP_CONFIG, self.authority + self.config),
            (QuoteFlag.GROUP_AUTHORITY, self.authority),
        )
        return tuple(hashlib.sha1(data).digest() for flag, data in inputs if flags & flag)


def group_label(manager: UUID, group: UUID) -> bytes:
    """The 20-byte label digest that the identity key of a manager's own group is made for."""
    return hashlib.sha1(b"vstack vtpm group" + manager.bytes + group.bytes).digest()


def external_data(flags: QuoteFlag, nonce: bytes, hashes: tuple[bytes, ...]) -> bytes:
    """The 20 bytes that the chip signs beside its PCRs."""
    return hashlib.sha1(flags.to_bytes(4, "little") + nonce + b"".join(hashes)).digest()


def verify_quote(
    aik: PubKey,
    nonce: bytes,
    quote: ManagerQuote,
    subject: Subject | None = None,
    *,
    require: QuoteFlag = NO_FLAGS,
) -> dict[int, bytes]:
    """The chip's PCR values, proven: `aik` has signed them for this nonce and this subject.

    Args:
        aik: the identity key, whose chip `hwtpm.client.identity.verify_binding` and the
            credential exchange vouch for.
        nonce: the 20 bytes that the verifier expects in the quote.
        quote: what the manager answered.
        subject: whom it has to be about; None to take the quote's own hashes as they are.
        require: hashes that the quote has to cover.

    Raises:
        VerificationError: the nonce, a hash or the signature is not what it has to be.
    """
    if not hmac.compare_digest(quote.nonce, nonce):
        raise _failed("its nonce is another one", "ask for a new quote with a nonce of your own")
    if missing := require & ~quote.flags:
        raise _failed(f"it does not cover {missing!r}", "ask for a quote with these flags")
    if len(quote.hashes) != quote.flags.bit_count():
        raise _failed("it has another number of hashes than of flags", "ask for a new quote")
    if subject is not None:
        _compare_hashes(quote, subject)
    selection = PcrSelection.of(quote.pcrs)
    signed = QuoteInfo(
        pcr_composite_hash(selection, dict(quote.pcrs)),
        external_data(quote.flags, nonce, quote.hashes),
    )
    verify_sha1(to_public_key(aik), quote.signature, signed.encode(), "manager's quote")
    return dict(quote.pcrs)


def _compare_hashes(quote: ManagerQuote, subject: Subject) -> None:
    covered = [flag for flag in QuoteFlag if quote.flags & flag]
    for flag, found, wanted in zip(covered, quote.hashes, subject.hashes(quote.flags), strict=True):
        if not hmac.compare_digest(found, wanted):
            raise _failed(
                f"its {flag.name} hash is {found.hex()}, not {wanted.hex()}",
                "it is about another vTPM, label or group configuration",
            )


def _failed(what: str, hint: str) -> VerificationError:
    return VerificationError(
        f"the manager's quote does not prove what it should: {what}", hint=hint
    )
