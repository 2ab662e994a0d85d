"""Lives that end at a chosen write, and what the next one may find.

A life is a forked process that opens a subject, says what it finds, changes it, and says so before
and after each change. Wherever it was killed, the next life must open the subject without help and
find what was acknowledged, with the change in flight either made or not.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import shutil
import signal
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from hwtpm.errors import HwtpmError

__all__ = [
    "Belief",
    "Change",
    "Journal",
    "Run",
    "Scenario",
    "Shim",
    "State",
    "Subject",
    "fail_writes",
    "kill_lives",
]

State = dict[str, str]
"""What is kept, by name; what is not there has no entry."""

Run = Callable[[str, str, int, int], dict[str, str]]
"""What the tests call: `crash_harness.py WHAT SCENARIO SEED COUNT`, and what it reports."""

_CHANGES_OF_A_LIFE: Final = 5


@dataclass(frozen=True)
class Change:
    """A change to come: it makes `name` be `value`, or nothing (None)."""

    name: str
    value: str | None
    make: Callable[[], object]

    def of(self, state: State) -> State:
        """The state after it."""
        rest = {name: value for name, value in state.items() if name != self.name}
        return rest if self.value is None else rest | {self.name: self.value}


class Subject(Protocol):
    """Something open that keeps a state."""

    def read(self) -> State: ...

    def next_change(self, state: State, rng: random.Random) -> Change: ...

    def verify(self) -> None:
        """Check more than what `read` tells; may change other things."""


class Scenario(Protocol):
    """How to make and open subjects.

    Attributes:
        lives: how many lives in a row are killed before one may end well on a new directory.
    """

    lives: int

    def prepare(self, template: Path) -> None:
        """Fill an empty directory with what each new subject starts from."""

    def open(self, directory: Path) -> AbstractContextManager[Subject]: ...


class Shim:
    """What preload.c exports; see there."""

    KILLS: Final = (1, 2, 3)
    FAILS: Final = (4, 5)

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._arm, self._calls = library.crash_arm, library.crash_calls
        self._arm.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int)
        self._calls.restype = ctypes.c_long

    def arm(self, countdown: int, mode: int, error: int = 0) -> None:
        self._arm(countdown, mode, error)

    def calls(self) -> int:
        return int(self._calls())


class Journal:
    """What a life says, on a pipe: it reaches the other side even if the next step is the last."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, kind: str, what: object = None) -> None:
        os.write(self._fd, json.dumps([kind, what]).encode() + b"\n")


@dataclass
class Belief:
    """What may be found. None: anything, for nobody has looked yet."""

    states: list[State] | None = None
    problems: list[str] = field(default_factory=list)
    last: str = ""

    def hear(self, kind: str, what: object) -> None:
        match kind, what:
            case "found", dict():
                if self.states is not None and what not in self.states:
                    self.problems.append(
                        f"found {what}, expected one of {self.states}, after {self.last}"
                    )
                self.states = [what]
            case "tries", [str(name), value]:
                assert self.states is not None
                assert value is None or isinstance(value, str)
                self.states.append(Change(name, value, lambda: None).of(self.states[0]))
            case "begins", dict():
                self.states = [what]
            case "done", _:
                assert self.states is not None
                self.states = self.states[-1:]
                self.last = f"acknowledged {what}"
            case "refused", _:
                assert self.states is not None
                self.states = self.states[:1]
                self.last = f"refused {what}"
            case "problem", _:
                self.problems.append(str(what))


@dataclass
class _Life:
    """One forked process: how it ended and what it said at its end."""

    killed: bool = False
    calls: int = 0
    failures: int = 0


