"""The options that every command on a TPM has, and the job that opens the TPM they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Parameter

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Origin
from hwtpm.client import Tpm
from hwtpm.errors import DeviceNotFound, TpmError, Unsupported
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm20.commands import Execute, answers_as_tpm2
from hwtpm.transport import open_transport
from hwtpm.transport.address import schemes_text
from hwtpm.transport.base import Transport
from hwtpm.transport.retry import Retry
from hwtpm.transport.trace import Trace

__all__ = ["DEFAULT", "Common", "Named", "named", "on_tpm"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Options of all commands on a TPM."""

    on: Annotated[str | None, Parameter(env_var="HWTPM_ON")] = None
    """Address of the TPM, such as dev:/dev/tpm0 or sim:; nothing is chosen for you."""

    json: Annotated[bool, Parameter(negative=())] = False
    """Print versioned JSON instead of text, errors included."""

    trace: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Append the traffic, secrets masked, to this file; - is stderr."""

    def open(self, origin: Origin, locality: int = 0) -> Transport:
        """The TPM that was named, noted in `origin`; its traffic goes to the trace.

        Raises:
            DeviceNotFound: none was named; and as `open_transport`.
        """
        origin.address = named(self.on)
        transport = Trace(open_transport(origin.address, locality=locality))
        origin.attached = transport.attached
        return transport


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Common(Named):
    """Options of the commands that do something on a TPM."""

    locality: int = 0
    """Locality to send from, where the transport has any."""


DEFAULT: Final = Common()


def named(on: str | None) -> str:
    """The address that was given.

    Raises:
        DeviceNotFound: none was.
    """
    if not on:
        raise DeviceNotFound(
            "no TPM is named",
            hint=f"name one with --on or in HWTPM_ON, as one of\n{schemes_text()}",
        )
    return on


def on_tpm(
    schema: str,
    common: Common,
    operation: Callable[[Tpm], Answer],
    on_tpm2: Callable[[Execute], Answer],
) -> Job:
    """The job to open the TPM and do `operation` on it, or `on_tpm2` if it is a TPM 2.0.

    It is asked as a TPM 1.2 first. A TPM 2.0 refuses the tag, with an answer of either family.
    """

    def work(origin: Origin) -> Answer:
        transport = Retry(common.open(origin, common.locality))
        with Tpm(transport) as tpm:
            try:
                return operation(tpm)
            except (TpmError, Unsupported) as error:
                if isinstance(error, TpmError) and error.rc != Rc.BADTAG:
                    raise
                if not answers_as_tpm2(transport.execute):
                    raise
            return on_tpm2(transport.execute)

    return Job(schema, work, as_json=common.json, trace=common.trace)
