"""Session management (TPM Main, Version 1.2, Revision 116, Part 3, section 21)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, declare

declare(0x23, "TPM_KeyControlOwner", "21.1", Duration.SHORT, (1,))

declare(0xB8, "TPM_SaveContext", "21.2", Duration.MEDIUM, (0,))

declare(0xB9, "TPM_LoadContext", "21.3", Duration.MEDIUM, (0,))
