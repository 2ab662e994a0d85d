"""Certificates of keys (Part 3 sections 13.8 and 13.9)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.keys import LoadedKey, ReleaseCondition
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.rsa import sign_digest
from hwtpm.softtpm.engine.state import ZERO_DIGEST
from hwtpm.tpm12.commands.cryptography import (
    CertifyKey,
    CertifyKey2,
    CertifyKey2Reply,
    CertifyKeyReply,
)
from hwtpm.tpm12.const import EVERY_LOCALITY, KeyFlag, KeyUsage, Payload, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PcrInfo, PcrInfoShort, PcrSelection
from hwtpm.tpm12.types.certify import CertifyInfo, CertifyInfo2
from hwtpm.tpm12.types.migration import CmkMigAuth

__all__: list[str] = []

_PCRS_OF_1_1: Final = 16
_CERTIFIABLE: Final = (
    KeyUsage.SIGNING,
    KeyUsage.STORAGE,
    KeyUsage.IDENTITY,
    KeyUsage.BIND,
    KeyUsage.LEGACY,
)
_OF_AN_AUTHORITY: Final = (Payload.MIGRATE_RESTRICTED, Payload.MIGRATE_EXTERNAL)


def _check_scheme(certifier: LoadedKey) -> None:
    """Action 1 of both commands, before any proof; it gives no code, this is that of libtpms."""
    schemes = (SigScheme.RSA_PKCS_V15_SHA1, SigScheme.RSA_PKCS_V15_INFO)
    if certifier.key.algorithm_parms.sig_scheme not in schemes:
        raise Refuse(Rc.BAD_KEY_PROPERTY)


def _authorise_first(call: Call, key: LoadedKey, *, needs_auth: bool) -> None:
    """The key whose session only a request with two sessions has (action 2 of both commands)."""
    if len(call.sessions) == 2:
        call.authorise_key(key)
    elif needs_auth:
        raise Refuse(Rc.AUTHFAIL)


def _check_usages(certifier: LoadedKey, key: LoadedKey) -> None:
    """Actions 5 and 6 of 13.8, 4 and 5 of 13.9."""
    if (
        certifier.key.key_usage not in (KeyUsage.SIGNING, KeyUsage.IDENTITY, KeyUsage.LEGACY)
        or key.key.key_usage not in _CERTIFIABLE
    ):
        raise Refuse(Rc.INVALID_KEYUSAGE)


def _check_readable(call: Call, key: LoadedKey) -> None:
    """Action 9.a of 13.8, 13.c of 13.9."""
    if not key.key.key_flags & KeyFlag.PCR_IGNORED_ON_READ:
        check_release(call, key.condition)


def _certify_info(key: LoadedKey, condition: ReleaseCondition | None, data: bytes) -> CertifyInfo:
    pcr_info = b""
    if condition is not None:
        # Action 9.b.iii wants 44 bytes, which fits selections of two bytes as version 1.1 had
        # them. A longer one stays as it is: digestAtRelease covers the selection's size, too.
        selection = PcrSelection.decode(condition.pcr_selection)
        pcr_info = PcrInfo(selection, condition.digest, ZERO_DIGEST).encode()
    return CertifyInfo(
        key.key.key_usage,
        key.key.key_flags,
        key.key.auth_data_usage,
        key.key.algorithm_parms,
        hashlib.sha1(key.key.pub_key).digest(),
        data,
        key.parent_condition,
        pcr_info,
    )


def _certify_info2(
    key: LoadedKey, payload: int, migration_authority: bytes, data: bytes
) -> CertifyInfo2:
    condition, pcr_info = key.condition, b""
    if condition is not None:
        selection = PcrSelection.decode(condition.pcr_selection)
        pcr_info = PcrInfoShort(selection, condition.localities, condition.digest).encode()
    return CertifyInfo2(
        payload,
        key.key.key_usage,
        key.key.key_flags,
        key.key.auth_data_usage,
        key.key.algorithm_parms,
        hashlib.sha1(key.key.pub_key).digest(),
        data,
        key.parent_condition,
        pcr_info,
        migration_authority,
    )


def _signed(certifier: LoadedKey, info: CertifyInfo | CertifyInfo2) -> bytes:
    return sign_digest(certifier.private, hashlib.sha1(info.encode()).digest())


@serves(CertifyKey)
def certify_key(call: Call, request: CertifyKey) -> CertifyKeyReply:
    """13.8."""
    certifier, key = call.keys
    _check_scheme(certifier)
    _authorise_first(call, certifier, needs_auth=certifier.needs_auth)
    if call.sessions:
        call.authorise_key(key)
    elif key.needs_auth_to_read:
        raise Refuse(Rc.AUTHFAIL)
    check_release(call, certifier.condition)
    if key.payload != Payload.ASYM:
        raise Refuse(Rc.INVALID_KEYUSAGE)
    if certifier.key.key_usage == KeyUsage.IDENTITY and key.key.migratable:
        raise Refuse(Rc.MIGRATEFAIL)
    _check_usages(certifier, key)
    _check_readable(call, key)
    condition = key.condition
    info: CertifyInfo | CertifyInfo2
    if condition is not None and (
        condition.localities != EVERY_LOCALITY
        or any(index >= _PCRS_OF_1_1 for index in condition.indices)
    ):
        info = _certify_info2(key, Payload.ASYM, b"", request.anti_replay)
    else:
        info = _certify_info(key, condition, request.anti_replay)
    return CertifyKeyReply(info, _signed(certifier, info))


def _authorise_certifier(call: Call, certifier: LoadedKey) -> None:
    """Action 2 of 13.9: the failure is AUTH2FAIL also where this is the only session."""
    try:
        call.authorise_use(certifier)
    except Refuse as refused:
        wrong = call.unproven and refused.rc == Rc.AUTHFAIL
        raise Refuse(Rc.AUTH2FAIL if wrong else refused.rc) from None


@serves(CertifyKey2)
def certify_key2(call: Call, request: CertifyKey2) -> CertifyKey2Reply:
    """13.9."""
    key, certifier = call.keys
    _check_scheme(certifier)
    _authorise_first(call, key, needs_auth=key.needs_auth_to_read)
    _authorise_certifier(call, certifier)
    check_release(call, certifier.condition)
    controlled = key.payload in _OF_AN_AUTHORITY
    if (
        certifier.key.key_usage == KeyUsage.IDENTITY
        and key.key.migratable
        and not (controlled and key.key.key_flags & KeyFlag.MIGRATE_AUTHORITY)
    ):
        raise Refuse(Rc.MIGRATEFAIL)
    _check_usages(certifier, key)
    payload, authority = int(Payload.ASYM), b""
    if controlled:
        payload = key.payload
        authority = _migration_authority(call, key, request.migration_pub_digest)
    _check_readable(call, key)
    info = _certify_info2(key, payload, authority, request.anti_replay)
    return CertifyKey2Reply(info, _signed(certifier, info))


def _migration_authority(call: Call, key: LoadedKey, msa_digest: bytes) -> bytes:
    """Action 11: these authorities are those of the key."""
    approval = CmkMigAuth(msa_digest, key.public.digest()).encode()
    expected = hmac.digest(call.tpm.permanent.tpm_proof, approval, "sha1")
    if not hmac.compare_digest(expected, key.migration_auth):
        raise Refuse(Rc.MA_SOURCE)
    return hashlib.sha1(msa_digest + bytes((key.payload,))).digest()
