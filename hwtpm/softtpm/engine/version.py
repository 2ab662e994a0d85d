"""What this TPM says it is."""

from __future__ import annotations

from typing import Final

from hwtpm.tpm12.types import CapVersionInfo, Version

__all__ = ["MANUFACTURER", "version_info"]

MANUFACTURER: Final = b"HWTP"
_FIRMWARE: Final = (0, 1)


def version_info() -> CapVersionInfo:
    """TPM_CAP_VERSION_INFO: TPM 1.2, specification level 2, errata revision 3 (revision 116)."""
    return CapVersionInfo(Version(1, 2, *_FIRMWARE), 2, 3, MANUFACTURER, b"")
