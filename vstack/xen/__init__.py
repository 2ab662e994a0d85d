"""Xen side of the stack: the tpmif ring, and the platforms that carry it."""
