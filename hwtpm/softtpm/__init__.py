"""Pluggable software TPM 1.2: our own engine (the embedded default), libtpms and swtpm."""
