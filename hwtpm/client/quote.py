"""Quotes: signed statements on PCRs, and their verification away from any TPM.

Source: TPM Main 1.2, Part 3 sections 16.3 and 16.5; Part 2 sections 11.3 and 11.4.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwtpm.client.keys import KeyRef
from hwtpm.client.pcr import check_indices
from hwtpm.client.rsa import verify_sha1
from hwtpm.client.session import Tpm
from hwtpm.errors import UsageError, VerificationError
from hwtpm.tpm12.commands import integrity
from hwtpm.tpm12.const import DIGEST_SIZE
from hwtpm.tpm12.types import (
    CapVersionInfo,
    PcrComposite,
    PcrInfoShort,
    PcrSelection,
    QuoteInfo,
    QuoteInfo2,
    pcr_composite_hash,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = ["Quote", "Quote2", "quote", "quote2", "verify_quote", "verify_quote2"]


@dataclass(frozen=True, slots=True)
class Quote:
    """What TPM_Quote gave: PCR values and the signature over them and the verifier's nonce."""

    nonce: bytes
    composite: PcrComposite
    signature: bytes

    @property
    def pcrs(self) -> dict[int, bytes]:
        """The PCR values; worth nothing before `verify_quote`."""
        values = self.composite.values
        indices = self.composite.select.indices
        return {
            index: values[at * DIGEST_SIZE : (at + 1) * DIGEST_SIZE]
            for at, index in enumerate(indices)
        }


@dataclass(frozen=True, slots=True)
class Quote2:
    """What TPM_Quote2 gave: a digest over PCRs, the locality, the version if it was asked for."""

    nonce: bytes
    pcr_info: PcrInfoShort
    version_info: bytes
    signature: bytes

    @property
    def version(self) -> CapVersionInfo | None:
        """The TPM's version; worth nothing before `verify_quote2`."""
        return CapVersionInfo.decode(self.version_info) if self.version_info else None


def quote(tpm: Tpm, key: KeyRef, nonce: bytes, pcrs: Iterable[int]) -> Quote:
    """Sign the values of these PCRs and the verifier's 20-byte nonce."""
    _check_nonce(nonce)
    request = integrity.Quote(key.handle, nonce, PcrSelection.of(check_indices(pcrs)))
    reply = tpm.execute_with(request, *key.secrets)
    return Quote(nonce, reply.pcr_data, reply.sig)


def quote2(
    tpm: Tpm, key: KeyRef, nonce: bytes, pcrs: Iterable[int], *, add_version: bool = False
) -> Quote2:
    """Sign a digest over these PCRs, the locality and the verifier's 20-byte nonce."""
    _check_nonce(nonce)
    selection = PcrSelection.of(check_indices(pcrs))
    request = integrity.Quote2(key.handle, nonce, selection, add_version)
    reply = tpm.execute_with(request, *key.secrets)
    return Quote2(nonce, reply.pcr_data, reply.version_info, reply.sig)


def verify_quote(
    key: RSAPublicKey, what: Quote, nonce: bytes, expected: Mapping[int, bytes] | None = None
) -> dict[int, bytes]:
    """The proven PCR values of a quote; needs no TPM.

    `nonce` is the one the verifier chose; with `expected` exactly these PCRs and values are asked
    for.

    Raises:
        VerificationError: not that key's signature, another nonce, or other PCRs.
    """
    _same(what.nonce, nonce, "nonce")
    if len(what.composite.values) != DIGEST_SIZE * len(what.composite.select.indices):
        raise VerificationError(
            "the quote has another number of values than of PCRs", hint="ask for a new quote"
        )
    signed = QuoteInfo(what.composite.digest(), nonce).encode()
    verify_sha1(key, what.signature, signed, "quote")
    if expected is not None:
        _same_pcrs(what.pcrs, expected)
    return what.pcrs


def verify_quote2(
    key: RSAPublicKey, what: Quote2, nonce: bytes, expected: Mapping[int, bytes]
) -> None:
    """Prove that the quote is over exactly these PCR values; needs no TPM.

    The PCR values are not part of such a quote: the verifier has to have them.

    Raises:
        VerificationError: not that key's signature, another nonce, or other PCRs.
    """
    _same(what.nonce, nonce, "nonce")
    signed = QuoteInfo2(nonce, what.pcr_info).encode() + what.version_info
    verify_sha1(key, what.signature, signed, "quote")
    selection = what.pcr_info.pcr_selection
    if set(selection.indices) != set(expected):
        raise VerificationError(
            f"the quote is over PCRs {list(selection.indices)}, not {sorted(expected)}",
            hint="ask for a quote of the PCRs that matter",
        )
    digest = pcr_composite_hash(selection, dict(expected))
    _same(what.pcr_info.digest_at_release, digest, "digest over the PCRs")


def _same_pcrs(quoted: Mapping[int, bytes], expected: Mapping[int, bytes]) -> None:
    if set(quoted) != set(expected):
        raise VerificationError(
            f"the quote is over PCRs {sorted(quoted)}, not {sorted(expected)}",
            hint="ask for a quote of the PCRs that matter",
        )
    for index, value in sorted(expected.items()):
        _same(quoted[index], value, f"value of PCR {index}")


def _same(quoted: bytes, expected: bytes, what: str) -> None:
    if not hmac.compare_digest(quoted, expected):
        raise VerificationError(
            f"the quote's {what} is {quoted.hex()}, not {expected.hex()}",
            hint="the platform is in another state, or this is an answer to another question",
        )


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != DIGEST_SIZE:
        raise UsageError(f"a quote's nonce has {DIGEST_SIZE} bytes, not {len(nonce)}")
