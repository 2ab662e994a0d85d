"""One virtual TPM: a software TPM whose state only its manager can open."""
