"""Timing ticks (Part 3 section 23)."""

from __future__ import annotations

import hashlib
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.rsa import sign_digest
from hwtpm.tpm12.commands.ticks import GetTicks, GetTicksReply, TickStampBlob, TickStampBlobReply
from hwtpm.tpm12.const import KeyUsage, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import SignInfo

__all__: list[str] = []

_TSTP: Final = b"TSTP"


@serves(GetTicks)
def get_ticks(call: Call, request: GetTicks) -> GetTicksReply:
    """23.1."""
    return GetTicksReply(call.tpm.current_ticks)


@serves(TickStampBlob)
def tick_stamp_blob(call: Call, request: TickStampBlob) -> TickStampBlobReply:
    """23.2."""
    key = call.keys[0]
    check_release(call, key.condition)
    if key.key.key_usage not in (KeyUsage.SIGNING, KeyUsage.IDENTITY, KeyUsage.LEGACY):
        raise Refuse(Rc.INVALID_KEYUSAGE)
    schemes = (SigScheme.RSA_PKCS_V15_SHA1, SigScheme.RSA_PKCS_V15_INFO)
    if key.key.algorithm_parms.sig_scheme not in schemes:
        raise Refuse(Rc.INAPPROPRIATE_SIG)
    ticks = call.tpm.current_ticks
    signed = SignInfo(_TSTP, request.anti_replay, request.digest_to_stamp + ticks.encode())
    signature = sign_digest(key.private, hashlib.sha1(signed.encode()).digest())
    return TickStampBlobReply(ticks, signature)