def kill_lives(scenario: Scenario, directory: Path, seed: int, kills: int) -> State:
    """Kill that many lives of a scenario at random writes.

    Returns:
        `kills` that happened, `lives` that were begun; and `problem` if one came up, with the place
        of the kill before it.
    """
    rng = random.Random(seed)
    template = directory / "template"
    template.mkdir()
    scenario.prepare(template)
    killed = lives = subjects = most_calls = 0
    told = "nothing was killed before"
    while killed < kills:
        subjects += 1
        where = directory / str(subjects)
        shutil.copytree(template, where)
        belief = Belief()
        # The last life of a subject ends well; so does the very first, which tells how many writes
        # there are.
        for left in reversed(range(scenario.lives + 1 if most_calls else 1)):
            lives += 1
            armed = left > 0 and killed < kills
            place = (rng.randint(1, most_calls), rng.choice(Shim.KILLS)) if armed else None
            life = _live(partial(_work, scenario, where, place), rng.random(), belief)
            if belief.problems:
                problem = f"life {lives} in {where}; before: {told}\n" + "\n".join(belief.problems)
                return {"problem": problem}
            killed += life.killed
            most_calls = max(most_calls, life.calls)
            if life.killed:
                told = f"call and mode {place}"
            if not armed:
                break
        shutil.rmtree(where)
    return {"kills": str(killed), "lives": str(lives)}


def _work(
    scenario: Scenario,
    directory: Path,
    place: tuple[int, int] | None,
    rng: random.Random,
    journal: Journal,
) -> None:
    """A life to its end, or to the place where it is killed."""
    shim = Shim()
    shim.arm(*(place or (0, 0)))
    with scenario.open(directory) as subject:
        _change(subject, rng, journal)
        if place is None:
            subject.verify()
    journal.say("calls", shim.calls())


def _live(work: Callable[[random.Random, Journal], None], seed: float, belief: Belief) -> _Life:
    """Have a forked process work; when it ends, nothing is closed or flushed."""
    heard, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(heard)
        journal = Journal(said)
        try:
            work(random.Random(seed), journal)
        except BaseException:
            journal.say("problem", traceback.format_exc())
        finally:
            os._exit(0)
    os.close(said)
    life = _Life()
    with os.fdopen(heard, "rb") as lines:
        for line in lines:
            kind, what = json.loads(line)
            belief.hear(kind, what)
            if kind == "calls":
                life.calls = what
            elif kind == "failed":
                life.failures += 1
    _, status = os.waitpid(pid, 0)
    life.killed = os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return life


def _change(subject: Subject, rng: random.Random, journal: Journal) -> None:
    state = subject.read()
    journal.say("found", state)
    for _ in range(_CHANGES_OF_A_LIFE):
        change = subject.next_change(state, rng)
        journal.say("tries", [change.name, change.value])
        change.make()
        journal.say("done")
        state = change.of(state)


def fail_writes(scenario: Scenario, directory: Path, seed: int, failures: int) -> State:
    """Have that many writes fail under living subjects, one or two in each life.

    What failed must not be there, neither in that life nor in the next; what was acknowledged must
    be, in that life and in the next.
    """
    rng = random.Random(seed)
    shim = Shim()
    template = directory / "template"
    template.mkdir()
    scenario.prepare(template)
    failed = lives = 0
    belief = Belief()

    def begin(subject_rng: random.Random, journal: Journal) -> None:
        with scenario.open(template) as subject:
            _change(subject, subject_rng, journal)
            subject.verify()
            state = subject.read()
            journal.say("begins", state)
            for _ in range(subject_rng.randint(1, _CHANGES_OF_A_LIFE)):
                state = _change_on_failing_disk(subject, state, subject_rng, shim, journal)
                journal.say("found", subject.read())
            if subject_rng.random() < 0.7:
                os._exit(0)

    while failed < failures:
        lives += 1
        failed += _live(begin, rng.random(), belief).failures
        if belief.problems:
            return {"problem": f"life {lives}: " + "\n".join(belief.problems)}
    return {"failures": str(failed), "lives": str(lives)}


def _change_on_failing_disk(
    subject: Subject, state: State, rng: random.Random, shim: Shim, journal: Journal
) -> State:
    change = subject.next_change(state, rng)
    countdown, mode = rng.randint(1, 8), rng.choice(Shim.FAILS)
    shim.arm(countdown, mode, rng.choice((errno.ENOSPC, errno.EIO)))
    journal.say("tries", [change.name, change.value])
    try:
        change.make()
    except HwtpmError as error:
        journal.say("refused", [change.name, error.message, countdown, mode])
    else:
        journal.say("done", [change.name, countdown, mode])
        state = change.of(state)
    if shim.calls() >= countdown:
        journal.say("failed")
    shim.arm(0, 0)
    return state
