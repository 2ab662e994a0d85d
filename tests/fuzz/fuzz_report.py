"""Whether two answers differ, and what a run of the fuzzer says about it in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fuzz_differences import COMPARABLE, OPAQUE, of_any_size
from fuzz_differences_sessions import ENDS_OSAP
from fuzz_sides import Answer, Plan

from hwtpm.tpm12.frame import error_response
from hwtpm.tpm12.rc import Rc

__all__ = ["Difference", "Report", "differing_field", "told"]


@dataclass(frozen=True)
class Difference:
    """An answer that no row of the table explains: the first of its kind."""

    episode: int
    what: str
    before: str


@dataclass
class Report:
    """What a run did."""

    commands: int = 0
    episodes: int = 0
    succeeded: Counter[str] = field(default_factory=Counter)
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    differences: dict[str, Difference] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reached = len({name for name, _ in self.answered})
        lines = [
            f"{self.commands} commands in {self.episodes} episodes",
            f"{reached} ordinals, {len(self.succeeded)} of them with success",
            f"{len({rc for _, rc in self.answered})} return codes",
            *(f"explained {count} times: {why}" for why, count in self.explained.most_common()),
            *(
                f"UNEXPLAINED {self.seen[kind]} times: {kind}; episode {one.episode}: {one.what}\n"
                f"    after {one.before}"
                for kind, one in self.differences.items()
            ),
        ]
        return "\n".join(lines)


def differing_field(plan: Plan, ours: Answer, theirs: Answer) -> str | None:
    """Where two answers with the same return code differ, None if they do not."""
    name = plan.row.name
    if ours.rc:
        if ours.raw != error_response(ours.rc) and plan.through is None:
            return "error response"
        # Its answers to what is no command of its own repeat the request's tag, plus 3.
        same = ours.raw == theirs.raw or (
            ours.rc == Rc.BAD_ORDINAL and ours.raw[2:] == theirs.raw[2:]
        )
        return None if same else "error response"
    free = of_any_size(plan)
    if ours.raw[:2] != theirs.raw[:2] or not (free or len(ours.raw) == len(theirs.raw)):
        return "tag or size"
    if ours.reply is None or theirs.reply is None:
        return None
    sessions = 0 if name in ENDS_OSAP else len(plan.auths)
    if ours.continued(sessions) != theirs.continued(sessions):
        return "continueAuthSession"
    if free:
        return None
    for field_name in ours.reply.layout.codecs:
        if (name, field_name) in OPAQUE:
            continue
        values = [getattr(answer.reply, field_name) for answer in (ours, theirs)]
        if (part := COMPARABLE.get((name, field_name))) is not None:
            values = [part(plan, value) for value in values]
        if values[0] != values[1]:
            return field_name
    return None


def told(plan: Plan, *answers: Answer | str) -> str:
    """The command and what was answered, for whoever looks into it."""
    fields = {name: "by side" if callable(v) else v for name, v in plan.fields.items()}
    damage = "damaged, " if plan.damage else ""
    command = f"locality {plan.locality}, {damage}{len(plan.auths)} sessions, {fields}"
    if not answers:
        return command
    ours, theirs, name = answers
    assert isinstance(ours, Answer)
    assert isinstance(theirs, Answer)
    values = [getattr(answer.reply, str(name), answer.raw.hex()) for answer in (ours, theirs)]
    return f"{values[0]!r}, libtpms {values[1]!r}; {command}"
