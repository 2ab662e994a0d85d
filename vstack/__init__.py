"""The virtual TPM stack: many virtual TPMs rooted in one chip. Imports hwtpm, never the reverse."""
