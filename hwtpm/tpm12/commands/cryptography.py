"""Cryptographic functions (TPM Main, Version 1.2, Revision 116, Part 3, section 13)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U32, Data, Digest, KeyHandle, Nonce, SecretData
from hwtpm.tpm12.types.certify import AnyCertifyInfo, CertifyInfo2
from hwtpm.wire import Struct, structure

__all__ = [
    "CertifyKey",
    "CertifyKey2",
    "CertifyKey2Reply",
    "CertifyKeyReply",
    "GetRandom",
    "GetRandomReply",
    "SHA1Complete",
    "SHA1CompleteExtend",
    "SHA1CompleteExtendReply",
    "SHA1CompleteReply",
    "SHA1Start",
    "SHA1StartReply",
    "SHA1Update",
    "Sign",
    "SignReply",
    "StirRandom",
]


@structure("TPM_SHA1Start reply", ref="Part 3, 13.1")
class SHA1StartReply(Struct):
    """Reply of SHA1Start."""

    max_num_bytes: U32


@command(
    0xA0,
    "TPM_SHA1Start",
    "13.1",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class SHA1Start(Request[SHA1StartReply]):
    """Start a SHA-1 calculation."""


@command(
    0xA1,
    "TPM_SHA1Update",
    "13.2",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class SHA1Update(Request[NoReply]):
    """Hash more bytes, a multiple of 64."""

    hash_data: Data


@structure("TPM_SHA1Complete reply", ref="Part 3, 13.3")
class SHA1CompleteReply(Struct):
    """Reply of SHA1Complete."""

    hash_value: Digest


@command(
    0xA2,
    "TPM_SHA1Complete",
    "13.3",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class SHA1Complete(Request[SHA1CompleteReply]):
    """Hash the last bytes, 0 to 64, and end."""

    hash_data: Data


@structure("TPM_SHA1CompleteExtend reply", ref="Part 3, 13.4")
class SHA1CompleteExtendReply(Struct):
    """Reply of SHA1CompleteExtend."""

    hash_value: Digest
    out_digest: Digest


@command(
    0xA3,
    "TPM_SHA1CompleteExtend",
    "13.4",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class SHA1CompleteExtend(Request[SHA1CompleteExtendReply]):
    """Hash the last bytes and extend a PCR with the result."""

    pcr_num: U32
    hash_data: Data


@structure("TPM_Sign reply", ref="Part 3, 13.5")
class SignReply(Struct):
    """Reply of Sign."""

    sig: Data


@command(
    0x3C,
    "TPM_Sign",
    "13.5",
    Duration.MEDIUM,
    (0, 1),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY,),
)
class Sign(Request[SignReply]):
    """Sign data with a loaded signing key."""

    key_handle: KeyHandle
    area_to_sign: Data


@structure("TPM_GetRandom reply", ref="Part 3, 13.6")
class GetRandomReply(Struct):
    """Reply of GetRandom."""

    random_bytes: SecretData


@command(0x46, "TPM_GetRandom", "13.6", Duration.SHORT, (0,), Rule.NO_OWNER)
class GetRandom(Request[GetRandomReply]):
    """Get random bytes."""

    bytes_requested: U32


@command(0x47, "TPM_StirRandom", "13.7", Duration.SHORT, (0,), Rule.NO_OWNER)
class StirRandom(Request[NoReply]):
    """Add entropy, up to 256 bytes."""

    in_data: SecretData


@structure("TPM_CertifyKey reply", ref="Part 3, 13.8")
class CertifyKeyReply(Struct):
    """Reply of CertifyKey."""

    certify_info: AnyCertifyInfo
    out_data: Data


@command(
    0x32,
    "TPM_CertifyKey",
    "13.8",
    Duration.MEDIUM,
    (0, 1, 2),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY_LATER, Authorises.KEY_LATER),
)
class CertifyKey(Request[CertifyKeyReply]):
    """Certify with one loaded key that another one is in the TPM, and what it may do."""

    cert_handle: KeyHandle
    key_handle: KeyHandle
    anti_replay: Nonce


@structure("TPM_CertifyKey2 reply", ref="Part 3, 13.9")
class CertifyKey2Reply(Struct):
    """Reply of CertifyKey2."""

    certify_info: CertifyInfo2
    out_data: Data


@command(
    0x33,
    "TPM_CertifyKey2",
    "13.9",
    Duration.MEDIUM,
    (0, 1, 2),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.KEY_LATER, Authorises.KEY_LATER),
)
class CertifyKey2(Request[CertifyKey2Reply]):
    """Certify a key, a certified migration key of these migration authorities included."""

    key_handle: KeyHandle
    cert_handle: KeyHandle
    migration_pub_digest: Digest
    anti_replay: Nonce
