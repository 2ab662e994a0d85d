"""Maintenance functions (TPM Main, Version 1.2, Revision 116, Part 3, section 12)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import Bool, Data, Digest, Nonce, PubKey
from hwtpm.wire import Struct, structure

__all__ = [
    "CreateMaintenanceArchive",
    "CreateMaintenanceArchiveReply",
    "KillMaintenanceFeature",
    "LoadMaintenanceArchive",
    "LoadManuMaintPub",
    "LoadManuMaintPubReply",
    "ReadManuMaintPub",
    "ReadManuMaintPubReply",
]


@structure("TPM_CreateMaintenanceArchive reply", ref="Part 3, 12.1")
class CreateMaintenanceArchiveReply(Struct):
    """Reply of CreateMaintenanceArchive; `archive` is a TPM_KEY."""

    random: Data
    archive: Data


@command(
    0x2C,
    "TPM_CreateMaintenanceArchive",
    "12.1",
    Duration.SHORT,
    (1,),
    Rule.OPTIONAL | Rule.AUDITED,
    authorises=(Authorises.LATER,),
)
class CreateMaintenanceArchive(Request[CreateMaintenanceArchiveReply]):
    """Encrypt SRK and tpmProof to the manufacturer; the owner's authorisation."""

    generate_random: Bool


@command(
    0x2D,
    "TPM_LoadMaintenanceArchive",
    "12.2",
    Duration.SHORT,
    (1,),
    Rule.OPTIONAL | Rule.AUDITED,
    authorises=(Authorises.OWNER,),
)
class LoadMaintenanceArchive(Request[NoReply]):
    """Take over the SRK and tpmProof of another TPM from what the manufacturer made of its archive.

    `sig` and `random` are our vendor specific arguments: the manufacturer's signature over the
    archive, and what TPM_CreateMaintenanceArchive returned as random.
    """

    archive: Data
    sig: Data
    random: Data


@command(
    0x2E,
    "TPM_KillMaintenanceFeature",
    "12.3",
    Duration.SHORT,
    (1,),
    Rule.OPTIONAL | Rule.AUDITED,
    authorises=(Authorises.OWNER,),
)
class KillMaintenanceFeature(Request[NoReply]):
    """Let nobody create a maintenance archive until there is another owner."""


@structure("TPM_LoadManuMaintPub reply", ref="Part 3, 12.4")
class LoadManuMaintPubReply(Struct):
    """Reply of LoadManuMaintPub."""

    checksum: Digest


@command(
    0x2F,
    "TPM_LoadManuMaintPub",
    "12.4",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.AUDITED,
)
class LoadManuMaintPub(Request[LoadManuMaintPubReply]):
    """Install the manufacturer's maintenance key, once."""

    anti_replay: Nonce
    pub_key: PubKey


@structure("TPM_ReadManuMaintPub reply", ref="Part 3, 12.5")
class ReadManuMaintPubReply(Struct):
    """Reply of ReadManuMaintPub."""

    checksum: Digest


@command(
    0x30,
    "TPM_ReadManuMaintPub",
    "12.5",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.AUDITED,
)
class ReadManuMaintPub(Request[ReadManuMaintPubReply]):
    """The digest of the installed maintenance key and a nonce."""

    anti_replay: Nonce
