"""The options that every command on a TPM has, and the job that opens the TPM they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Parameter

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Origin
from hwtpm.client import Tpm
from hwtpm.errors import DeviceNotFound
from hwtpm.transport import open_transport
from hwtpm.transport.address import schemes_text
from hwtpm.transport.retry import Retry
from hwtpm.transport.trace import Trace

__all__ = ["DEFAULT", "Common", "on_tpm"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """Options of all commands."""

    on: Annotated[str | None, Parameter(env_var="HWTPM_ON")] = None
    """Address of the TPM, such as dev:/dev/tpm0 or sim:; nothing is chosen for you."""

    locality: int = 0
    """Locality to send from, where the transport has any."""

    json: Annotated[bool, Parameter(negative=())] = False
    """Print versioned JSON instead of text, errors included."""

    trace: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Append the traffic, secrets masked, to this file; - is stderr."""


DEFAULT: Final = Common()


def on_tpm(schema: str, common: Common, operation: Callable[[Tpm], Answer]) -> Job:
    """The job to open the TPM and do `operation` on it."""

    def work(origin: Origin) -> Answer:
        if not common.on:
            raise DeviceNotFound(
                "no TPM is named",
                hint=f"name one with --on or in HWTPM_ON, as one of\n{schemes_text()}",
            )
        origin.address = common.on
        transport = open_transport(common.on, locality=common.locality)
        with Tpm(Retry(Trace(transport))) as tpm:
            origin.attached = tpm.attached
            return operation(tpm)

    return Job(schema, work, as_json=common.json, trace=common.trace)
