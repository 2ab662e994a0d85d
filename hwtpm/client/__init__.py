"""Typed TPM 1.2 operations, one subject per module; every function takes a `Tpm` first."""

from hwtpm.client.session import AuthSession, Tpm

__all__ = ["AuthSession", "Tpm"]
