"""The ESAPI on a transport, and what is owed to a chip before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from tpm2_pytss import ESAPI, TSS2_Exception

from hwtpm.errors import HwtpmError
from hwtpm.tpm2.tcti import TransportTcti, error_of
from hwtpm.tpm20 import commands
from hwtpm.tpm20.const import StartupType
from hwtpm.transport.base import Transport
from hwtpm.transport.retry import Retry
from hwtpm.transport.tidy import Tidy

__all__ = ["esapi_on"]


@contextmanager
def esapi_on(transport: Transport, *, close: bool = False) -> Iterator[ESAPI]:
    """The ESAPI on a transport; `close` closes that in the end.

    A TPM that nobody has started gets TPM2_Startup(CLEAR), and TPM2_Shutdown(CLEAR) in the end; one
    that firmware has started is left running. Transient objects and sessions that were opened here
    and are left open in the end are flushed. What the TPM wants to see again is sent again, for a
    minute at most.

    What leaves the block as `TSS2_Exception` becomes an error of ours with that as its cause:
    `TpmError` for what the TPM refused, otherwise what happened on the way to it.
    """
    with ExitStack() as stack:
        if close:
            stack.callback(transport.close)
        tidy = Tidy(Retry(transport))
        if commands.startup(tidy.execute, StartupType.CLEAR):
            stack.callback(_quietly(lambda: commands.shutdown(tidy.execute, StartupType.CLEAR)))
        stack.callback(_quietly(tidy.tidy))
        tcti = TransportTcti(tidy)
        stack.callback(tcti.finalize)
        try:
            with ESAPI(tcti) as esapi:
                yield esapi
        except TSS2_Exception as error:
            raise error_of(error, tcti) from error


def _quietly(action: Callable[[], object]) -> Callable[[], None]:
    """A link that fails on the way out must not hide why we leave."""

    def quiet() -> None:
        with suppress(HwtpmError):
            action()

    return quiet
