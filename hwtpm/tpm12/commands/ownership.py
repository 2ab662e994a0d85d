"""Admin ownership (TPM Main, Version 1.2, Revision 116, Part 3, section 6)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U16, Data, Key
from hwtpm.wire import Struct, structure

__all__ = [
    "DisableForceClear",
    "DisableOwnerClear",
    "ForceClear",
    "OwnerClear",
    "PhysicalPresence",
    "ResetEstablishmentBit",
    "TakeOwnership",
    "TakeOwnershipReply",
]


@structure("TPM_TakeOwnership reply", ref="Part 3, 6.1")
class TakeOwnershipReply(Struct):
    """Reply of TakeOwnership."""

    srk_pub: Key


@command(
    0x0D,
    "TPM_TakeOwnership",
    "6.1",
    Duration.LONG,
    (1,),
    Rule.NO_OWNER | Rule.AUDITED | Rule.WHEN_DEACTIVATED,
    authorises=(Authorises.LATER,),
)
class TakeOwnership(Request[TakeOwnershipReply]):
    """Insert the owner and create the SRK; both authorisations come encrypted to the EK."""

    protocol_id: U16
    enc_owner_auth: Data
    enc_srk_auth: Data
    srk_params: Key


@command(
    0x5B,
    "TPM_OwnerClear",
    "6.2",
    Duration.SHORT,
    (1,),
    Rule.AUDITED,
    authorises=(Authorises.OWNER,),
)
class OwnerClear(Request[NoReply]):
    """Remove the owner with owner authorisation."""


@command(
    0x5D,
    "TPM_ForceClear",
    "6.3",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.PRESENCE | Rule.AUDITED,
)
class ForceClear(Request[NoReply]):
    """Remove the owner with physical presence."""


@command(
    0x5C,
    "TPM_DisableOwnerClear",
    "6.4",
    Duration.SHORT,
    (1,),
    Rule.AUDITED,
    authorises=(Authorises.OWNER,),
)
class DisableOwnerClear(Request[NoReply]):
    """Forbid TPM_OwnerClear for this owner."""


@command(0x5E, "TPM_DisableForceClear", "6.5", Duration.SHORT, (0,), Rule.NO_OWNER | Rule.AUDITED)
class DisableForceClear(Request[NoReply]):
    """Forbid TPM_ForceClear until the next start."""


@command(
    0x4000000A,
    "TSC_PhysicalPresence",
    "6.6",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class PhysicalPresence(Request[NoReply]):
    """Set physical presence or how it may be set (TPM_PHYSICAL_PRESENCE bits)."""

    physical_presence: U16


@command(
    0x4000000B,
    "TSC_ResetEstablishmentBit",
    "6.7",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class ResetEstablishmentBit(Request[NoReply]):
    """Reset tpmEstablished; only from localities 3 and 4."""
