"""DAA commands (TPM Main, Version 1.2, Revision 116, Part 3, section 26)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, Rule, declare

declare(0x29, "TPM_DAA_Join", "26.1", Duration.LONG, (1,), Rule.OPTIONAL)

declare(0x31, "TPM_DAA_Sign", "26.2", Duration.LONG, (1,), Rule.OPTIONAL)
