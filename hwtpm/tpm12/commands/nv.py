"""Non-volatile storage (TPM Main, Version 1.2, Revision 116, Part 3, section 20)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U32, NvDataPublic, SecretAuth, SecretData
from hwtpm.wire import Struct, structure

__all__ = [
    "NvDefineSpace",
    "NvReadValue",
    "NvReadValueAuth",
    "NvReadValueAuthReply",
    "NvReadValueReply",
    "NvWriteValue",
    "NvWriteValueAuth",
]


@command(
    0xCC,
    "TPM_NV_DefineSpace",
    "20.1",
    Duration.SHORT,
    (0, 1),
    Rule.NO_OWNER | Rule.PRESENCE | Rule.MAYBE_DEACTIVATED | Rule.MAYBE_DISABLED,
    authorises=(Authorises.LATER,),
)
class NvDefineSpace(Request[NoReply]):
    """Define, redefine or delete an NV area."""

    pub_info: NvDataPublic
    enc_auth: SecretAuth


@command(
    0xCD,
    "TPM_NV_WriteValue",
    "20.2",
    Duration.SHORT,
    (0, 1),
    Rule.NO_OWNER
    | Rule.PRESENCE
    | Rule.PCR_ENFORCED
    | Rule.MAYBE_DEACTIVATED
    | Rule.MAYBE_DISABLED,
    authorises=(Authorises.LATER,),
)
class NvWriteValue(Request[NoReply]):
    """Write an NV area with owner authorisation or none."""

    nv_index: U32
    offset: U32
    data: SecretData


@command(
    0xCE,
    "TPM_NV_WriteValueAuth",
    "20.3",
    Duration.SHORT,
    (1,),
    Rule.PRESENCE | Rule.PCR_ENFORCED,
    authorises=(Authorises.LATER,),
)
class NvWriteValueAuth(Request[NoReply]):
    """Write an NV area with the area's own authorisation."""

    nv_index: U32
    offset: U32
    data: SecretData


@structure("TPM_NV_ReadValue reply", ref="Part 3, 20.4")
class NvReadValueReply(Struct):
    """Reply of NvReadValue."""

    data: SecretData


@command(
    0xCF,
    "TPM_NV_ReadValue",
    "20.4",
    Duration.SHORT,
    (0, 1),
    Rule.NO_OWNER
    | Rule.PRESENCE
    | Rule.PCR_ENFORCED
    | Rule.MAYBE_DEACTIVATED
    | Rule.MAYBE_DISABLED,
    authorises=(Authorises.LATER,),
)
class NvReadValue(Request[NvReadValueReply]):
    """Read an NV area with owner authorisation or none."""

    nv_index: U32
    offset: U32
    data_size: U32


@structure("TPM_NV_ReadValueAuth reply", ref="Part 3, 20.5")
class NvReadValueAuthReply(Struct):
    """Reply of NvReadValueAuth."""

    data: SecretData


@command(
    0xD0,
    "TPM_NV_ReadValueAuth",
    "20.5",
    Duration.SHORT,
    (1,),
    Rule.PRESENCE | Rule.PCR_ENFORCED,
    authorises=(Authorises.LATER,),
)
class NvReadValueAuth(Request[NvReadValueAuthReply]):
    """Read an NV area with the area's own authorisation."""

    nv_index: U32
    offset: U32
    data_size: U32
