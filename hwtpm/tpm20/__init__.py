"""The TPM 2.0 language as far as this project speaks it itself.

That is what starting, naming and looking after a chip takes: codes, frames, times and a dozen
commands. Everything else is tpm2-pytss' trade, which `hwtpm.tpm2` brings to our transports.
"""
