"""Transport sessions (TPM Main, Version 1.2, Revision 116, Part 3, section 24)."""

from __future__ import annotations

from hwtpm.tpm12.table import Duration, Rule, declare

declare(0xE6, "TPM_EstablishTransport", "24.1", Duration.MEDIUM, (0, 1), Rule.PCR_ENFORCED)

declare(0xE7, "TPM_ExecuteTransport", "24.2", Duration.LONG, (1,))

declare(0xE8, "TPM_ReleaseTransportSigned", "24.3", Duration.MEDIUM, (1, 2), Rule.PCR_ENFORCED)
