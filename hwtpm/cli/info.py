"""`hwtpm info`."""

from __future__ import annotations

from dataclasses import fields

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Table
from hwtpm.cli.target import DEFAULT, Common, on_tpm
from hwtpm.client import Tpm
from hwtpm.client.info import DaState, Info, Timing
from hwtpm.client.info import info as read_info
from hwtpm.tpm12.types import PermanentFlags, StclearFlags
from hwtpm.tpm20.commands import Execute
from hwtpm.tpm20.commands import Info as Info2
from hwtpm.tpm20.commands import info as read_info2

__all__ = ["info"]


def info(*, common: Common = DEFAULT) -> Job:
    """Show what a TPM is, what it can do and how it is set; changes nothing."""

    def operation(tpm: Tpm) -> Answer:
        what = read_info(tpm)
        return Answer(
            what,
            (
                Table(_rows(what)),
                Table(_flags(what.permanent), ("permanent flag", "set")),
                Table(_flags(what.stclear), ("flag until the next start", "set")),
            ),
        )

    def on_tpm2(execute: Execute) -> Answer:
        what = read_info2(execute)
        return Answer(what, (Table(_rows2(what)),), schema="hwtpm.info2/1")

    return on_tpm("hwtpm.info/1", common, operation, on_tpm2)


def _rows(what: Info) -> list[tuple[str, str]]:
    spec = f"{what.spec_version} level {what.spec_level} errata {what.errata}"
    limits = what.limits
    return [
        ("manufacturer", what.manufacturer),
        ("specification", spec),
        ("firmware", what.firmware),
        ("state", f"{_word(what.enabled, 'enabled', 'disabled')}, {_active(what)}"),
        ("owner", "yes" if what.owned else "none"),
        ("endorsement key", _maybe(what.has_endorsement_key)),
        ("lockout", _lockout(what.da)),
        ("PCRs", _number(limits.pcrs)),
        ("key slots", _free(limits.key_slots_free, limits.key_slots)),
        ("sessions", _free(limits.sessions_free, limits.sessions)),
        ("NV bytes free", _number(limits.nv_bytes_free)),
        ("input buffer", _number(limits.input_buffer)),
        ("timeouts A-D", _timeouts(what.timing)),
        ("durations", _durations(what.timing)),
    ]


def _rows2(what: Info2) -> list[tuple[str, str]]:
    def room(free: int | None) -> str:
        return f"room for {_number(free)} more"

    failures = f"{_number(what.lockout_counter)} failures of {_number(what.max_auth_fail)}"
    return [
        ("family", what.family),
        ("manufacturer", f"{what.manufacturer} {what.vendor}".rstrip()),
        ("specification", f"level {_number(what.level)} revision {what.revision}"),
        ("firmware", what.firmware),
        ("lockout", f"{_word(what.locked_out, 'LOCKED OUT', 'no')}, {failures}"),
        ("PCRs", f"{_number(what.pcrs)}, banks {' '.join(what.pcr_banks) or 'none'}"),
        ("objects", room(what.transient_free)),
        ("sessions", room(what.sessions_free)),
        ("persistent keys", f"{_number(what.persistent)}, {room(what.persistent_free)}"),
        (
            "NV indices",
            f"{_number(what.nv_indices)}, up to {_number(what.nv_index_max)} bytes",
        ),
        ("input buffer", _number(what.input_buffer)),
    ]


def _flags(flags: PermanentFlags | StclearFlags) -> list[tuple[str, str]]:
    return [(field.name, _word(getattr(flags, field.name), "yes", "no")) for field in fields(flags)]


def _active(what: Info) -> str:
    return _word(what.active, "active", "deactivated")


def _word(condition: bool, yes: str, no: str) -> str:
    return yes if condition else no


def _maybe(value: bool | None) -> str:
    return "not told" if value is None else _word(value, "yes", "none")


def _number(value: int | None) -> str:
    return "not told" if value is None else str(value)


def _free(free: int | None, total: int | None) -> str:
    return f"{_number(free)} free of {_number(total)}"


def _lockout(da: DaState | None) -> str:
    if da is None:
        return "not told"
    counts = "" if da.failures is None else f", {da.failures} failures of {da.threshold}"
    return _word(da.locked_out, "LOCKED OUT", "no") + counts


def _timeouts(timing: Timing | None) -> str:
    if timing is None:
        return "not told"
    return f"{timing.a_us} / {timing.b_us} / {timing.c_us} / {timing.d_us} us"


def _durations(timing: Timing | None) -> str:
    if timing is None:
        return "not told"
    return f"short {timing.short_us}, medium {timing.medium_us}, long {timing.long_us} us"
