"""Sessions that wrap, leave and stand in: transport, saved contexts, delegation, DAA."""

from __future__ import annotations

from typing import Final

from benchmarks.benchmark import of
from benchmarks.patient import OWNER, Patient
from hwtpm.client import keys
from hwtpm.tpm12.commands.context import LoadContext, SaveContext
from hwtpm.tpm12.commands.daa import DaaJoin
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.const import ResourceType

__all__ = ["ROWS"]

_LABEL: Final = bytes(16)
_FIRST_STAGE: Final = (1).to_bytes(4, "big")


def execute_transport(on: Patient) -> None:
    on.encrypted.tpm.execute(PcrRead(0))


def session_context(on: Patient) -> None:
    handle = on.tpm.oiap(OWNER).handle
    saved = on.tpm.execute(SaveContext(handle, ResourceType.AUTH, _LABEL)).context_blob
    loaded = on.tpm.execute(LoadContext(0, False, saved)).handle
    keys.flush(on.tpm, loaded, ResourceType.AUTH)


def key_context(on: Patient) -> None:
    handle = on.authority.handle
    saved = on.tpm.execute(SaveContext(handle, ResourceType.KEY, _LABEL)).context_blob
    loaded = on.tpm.execute(LoadContext(0, False, saved)).handle
    keys.flush(on.tpm, loaded)


def delegate(on: Patient) -> None:
    on.delegate()


def dsap(on: Patient) -> None:
    on.dsap().flush()


def daa_join(on: Patient) -> None:
    reply = on.tpm.execute_with(DaaJoin(0, 0, _FIRST_STAGE, b""), OWNER)
    keys.flush(on.tpm, int.from_bytes(reply.output_data, "big"), ResourceType.DAA_TPM)


_CONTEXT: Final = ("SaveContext", "LoadContext")
ROWS: Final = (
    of(execute_transport, "ExecuteTransport", name="ExecuteTransport, PcrRead", times=50),
    of(session_context, *_CONTEXT, name="SaveContext + LoadContext, session", times=20),
    of(key_context, *_CONTEXT, name="SaveContext + LoadContext, key", times=20),
    of(delegate, "Delegate_CreateOwnerDelegation", times=20),
    of(dsap, "DSAP", "FlushSpecific", times=20),
    of(daa_join, "DAA_Join", name="DAA_Join, stage 0", times=20),
)
