"""DAA sessions inside the TPM (Part 2 sections 22.3 to 22.7; Part 3 section 26)."""

from __future__ import annotations

from typing import Annotated, Final

from hwtpm.tpm12.types import U8, U32, Bool, Digest
from hwtpm.tpm12.types.daa import DaaIssuer, DaaTpm
from hwtpm.wire import Blob, Fixed, SizedNested, Struct, structure

__all__ = ["MAX_DAA_SESSIONS", "DaaSession"]

MAX_DAA_SESSIONS: Final = 2


@structure("DAA session", ref="Part 2, 22.7")
class DaaSession(Struct):
    """A join or sign under way, between two of its stages; every stage makes a new value.

    It holds TPM_DAA_ISSUER, TPM_DAA_TPM, TPM_DAA_CONTEXT and TPM_DAA_JOINDATA. `issuer` is None
    until the issuer's settings have come; `scratch` is empty where the specification says NULL.
    DAA_digestContext is left out: it tells whether the other fields were changed between two
    stages, and nothing changes an immutable value.
    """

    handle: U32
    joins: Bool  # TPM_DAA_Join made it, else TPM_DAA_Sign
    stage: U8  # the stage that comes next
    issuer: Annotated[DaaIssuer | None, SizedNested(DaaIssuer)]
    tpm: DaaTpm
    digest: Digest  # the challenge c, once it is known
    context_seed: Annotated[bytes, Fixed("TPM_DAA_CONTEXT_SEED", 20, secret=True)]
    scratch: Annotated[bytes, Blob(256, secret=True)]
    join_u0: Annotated[bytes, Fixed("BYTE[128]", 128, secret=True)]
    join_u1: Annotated[bytes, Fixed("BYTE[138]", 138, secret=True)]
    digest_n0: Digest
