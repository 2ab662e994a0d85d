"""Delegation commands (TPM Main, Version 1.2, Revision 116, Part 3, section 19)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, Rule, declare

declare(0xD2, "TPM_Delegate_Manage", "19.1", Duration.MEDIUM, (0, 1), Rule.NO_OWNER)

declare(0xD4, "TPM_Delegate_CreateKeyDelegation", "19.2", Duration.MEDIUM, (1,))

declare(0xD5, "TPM_Delegate_CreateOwnerDelegation", "19.3", Duration.MEDIUM, (1,))

declare(0xD8, "TPM_Delegate_LoadOwnerDelegation", "19.4", Duration.MEDIUM, (0, 1), Rule.NO_OWNER)

declare(0xDB, "TPM_Delegate_ReadTable", "19.5", Duration.SHORT, (0,), Rule.NO_OWNER)

declare(0xD1, "TPM_Delegate_UpdateVerification", "19.6", Duration.SHORT, (1,))

declare(0xD6, "TPM_Delegate_VerifyDelegation", "19.7", Duration.MEDIUM, (0,))
