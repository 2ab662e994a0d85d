"""Endorsement key handling (TPM Main, Version 1.2, Revision 116, Part 3, section 14)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, Request, Rule, command, declare
from hwtpm.tpm12.types import U32, Digest, KeyParms, Nonce, PubKey
from hwtpm.wire import Struct, structure

__all__ = [
    "CreateEndorsementKeyPair",
    "CreateEndorsementKeyPairReply",
    "OwnerReadInternalPub",
    "OwnerReadInternalPubReply",
    "ReadPubek",
    "ReadPubekReply",
]


@structure("TPM_CreateEndorsementKeyPair reply", ref="Part 3, 14.1")
class CreateEndorsementKeyPairReply(Struct):
    """Reply of CreateEndorsementKeyPair."""

    pub_endorsement_key: PubKey
    checksum: Digest


@command(0x78, "TPM_CreateEndorsementKeyPair", "14.1", Duration.LONG, (0,), Rule.NO_OWNER)
class CreateEndorsementKeyPair(Request[CreateEndorsementKeyPairReply]):
    """Create the endorsement key, once."""

    anti_replay: Nonce
    key_info: KeyParms


declare(0x7F, "TPM_CreateRevocableEK", "14.2", Duration.LONG, (0,), Rule.OPTIONAL | Rule.NO_OWNER)

declare(
    0x80,
    "TPM_RevokeTrust",
    "14.3",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.PRESENCE,
)


@structure("TPM_ReadPubek reply", ref="Part 3, 14.4")
class ReadPubekReply(Struct):
    """Reply of ReadPubek."""

    pub_endorsement_key: PubKey
    checksum: Digest


@command(0x7C, "TPM_ReadPubek", "14.4", Duration.SHORT, (0,), Rule.NO_OWNER | Rule.AUDITED)
class ReadPubek(Request[ReadPubekReply]):
    """Read the public endorsement key while nobody owns the TPM."""

    anti_replay: Nonce


@structure("TPM_OwnerReadInternalPub reply", ref="Part 3, 14.5")
class OwnerReadInternalPubReply(Struct):
    """Reply of OwnerReadInternalPub."""

    public_portion: PubKey


@command(
    0x81, "TPM_OwnerReadInternalPub", "14.5", Duration.SHORT, (1,), authorises=(Authorises.OWNER,)
)
class OwnerReadInternalPub(Request[OwnerReadInternalPubReply]):
    """Read the public EK or SRK with owner authorisation."""

    key_handle: U32
