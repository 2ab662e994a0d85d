"""One TPM chip: reach it, drive it, play it. Knows nothing of the virtual TPM stack above it."""
