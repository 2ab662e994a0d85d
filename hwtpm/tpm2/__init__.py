"""TPM 2.0 chips through tpm2-pytss: its ESAPI over any transport of ours.

tpm2-pytss compiles against the system's tpm2-tss, so it may be missing: everything else of hwtpm
works without it, `hwtpm tcti` and the TPM 2.0 side of the other commands among it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from hwtpm.errors import Unsupported
from hwtpm.transport import Deadlines, Transport, open_transport

if TYPE_CHECKING:
    from tpm2_pytss import ESAPI

    from hwtpm.tpm2.tcti import TransportTcti

__all__ = ["esapi_on", "open_esapi", "tcti_on"]


def open_esapi(
    address: str, *, locality: int = 0, deadlines: Deadlines | None = None
) -> AbstractContextManager[ESAPI]:
    """The ESAPI on the TPM 2.0 that `address` names; leaving the context closes the transport.

    Otherwise as `esapi_on`.

    Raises:
        Unsupported: tpm2-pytss is not installed; and as `hwtpm.transport.open_transport`.
    """
    _require_pytss()
    from hwtpm.tpm2.esapi import esapi_on as make

    return make(open_transport(address, locality=locality, deadlines=deadlines), close=True)


def esapi_on(transport: Transport) -> AbstractContextManager[ESAPI]:
    """The ESAPI on an open transport, which stays open; see `hwtpm.tpm2.esapi.esapi_on`.

    Raises:
        Unsupported: tpm2-pytss is not installed.
    """
    _require_pytss()
    from hwtpm.tpm2.esapi import esapi_on as make

    return make(transport)


def tcti_on(transport: Transport) -> TransportTcti:
    """The TCTI for any use of tpm2-pytss; see `hwtpm.tpm2.tcti.TransportTcti`.

    Raises:
        Unsupported: tpm2-pytss is not installed.
    """
    _require_pytss()
    from hwtpm.tpm2.tcti import TransportTcti as Tcti

    return Tcti(transport)


def _require_pytss() -> None:
    try:
        import tpm2_pytss  # noqa: F401
    except ImportError as error:
        raise Unsupported(
            f"the ESAPI needs tpm2-pytss, which cannot be imported: {error}",
            hint="install the Debian package libtss2-dev, then `pip install 'hwtpm[tpm2]'`",
        ) from error
