"""The vTPM manager: keeps the secrets of all vTPMs of a host under one TPM chip."""
