"""Session management (TPM Main, Version 1.2, Revision 116, Part 3, section 21)."""

from __future__ import annotations

from typing import Annotated

from hwtpm.tpm12.table import Authorises, Duration, NoReply, Request, command
from hwtpm.tpm12.types import U32, Bool, KeyHandle, PubKey
from hwtpm.tpm12.types.context import ContextBlob
from hwtpm.wire import Fixed, SizedNested, Struct, structure

__all__ = [
    "KeyControlOwner",
    "LoadContext",
    "LoadContextReply",
    "SaveContext",
    "SaveContextReply",
]

_SizedContext = Annotated[ContextBlob | None, SizedNested(ContextBlob)]


@command(0x23, "TPM_KeyControlOwner", "21.1", Duration.SHORT, (1,), authorises=(Authorises.OWNER,))
class KeyControlOwner(Request[NoReply]):
    """Let a loaded key stay in the TPM, or let it go again; `bit_name` is a TPM_KEY_CONTROL."""

    key_handle: KeyHandle
    pub_key: PubKey
    bit_name: U32
    bit_value: Bool


@structure("TPM_SaveContext reply", ref="Part 3, 21.2")
class SaveContextReply(Struct):
    """Reply of SaveContext."""

    context_blob: _SizedContext


@command(0xB8, "TPM_SaveContext", "21.2", Duration.MEDIUM, (0,))
class SaveContext(Request[SaveContextReply]):
    """Move a session out of the TPM, or make a copy of a loaded key outside."""

    handle: KeyHandle
    resource_type: U32
    label: Annotated[bytes, Fixed("BYTE[16]", 16)]


@structure("TPM_LoadContext reply", ref="Part 3, 21.3")
class LoadContextReply(Struct):
    """Reply of LoadContext."""

    handle: KeyHandle


@command(0xB9, "TPM_LoadContext", "21.3", Duration.MEDIUM, (0,))
class LoadContext(Request[LoadContextReply]):
    """Bring a saved context back; `entity_handle` is the key that a saved session is bound to."""

    entity_handle: KeyHandle
    keep_handle: Bool
    context_blob: _SizedContext
