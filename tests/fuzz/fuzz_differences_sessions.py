"""Differences in what needs a past: delegation, transport, contexts, migration, new AuthData."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from fuzz_known import Known
from fuzz_sides import Plan

from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import CurrentTicks
from hwtpm.tpm12.types.migration import MigrationKeyAuth

__all__ = ["COMPARABLE", "ENDS_OSAP", "KNOWN", "OPAQUE", "VENDOR_SIZE"]


def _wrong_outer_proof(plan: Plan) -> bool:
    through = plan.through
    return through is not None and not through.auth.honest


KNOWN: Final[tuple[Known, ...]] = (
    Known(
        "*",
        {Rc.AUTHFAIL},
        {Rc.AUTH2FAIL},
        "24.2 action 7.c says AUTHFAIL; libtpms answers as for TPM_ReleaseTransportSigned",
        _wrong_outer_proof,
    ),
)

ENDS_OSAP: Final = frozenset(
    {
        "TPM_Delegate_Manage",
        "TPM_Delegate_CreateOwnerDelegation",
        "TPM_Delegate_LoadOwnerDelegation",
        "TPM_Delegate_UpdateVerification",
        "TPM_ChangeAuthOwner",
    }
)
"""19.1 action 4 and its like end "all OSAP sessions associated with the delegation table"; libtpms
ends all OSAP sessions."""

OPAQUE: Final[frozenset[tuple[str, str]]] = frozenset(
    {
        ("TPM_EstablishTransport", "trans_handle"),
        ("TPM_EstablishTransport", "trans_nonce_even"),
        ("TPM_ReleaseTransportSigned", "signature"),  # ticks and nonces are in the log
        ("TPM_LoadContext", "handle"),
        ("TPM_LoadKeyContext", "key_handle"),
        ("TPM_LoadAuthContext", "auth_handle"),
        ("TPM_ChangeAuth", "out_data"),
        ("TPM_ChangeAuthAsymStart", "certify_info"),
        ("TPM_ChangeAuthAsymStart", "sig"),
        ("TPM_ChangeAuthAsymStart", "eph_handle"),
        ("TPM_ChangeAuthAsymFinish", "out_data"),
        ("TPM_ChangeAuthAsymFinish", "salt_nonce"),
        ("TPM_ChangeAuthAsymFinish", "change_proof"),
        ("TPM_CreateMigrationBlob", "random"),
        ("TPM_CreateMigrationBlob", "out_data"),
        ("TPM_ConvertMigrationBlob", "out_data"),
        ("TPM_MigrateKey", "out_data"),
        ("TPM_CMK_CreateBlob", "random"),
        ("TPM_CMK_CreateBlob", "out_data"),
        ("TPM_CMK_ConvertMigration", "out_data"),
        ("TPM_DAA_Join", "output_data"),
        ("TPM_DAA_Sign", "output_data"),
        ("TPM_CreateRevocableEK", "pub_endorsement_key"),
        ("TPM_CreateRevocableEK", "checksum"),
        ("TPM_CreateRevocableEK", "output_ekreset"),
        ("TPM_CreateEndorsementKeyPair", "pub_endorsement_key"),
        ("TPM_CreateEndorsementKeyPair", "checksum"),
        ("TPM_GetAuditDigest", "audit_digest"),  # of handles, nonces and blobs
        ("TPM_GetAuditDigestSigned", "audit_digest"),
        ("TPM_GetAuditDigestSigned", "sig"),
        ("TPM_TakeOwnership", "srk_pub"),
    }
)
"""Fields that hold random values; only their size is compared."""

VENDOR_SIZE: Final = frozenset(
    {
        "TPM_SaveContext",
        "TPM_SaveKeyContext",
        "TPM_SaveAuthContext",
        "TPM_Delegate_CreateKeyDelegation",
        "TPM_Delegate_CreateOwnerDelegation",
        "TPM_Delegate_UpdateVerification",
    }
)
"""Commands that make blobs which the TPM alone reads again, of any size."""


def _without_digest(plan: Plan, auth: MigrationKeyAuth) -> object:
    """Part 2 5.12: of key, scheme and tpmProof; libtpms takes the scheme as its CPU stores it."""
    return replace(auth, digest=bytes(20))


def _ticks(plan: Plan, ticks: CurrentTicks) -> object:
    return ticks.tick_rate


def _unless_own(plan: Plan, value: Any) -> Any:
    """Of an endorsement key that this TPM has made."""
    return None if plan.note.get("own_ek") else value


COMPARABLE: Final[dict[tuple[str, str], Callable[[Plan, Any], object]]] = {
    ("TPM_AuthorizeMigrationKey", "out_data"): _without_digest,
    ("TPM_EstablishTransport", "current_ticks"): _ticks,
    ("TPM_ReleaseTransportSigned", "current_ticks"): _ticks,
    ("TPM_ReadPubek", "pub_endorsement_key"): _unless_own,
    ("TPM_ReadPubek", "checksum"): _unless_own,
    ("TPM_OwnerReadPubek", "pub_endorsement_key"): _unless_own,
    ("TPM_OwnerReadInternalPub", "public_portion"): _unless_own,
    ("TPM_ChangeAuthAsymStart", "temp_key"): lambda plan, key: (
        replace(key, pub_key=b""),
        len(key.pub_key),
    ),
}
"""What is left to compare of a field that is partly random."""
