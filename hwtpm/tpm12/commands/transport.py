"""Transport sessions (TPM Main, Version 1.2, Revision 116, Part 3, section 24)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, Request, Rule, command
from hwtpm.tpm12.types import U32, U64, CurrentTicks, Data, KeyHandle, Nonce, SecretData
from hwtpm.tpm12.types.transport import TransportPublic
from hwtpm.wire import Struct, structure

__all__ = [
    "EstablishTransport",
    "EstablishTransportReply",
    "ExecuteTransport",
    "ExecuteTransportReply",
    "ReleaseTransportSigned",
    "ReleaseTransportSignedReply",
]


@structure("TPM_EstablishTransport reply", ref="Part 3, 24.1")
class EstablishTransportReply(Struct):
    """Reply of EstablishTransport."""

    trans_handle: KeyHandle
    locality: U32
    current_ticks: CurrentTicks
    trans_nonce_even: Nonce


@command(
    0xE6,
    "TPM_EstablishTransport",
    "24.1",
    Duration.MEDIUM,
    (0, 1),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.LATER,),
)
class EstablishTransport(Request[EstablishTransportReply]):
    """Open a transport session; its secret comes encrypted to a key, or in clear."""

    enc_handle: KeyHandle
    trans_public: TransportPublic
    secret: SecretData


@structure("TPM_ExecuteTransport reply", ref="Part 3, 24.2")
class ExecuteTransportReply(Struct):
    """Reply of ExecuteTransport."""

    current_ticks: U64
    locality: U32
    wrapped_rsp: SecretData


@command(
    0xE7,
    "TPM_ExecuteTransport",
    "24.2",
    Duration.LONG,
    (1,),
    authorises=(Authorises.TRANSPORT,),
)
class ExecuteTransport(Request[ExecuteTransportReply]):
    """Carry out a command inside a transport session."""

    wrapped_cmd: SecretData


@structure("TPM_ReleaseTransportSigned reply", ref="Part 3, 24.3")
class ReleaseTransportSignedReply(Struct):
    """Reply of ReleaseTransportSigned."""

    locality: U32
    current_ticks: CurrentTicks
    signature: Data


@command(
    0xE8,
    "TPM_ReleaseTransportSigned",
    "24.3",
    Duration.MEDIUM,
    (1, 2),
    Rule.PCR_ENFORCED,
    authorises=(Authorises.LATER, Authorises.TRANSPORT),
)
class ReleaseTransportSigned(Request[ReleaseTransportSignedReply]):
    """End a transport session and sign its log."""

    key_handle: KeyHandle
    anti_replay: Nonce
