"""Which bit of a delegation permits which command (Part 2 sections 20.2.1 and 20.2.3)."""

from __future__ import annotations

from typing import Final

from hwtpm.tpm12.const import CmkDelegate, DelegateType, KeyUsage
from hwtpm.tpm12.types.delegation import Delegations

__all__ = [
    "CMK_DELEGATE_OF",
    "KEY_PERMISSIONS",
    "OWNER_PERMISSIONS",
    "is_subset",
    "is_well_formed",
    "permits",
]

OWNER_PERMISSIONS: Final = {
    "TPM_KeyControlOwner": 31,
    "TPM_SetOrdinalAuditStatus": 30,
    "TPM_DirWriteAuth": 29,
    "TPM_CMK_ApproveMA": 28,
    "TPM_NV_WriteValue": 27,
    "TPM_CMK_CreateTicket": 26,
    "TPM_NV_ReadValue": 25,
    "TPM_Delegate_LoadOwnerDelegation": 24,
    "TPM_DAA_Join": 23,
    "TPM_AuthorizeMigrationKey": 22,
    "TPM_CreateMaintenanceArchive": 21,
    "TPM_LoadMaintenanceArchive": 20,
    "TPM_KillMaintenanceFeature": 19,
    "TPM_OwnerReadInternalPub": 18,
    "TPM_ResetLockValue": 17,
    "TPM_OwnerClear": 16,
    "TPM_DisableOwnerClear": 15,
    "TPM_NV_DefineSpace": 14,
    "TPM_OwnerSetDisable": 13,
    "TPM_SetCapability": 12,
    "TPM_MakeIdentity": 11,
    "TPM_ActivateIdentity": 10,
    "TPM_OwnerReadPubek": 9,
    "TPM_DisablePubekRead": 8,
    "TPM_SetRedirection": 7,
    "TPM_FieldUpgrade": 6,
    "TPM_Delegate_UpdateVerification": 5,
    "TPM_CreateCounter": 4,
    "TPM_ReleaseCounterOwner": 3,
    "TPM_Delegate_Manage": 2,
    "TPM_Delegate_CreateOwnerDelegation": 1,
    "TPM_DAA_Sign": 0,
}
"""Command to its bit in per1, for delegations of the owner. per2 is reserved."""

KEY_PERMISSIONS: Final = {
    "TPM_CMK_ConvertMigration": 28,
    "TPM_TickStampBlob": 27,
    "TPM_ChangeAuthAsymStart": 26,
    "TPM_ChangeAuthAsymFinish": 25,
    "TPM_CMK_CreateKey": 24,
    "TPM_MigrateKey": 23,
    "TPM_LoadKey2": 22,
    "TPM_EstablishTransport": 21,
    "TPM_ReleaseTransportSigned": 20,
    "TPM_Quote2": 19,
    "TPM_Sealx": 18,
    "TPM_MakeIdentity": 17,
    "TPM_ActivateIdentity": 16,
    "TPM_GetAuditDigestSigned": 15,
    "TPM_Sign": 14,
    "TPM_CertifyKey2": 13,
    "TPM_CertifyKey": 12,
    "TPM_CreateWrapKey": 11,
    "TPM_CMK_CreateBlob": 10,
    "TPM_CreateMigrationBlob": 9,
    "TPM_ConvertMigrationBlob": 8,
    "TPM_Delegate_CreateKeyDelegation": 7,
    "TPM_ChangeAuth": 6,
    "TPM_GetPubKey": 5,
    "TPM_UnBind": 4,
    "TPM_Quote": 3,
    "TPM_Unseal": 2,
    "TPM_Seal": 1,
    "TPM_LoadKey": 0,
}
"""Command to its bit in per1, for delegations of a key. per2 is reserved."""

_PERMISSIONS: Final[dict[int, dict[str, int]]] = {
    DelegateType.OWNER: OWNER_PERMISSIONS,
    DelegateType.KEY: KEY_PERMISSIONS,
}
_DEFINED: Final = {
    kind: sum(1 << bit for bit in bits.values()) for kind, bits in _PERMISSIONS.items()
}

CMK_DELEGATE_OF: Final[dict[int, CmkDelegate]] = {
    KeyUsage.SIGNING: CmkDelegate.SIGNING,
    KeyUsage.STORAGE: CmkDelegate.STORAGE,
    KeyUsage.BIND: CmkDelegate.BIND,
    KeyUsage.LEGACY: CmkDelegate.LEGACY,
    KeyUsage.MIGRATE: CmkDelegate.MIGRATE,
}
"""The restrictDelegate bit that lets a delegation use a certified migration key of that usage."""


def permits(delegations: Delegations, command: str) -> bool:
    """True if the command with that name in the specification is delegated."""
    bit = _PERMISSIONS[delegations.delegate_type].get(command)
    return bit is not None and bool(delegations.per1 >> bit & 1)


def is_well_formed(delegations: Delegations) -> bool:
    """True if no reserved bit is set."""
    return not (delegations.per1 & ~_DEFINED[delegations.delegate_type] or delegations.per2)


def is_subset(granted: Delegations, held: Delegations) -> bool:
    """True if `granted` permits nothing that `held`, which is of the same type, does not."""
    return not (granted.per1 & ~held.per1 or granted.per2 & ~held.per2)
