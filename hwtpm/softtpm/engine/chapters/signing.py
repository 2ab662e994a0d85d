"""TPM_Sign (Part 3 section 13.5)."""

from __future__ import annotations

import hashlib
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.rsa import sign_digest, sign_raw
from hwtpm.tpm12.commands.cryptography import Sign, SignReply
from hwtpm.tpm12.const import DIGEST_SIZE, KeyUsage, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import SignInfo

__all__: list[str] = []

_SIGN: Final = b"SIGN"
"""TPM_SIGN_INFO.fixed of this command (Part 2 section 5.14)."""


@serves(Sign)
def sign(call: Call, request: Sign) -> SignReply:
    """13.5."""
    key, area = call.keys[0], request.area_to_sign
    check_release(call, key.condition)
    if not area:
        raise Refuse(Rc.BAD_PARAMETER)
    if key.key.key_usage not in (KeyUsage.SIGNING, KeyUsage.LEGACY):
        raise Refuse(Rc.INVALID_KEYUSAGE)
    scheme = key.key.algorithm_parms.sig_scheme
    if scheme == SigScheme.RSA_PKCS_V15_DER:
        try:
            return SignReply(sign_raw(key.private, area))
        except ValueError:
            raise Refuse(Rc.BAD_PARAMETER) from None
    if scheme == SigScheme.RSA_PKCS_V15_SHA1:
        if len(area) != DIGEST_SIZE:
            raise Refuse(Rc.BAD_PARAMETER)
        return SignReply(sign_digest(key.private, area))
    if not call.tails:
        raise Refuse(Rc.BAD_PARAMETER)  # INFO keys sign the session's odd nonce
    info = SignInfo(_SIGN, call.tails[0].nonce_odd, area)
    return SignReply(sign_digest(key.private, hashlib.sha1(info.encode()).digest()))
