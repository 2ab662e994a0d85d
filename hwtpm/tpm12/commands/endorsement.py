"""Endorsement key handling (TPM Main, Version 1.2, Revision 116, Part 3, section 14)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U32, Bool, Digest, KeyParms, Nonce, PubKey, SecretNonce
from hwtpm.wire import Struct, structure

__all__ = [
    "CreateEndorsementKeyPair",
    "CreateEndorsementKeyPairReply",
    "CreateRevocableEK",
    "CreateRevocableEKReply",
    "OwnerReadInternalPub",
    "OwnerReadInternalPubReply",
    "ReadPubek",
    "ReadPubekReply",
    "RevokeTrust",
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


@structure("TPM_CreateRevocableEK reply", ref="Part 3, 14.2")
class CreateRevocableEKReply(Struct):
    """Reply of CreateRevocableEK."""

    pub_endorsement_key: PubKey
    checksum: Digest
    output_ekreset: SecretNonce


@command(
    0x7F,
    "TPM_CreateRevocableEK",
    "14.2",
    Duration.LONG,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER,
)
class CreateRevocableEK(Request[CreateRevocableEKReply]):
    """Create an endorsement key that whoever knows the reset value can have forgotten."""

    anti_replay: Nonce
    key_info: KeyParms
    generate_reset: Bool
    input_ekreset: SecretNonce


@command(
    0x80,
    "TPM_RevokeTrust",
    "14.3",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.PRESENCE,
)
class RevokeTrust(Request[NoReply]):
    """Forget a revocable endorsement key, the owner and all NV areas; needs physical presence."""

    ekreset: SecretNonce


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
