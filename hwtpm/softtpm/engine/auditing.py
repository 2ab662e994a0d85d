"""The audit digest (Part 3 section 8.1).

Auditing is hashing in memory, and what it changes is stored with what the command changed, at
once. So it cannot fail on its own, with the one exception of a counter that is at its end.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hwtpm.softtpm.engine.call import Refuse
from hwtpm.softtpm.engine.state import ZERO_DIGEST, Permanent
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import CounterValue
from hwtpm.tpm12.types.audit import AuditEventIn, AuditEventOut

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.tpm import Engine

__all__ = ["audit_count", "record"]

_LAST_COUNT: Final = 0xFFFFFFFF
_LABEL: Final = bytes(4)


def audit_count(permanent: Permanent) -> CounterValue:
    """auditMonotonicCounter."""
    return CounterValue(_LABEL, permanent.audit_counter)


def record(tpm: Engine, in_digest: bytes, out_digest: bytes = b"") -> None:
    """Extend the audit digest by a command that succeeds; without `out_digest` by its request only.

    Raises:
        Refuse: AUDITFAIL_UNSUCCESSFUL, and the TPM is in failure mode: the counter is at its end.
            The command is undone like any that is refused, so it did not succeed (8.2).
    """
    digest = tpm.volatile.audit_digest
    if digest == ZERO_DIGEST:
        counter = tpm.permanent.audit_counter
        if counter == _LAST_COUNT:
            tpm.enter_failure_mode("the audit counter is at its end")
            raise Refuse(Rc.AUDITFAIL_UNSUCCESSFUL)
        tpm.permanent = replace(tpm.permanent, audit_counter=counter + 1)
    count = audit_count(tpm.permanent)
    digest = hashlib.sha1(digest + AuditEventIn(in_digest, count).encode()).digest()
    if out_digest:
        digest = hashlib.sha1(digest + AuditEventOut(out_digest, count).encode()).digest()
    tpm.stclear = replace(tpm.volatile, audit_digest=digest)
