"""Structures of transport sessions (TPM Main, Version 1.2, Revision 116, Part 2, section 13)."""

from __future__ import annotations

from hwtpm.tpm12.const import Tag
from hwtpm.tpm12.types import U16, U32, AuthValue, CurrentTicks, Digest
from hwtpm.wire import Struct, structure

__all__ = ["TransportAuth", "TransportLogIn", "TransportLogOut", "TransportPublic"]


@structure("TPM_TRANSPORT_PUBLIC", ref="Part 2, 13.1", head=Tag.TRANSPORT_PUBLIC.to_bytes(2, "big"))
class TransportPublic(Struct):
    """What a transport session does, and its cipher if it encrypts."""

    trans_attributes: U32
    alg_id: U32
    enc_scheme: U16


@structure("TPM_TRANSPORT_LOG_IN", ref="Part 2, 13.3", head=Tag.TRANSPORT_LOG_IN.to_bytes(2, "big"))
class TransportLogIn(Struct):
    """What the log takes of a wrapped request."""

    parameters: Digest
    pub_key_hash: Digest


@structure(
    "TPM_TRANSPORT_LOG_OUT", ref="Part 2, 13.4", head=Tag.TRANSPORT_LOG_OUT.to_bytes(2, "big")
)
class TransportLogOut(Struct):
    """What the log takes of a wrapped response, and of TPM_ReleaseTransportSigned."""

    current_ticks: CurrentTicks
    parameters: Digest
    locality: U32


@structure("TPM_TRANSPORT_AUTH", ref="Part 2, 13.5", head=Tag.TRANSPORT_AUTH.to_bytes(2, "big"))
class TransportAuth(Struct):
    """The session's secret, as it is encrypted to a key of the TPM."""

    auth_data: AuthValue
