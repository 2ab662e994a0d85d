"""The form of a difference that has a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fuzz_sides import Plan

__all__ = ["Known", "damaged"]


def _always(plan: Plan) -> bool:
    return True


def damaged(plan: Plan) -> bool:
    return plan.damage is not None


@dataclass(frozen=True)
class Known:
    """Return codes of ours and libtpms' for some commands ("*": any), and why.

    `when` looks at the command: a row is for what it says and for nothing else.
    """

    commands: str
    ours: Iterable[int]
    theirs: Iterable[int]
    why: str
    when: Callable[[Plan], bool] = _always

    def explains(self, plan: Plan, ours: int, theirs: int) -> bool:
        return (
            ours in self.ours
            and theirs in self.theirs
            and (self.commands == "*" or plan.row.name in self.commands.split())
            and self.when(plan)
        )
