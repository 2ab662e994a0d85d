"""Key certificates and changed AuthData (TPM Main, Version 1.2, Revision 116, Part 2)."""

from __future__ import annotations

from typing import Annotated, Final

from hwtpm.tpm12.const import Tag
from hwtpm.tpm12.types import (
    LEGACY_FORM,
    U8,
    U16,
    U32,
    AuthValue,
    Bool,
    Data,
    Digest,
    KeyParms,
    Nonce,
)
from hwtpm.wire import Struct, Variants, structure

__all__ = ["AnyCertifyInfo", "CertifyInfo", "CertifyInfo2", "ChangeAuthValidate"]


@structure("TPM_CERTIFY_INFO", ref="Part 2, 11.1", head=LEGACY_FORM.to_bytes(4, "big"))
class CertifyInfo(Struct):
    """What a certifying key signs about a key; `pcr_info` is a TPM_PCR_INFO or empty."""

    key_usage: U16
    key_flags: U32
    auth_data_usage: U8
    algorithm_parms: KeyParms
    pubkey_digest: Digest
    data: Nonce
    parent_pcr_status: Bool
    pcr_info: Data


_FILL: Final = b"\0"


@structure(
    "TPM_CERTIFY_INFO2",
    ref="Part 2, 11.2",
    head=Tag.CERTIFY_INFO2.to_bytes(2, "big") + _FILL,
)
class CertifyInfo2(Struct):
    """The 1.2 form: `pcr_info` is a TPM_PCR_INFO_SHORT or empty, `migration_authority` a digest
    for a certified migration key and else empty."""

    payload_type: U8
    key_usage: U16
    key_flags: U32
    auth_data_usage: U8
    algorithm_parms: KeyParms
    pubkey_digest: Digest
    data: Nonce
    parent_pcr_status: Bool
    pcr_info: Data
    migration_authority: Data


AnyCertifyInfo = Annotated[CertifyInfo | CertifyInfo2, Variants(CertifyInfo, CertifyInfo2)]


@structure("TPM_CHANGEAUTH_VALIDATE", ref="Part 2, 5.11")
class ChangeAuthValidate(Struct):
    """New AuthData, encrypted to the ephemeral key of TPM_ChangeAuthAsymStart."""

    new_auth_secret: AuthValue
    n1: Nonce
