"""Our own software TPM 1.2."""

from hwtpm.softtpm.engine.tpm import Engine

__all__ = ["Engine"]
