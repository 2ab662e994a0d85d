"""Migration (TPM Main, Version 1.2, Revision 116, Part 3, section 11)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, Rule, declare

declare(
    0x28,
    "TPM_CreateMigrationBlob",
    "11.1",
    Duration.MEDIUM,
    (1, 2),
    Rule.PCR_ENFORCED | Rule.AUDITED,
)

declare(
    0x2A,
    "TPM_ConvertMigrationBlob",
    "11.2",
    Duration.MEDIUM,
    (0, 1),
    Rule.PCR_ENFORCED | Rule.AUDITED,
)

declare(0x2B, "TPM_AuthorizeMigrationKey", "11.3", Duration.SHORT, (1,), Rule.AUDITED)

declare(0x25, "TPM_MigrateKey", "11.4", Duration.MEDIUM, (0, 1), Rule.PCR_ENFORCED)

declare(0x1C, "TPM_CMK_SetRestrictions", "11.5", Duration.SHORT, (1,), Rule.OPTIONAL)

declare(0x1D, "TPM_CMK_ApproveMA", "11.6", Duration.SHORT, (1,), Rule.OPTIONAL)

declare(0x13, "TPM_CMK_CreateKey", "11.7", Duration.LONG, (1,), Rule.OPTIONAL | Rule.PCR_ENFORCED)

declare(0x12, "TPM_CMK_CreateTicket", "11.8", Duration.MEDIUM, (1,), Rule.OPTIONAL)

declare(
    0x1B, "TPM_CMK_CreateBlob", "11.9", Duration.MEDIUM, (1,), Rule.OPTIONAL | Rule.PCR_ENFORCED
)

declare(
    0x24,
    "TPM_CMK_ConvertMigration",
    "11.10",
    Duration.MEDIUM,
    (1,),
    Rule.OPTIONAL | Rule.PCR_ENFORCED,
)
