"""Integrity collection and reporting: PCRs and quotes (Part 3 section 16)."""

from __future__ import annotations

import hashlib

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.keys import LoadedKey
from hwtpm.softtpm.engine.pcrs import DYNAMIC_PCRS, PCR_ATTRIBUTES
from hwtpm.softtpm.engine.release import check_release, composite_of
from hwtpm.softtpm.engine.rsa import sign_digest
from hwtpm.softtpm.engine.state import ONES_DIGEST, ZERO_DIGEST
from hwtpm.softtpm.engine.version import version_info
from hwtpm.tpm12.commands.integrity import (
    Extend,
    ExtendReply,
    PcrRead,
    PcrReadReply,
    PcrReset,
    Quote,
    Quote2,
    Quote2Reply,
    QuoteReply,
)
from hwtpm.tpm12.const import NUM_PCRS, KeyUsage, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types import PcrInfoShort, QuoteInfo, QuoteInfo2

__all__ = ["extend_pcr"]


def extend_pcr(call: Call, index: int, digest: bytes) -> bytes:
    """Extend a PCR from the command's locality; returns the outDigest of TPM_Extend, which is
    zeros from a disabled or deactivated TPM.

    Raises:
        Refuse: BADINDEX; BAD_LOCALITY.
    """
    if index >= NUM_PCRS:
        raise Refuse(Rc.BADINDEX)
    if not PCR_ATTRIBUTES[index].extend >> call.locality & 1:
        raise Refuse(Rc.BAD_LOCALITY)
    tpm = call.tpm
    value = hashlib.sha1(tpm.volatile.pcrs[index] + digest).digest()
    stclear = tpm.volatile.with_pcr(index, value)
    tpm.stclear = stclear
    if tpm.permanent.flags.disable or stclear.flags.deactivated:
        return ZERO_DIGEST
    return value


@serves(Extend)
def extend(call: Call, request: Extend) -> ExtendReply:
    """16.1."""
    return ExtendReply(extend_pcr(call, request.pcr_num, request.in_digest))


@serves(PcrRead)
def pcr_read(call: Call, request: PcrRead) -> PcrReadReply:
    """16.2."""
    if request.pcr_index >= NUM_PCRS:
        raise Refuse(Rc.BADINDEX)
    return PcrReadReply(call.tpm.volatile.pcrs[request.pcr_index])


@serves(PcrReset)
def pcr_reset(call: Call, request: PcrReset) -> NoReply:
    """16.4. All selected PCRs or none. The dynamic PCRs go to zero only in a measured launch, and
    else to all ones (PC Client TIS; the pseudo code in 16.4)."""
    indices = request.pcr_selection.indices
    if not indices or indices[-1] >= NUM_PCRS:
        raise Refuse(Rc.INVALID_PCR_INFO)
    for index in indices:
        if not PCR_ATTRIBUTES[index].resettable:
            raise Refuse(Rc.NOTRESETABLE)
        if not PCR_ATTRIBUTES[index].reset >> call.locality & 1:
            raise Refuse(Rc.NOTLOCAL)
    stclear = call.tpm.volatile
    for index in indices:
        zero = stclear.tos_present or index not in DYNAMIC_PCRS
        stclear = stclear.with_pcr(index, ZERO_DIGEST if zero else ONES_DIGEST)
    call.tpm.stclear = stclear
    return NoReply()


def _check_quoting_key(call: Call, key: LoadedKey) -> None:
    check_release(call, key.condition)
    schemes = (SigScheme.RSA_PKCS_V15_SHA1, SigScheme.RSA_PKCS_V15_INFO)
    if key.key.algorithm_parms.sig_scheme not in schemes:
        raise Refuse(Rc.INAPPROPRIATE_SIG)
    if key.key.key_usage not in (KeyUsage.SIGNING, KeyUsage.IDENTITY, KeyUsage.LEGACY):
        raise Refuse(Rc.INVALID_KEYUSAGE)


@serves(Quote)
def quote(call: Call, request: Quote) -> QuoteReply:
    """16.3."""
    key = call.keys[0]
    _check_quoting_key(call, key)
    composite = composite_of(call.tpm.volatile, request.target_pcr)
    info = QuoteInfo(composite.digest(), request.external_data)
    signature = sign_digest(key.private, hashlib.sha1(info.encode()).digest())
    return QuoteReply(composite, signature)


@serves(Quote2)
def quote2(call: Call, request: Quote2) -> Quote2Reply:
    """16.5."""
    key = call.keys[0]
    _check_quoting_key(call, key)
    composite = composite_of(call.tpm.volatile, request.target_pcr)
    short = PcrInfoShort(request.target_pcr, 1 << call.locality, composite.digest())
    version = version_info().encode() if request.add_version else b""
    signed = QuoteInfo2(request.external_data, short).encode() + version
    signature = sign_digest(key.private, hashlib.sha1(signed).digest())
    return Quote2Reply(short, version, signature)
