"""Auditing (Part 3 section 8)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.auditing import audit_count
from hwtpm.softtpm.engine.call import ACTIONS, Call, Refuse, serves
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.rsa import sign_digest
from hwtpm.softtpm.engine.state import ZERO_DIGEST, Permanent
from hwtpm.tpm12.commands.auditing import (
    GetAuditDigest,
    GetAuditDigestReply,
    GetAuditDigestSigned,
    GetAuditDigestSignedReply,
    SetOrdinalAuditStatus,
)
from hwtpm.tpm12.const import KeyUsage, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply, Rule
from hwtpm.tpm12.types import SignInfo

__all__: list[str] = []

_ADIG: Final = b"ADIG"


def _ordinal_list(permanent: Permanent, start: int = 0) -> bytes:
    return b"".join(o.to_bytes(4, "big") for o in sorted(permanent.audited) if o >= start)


@serves(GetAuditDigest)
def get_audit_digest(call: Call, request: GetAuditDigest) -> GetAuditDigestReply:
    """8.3. The whole list always fits."""
    permanent = call.tpm.permanent
    return GetAuditDigestReply(
        audit_count(permanent),
        call.tpm.volatile.audit_digest,
        False,
        _ordinal_list(permanent, request.start_ordinal),
    )


@serves(GetAuditDigestSigned)
def get_audit_digest_signed(call: Call, request: GetAuditDigestSigned) -> GetAuditDigestSignedReply:
    """8.4."""
    tpm, key = call.tpm, call.keys[0]
    check_release(call, key.condition)
    if key.key.key_usage not in (KeyUsage.SIGNING, KeyUsage.IDENTITY, KeyUsage.LEGACY):
        raise Refuse(Rc.INVALID_KEYUSAGE)
    schemes = (SigScheme.RSA_PKCS_V15_SHA1, SigScheme.RSA_PKCS_V15_INFO)
    if key.key.algorithm_parms.sig_scheme not in schemes:
        raise Refuse(Rc.INVALID_KEYUSAGE)
    if request.close_audit and key.key.key_usage != KeyUsage.IDENTITY:
        raise Refuse(Rc.INVALID_KEYUSAGE)  # action 5.b
    digest, count = tpm.volatile.audit_digest, audit_count(tpm.permanent)
    ordinals = hashlib.sha1(_ordinal_list(tpm.permanent)).digest()
    signed = SignInfo(_ADIG, request.anti_replay, digest + count.encode() + ordinals)
    signature = sign_digest(key.private, hashlib.sha1(signed.encode()).digest())
    if request.close_audit:
        tpm.stclear = replace(tpm.volatile, audit_digest=ZERO_DIGEST)
    return GetAuditDigestSignedReply(count, digest, ordinals, signature)


@serves(SetOrdinalAuditStatus)
def set_ordinal_audit_status(call: Call, request: SetOrdinalAuditStatus) -> NoReply:
    """8.5. It has no code for the commands that are never audited (Part 2 section 17): libtpms'."""
    tpm, ordinal = call.tpm, request.ordinal_to_audit
    served = ACTIONS.get(ordinal)
    if served is None:
        raise Refuse(Rc.BADINDEX)
    if request.audit_state and Rule.NEVER_AUDITED in served.row.rules:
        raise Refuse(Rc.BAD_PARAMETER)
    others = tuple(audited for audited in tpm.permanent.audited if audited != ordinal)
    audited = (*others, ordinal) if request.audit_state else others
    if set(audited) != set(tpm.permanent.audited):
        tpm.permanent = replace(tpm.permanent, audited=audited)
    return NoReply()
