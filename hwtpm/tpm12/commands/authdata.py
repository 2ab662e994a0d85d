"""Changing AuthData (TPM Main, Version 1.2, Revision 116, Part 3, section 17)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, Rule, declare

declare(0x0C, "TPM_ChangeAuth", "17.1", Duration.MEDIUM, (2,), Rule.PCR_ENFORCED)

declare(0x10, "TPM_ChangeAuthOwner", "17.2", Duration.SHORT, (1,), Rule.PCR_ENFORCED | Rule.AUDITED)
