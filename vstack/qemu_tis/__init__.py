"""QEMU side of the stack: the TIS device, and the control channel for an unmodified QEMU."""
