"""Auditing (TPM Main, Version 1.2, Revision 116, Part 3, section 8)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, Rule, declare

declare(
    0x85,
    "TPM_GetAuditDigest",
    "8.3",
    Duration.SHORT,
    (0,),
    Rule.OPTIONAL | Rule.NO_OWNER | Rule.NEVER_AUDITED,
)

declare(
    0x86,
    "TPM_GetAuditDigestSigned",
    "8.4",
    Duration.MEDIUM,
    (0, 1),
    Rule.OPTIONAL | Rule.NEVER_AUDITED,
)

declare(
    0x8D, "TPM_SetOrdinalAuditStatus", "8.5", Duration.SHORT, (1,), Rule.OPTIONAL | Rule.AUDITED
)
