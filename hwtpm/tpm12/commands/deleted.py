"""Deleted commands (TPM Main, Version 1.2, Revision 116, Part 3, section 28)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, Rule, declare

declare(
    0x64,
    "TPM_GetCapabilitySigned",
    "28.1",
    Duration.MEDIUM,
    (0, 1),
    Rule.DELETED | Rule.PCR_ENFORCED,
)

declare(
    0x8C,
    "TPM_GetOrdinalAuditStatus",
    "28.2",
    Duration.SHORT,
    (0,),
    Rule.DELETED | Rule.NEVER_AUDITED,
)

declare(
    0x52, "TPM_CertifySelfTest", "28.3", Duration.MEDIUM, (0, 1), Rule.DELETED | Rule.PCR_ENFORCED
)

declare(
    0x82,
    "TPM_GetAuditEvent",
    "28.4",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.DELETED | Rule.NEVER_AUDITED,
)

declare(
    0x83,
    "TPM_GetAuditEventSigned",
    "28.5",
    Duration.MEDIUM,
    (0, 1),
    Rule.OPTIONAL | Rule.DELETED | Rule.NEVER_AUDITED,
)
