"""Maintenance functions (TPM Main, Version 1.2, Revision 116, Part 3, section 12)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, Rule, declare

declare(
    0x2C, "TPM_CreateMaintenanceArchive", "12.1", Duration.SHORT, (1,), Rule.OPTIONAL | Rule.AUDITED
)

declare(
    0x2D, "TPM_LoadMaintenanceArchive", "12.2", Duration.SHORT, (1,), Rule.OPTIONAL | Rule.AUDITED
)

declare(
    0x2E, "TPM_KillMaintenanceFeature", "12.3", Duration.SHORT, (1,), Rule.OPTIONAL | Rule.AUDITED
)

declare(
    0x2F,
    "TPM_LoadManuMaintPub",
    "12.4",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.AUDITED,
)

declare(
    0x30,
    "TPM_ReadManuMaintPub",
    "12.5",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.AUDITED,
)
