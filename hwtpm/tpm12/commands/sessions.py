"""Authorization sessions (TPM Main, Version 1.2, Revision 116, Part 3, section 18)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, NoReply, Request, Rule, command
from hwtpm.tpm12.types import U16, U32, Data, Nonce
from hwtpm.wire import Struct, structure

__all__ = [
    "DSAP",
    "OIAP",
    "OSAP",
    "DSAPReply",
    "OIAPReply",
    "OSAPReply",
    "SetOwnerPointer",
]


@structure("TPM_OIAP reply", ref="Part 3, 18.1")
class OIAPReply(Struct):
    """Reply of OIAP."""

    auth_handle: U32
    nonce_even: Nonce


@structure("TPM_OSAP reply", ref="Part 3, 18.2")
class OSAPReply(Struct):
    """Reply of OSAP."""

    auth_handle: U32
    nonce_even: Nonce
    nonce_even_osap: Nonce


@structure("TPM_DSAP reply", ref="Part 3, 18.3")
class DSAPReply(Struct):
    """Reply of DSAP."""

    auth_handle: U32
    nonce_even: Nonce
    nonce_even_dsap: Nonce


@command(
    0x0A,
    "TPM_OIAP",
    "18.1",
    Duration.SHORT,
    (0,),
    Rule.NO_OWNER | Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED,
)
class OIAP(Request[OIAPReply]):
    """Open a session that can authorise any entity."""


@command(0x0B, "TPM_OSAP", "18.2", Duration.SHORT, (0,), Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED)
class OSAP(Request[OSAPReply]):
    """Open a session bound to one entity, with a shared secret."""

    entity_type: U16
    entity_value: U32
    nonce_odd_osap: Nonce


@command(0x11, "TPM_DSAP", "18.3", Duration.SHORT, (0,), Rule.WHEN_DEACTIVATED | Rule.WHEN_DISABLED)
class DSAP(Request[DSAPReply]):
    """Open a session that a delegation stands for: a blob, or the index of a row."""

    entity_type: U16
    key_handle: U32
    nonce_odd_dsap: Nonce
    entity_value: Data


@command(0x75, "TPM_SetOwnerPointer", "18.4", Duration.SHORT, (0,))
class SetOwnerPointer(Request[NoReply]):
    """Choose whose AuthData owner authorisation by OIAP and OSAP means: the owner's or a row's."""

    entity_type: U16
    entity_value: U32
