"""Identity creation and activation (TPM Main, Version 1.2, Revision 116, Part 3, section 15)."""

from __future__ import annotations

from hwtpm.tpm12.table import Authorises, Duration, Request, Rule, command
from hwtpm.tpm12.types import Data, Digest, EncAuth, Key, KeyHandle, SymmetricKey
from hwtpm.wire import Struct, structure

__all__ = [
    "ActivateIdentity",
    "ActivateIdentityReply",
    "MakeIdentity",
    "MakeIdentityReply",
]


@structure("TPM_MakeIdentity reply", ref="Part 3, 15.1")
class MakeIdentityReply(Struct):
    """Reply of MakeIdentity."""

    id_key: Key
    identity_binding: Data


@command(
    0x79,
    "TPM_MakeIdentity",
    "15.1",
    Duration.LONG,
    (1, 2),
    Rule.PCR_ENFORCED | Rule.AUDITED,
    authorises=(
        Authorises.SRK,
        Authorises.OWNER,
    ),
)
class MakeIdentity(Request[MakeIdentityReply]):
    """Create an identity key and bind it to a label and privacy CA."""

    identity_auth: EncAuth
    label_priv_ca_digest: Digest
    id_key_params: Key


@structure("TPM_ActivateIdentity reply", ref="Part 3, 15.2")
class ActivateIdentityReply(Struct):
    """Reply of ActivateIdentity."""

    symmetric_key: SymmetricKey


@command(
    0x7A,
    "TPM_ActivateIdentity",
    "15.2",
    Duration.MEDIUM,
    (1, 2),
    Rule.PCR_ENFORCED | Rule.AUDITED,
    authorises=(
        Authorises.KEY,
        Authorises.OWNER,
    ),
)
class ActivateIdentity(Request[ActivateIdentityReply]):
    """Decrypt the session key that a privacy CA sent to this EK and identity."""

    id_key_handle: KeyHandle
    blob: Data
