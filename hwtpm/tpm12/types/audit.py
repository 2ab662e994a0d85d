"""Structures of auditing (TPM Main, Version 1.2, Revision 116, Part 2, section 14)."""

from __future__ import annotations

from hwtpm.tpm12.const import Tag
from hwtpm.tpm12.types import CounterValue, Digest
from hwtpm.wire import Struct, structure

__all__ = ["AuditEventIn", "AuditEventOut"]


@structure("TPM_AUDIT_EVENT_IN", ref="Part 2, 14.1", head=Tag.AUDIT_EVENT_IN.to_bytes(2, "big"))
class AuditEventIn(Struct):
    """What the audit digest takes of a request."""

    input_parms: Digest
    audit_count: CounterValue


@structure("TPM_AUDIT_EVENT_OUT", ref="Part 2, 14.2", head=Tag.AUDIT_EVENT_OUT.to_bytes(2, "big"))
class AuditEventOut(Struct):
    """What the audit digest takes of a response."""

    output_parms: Digest
    audit_count: CounterValue
