"""Every command that writes, killed or failing at each of its writes.

A whole life is lived on files. Before each step that writes, forked copies of the TPM take the step
on copies of the files and are killed, or have a call fail. What they leave is then opened anew.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from crash_rounds import Shim, State
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from engine_rig import Rig
from recorded_life import Do, Recorder, Step, factory_new, take
from whole_life import live

from hwtpm.errors import StateError
from hwtpm.softtpm.base import MemoryStorage, StateName, Storage
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.entropy import RepeatableEntropy
from hwtpm.softtpm.engine.state import decode_permanent
from hwtpm.softtpm.storage import FileStorage
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.rc import Rc

__all__ = ["fail_commands", "kill_commands"]


@dataclass(frozen=True)
class Kept:
    """What the files hold."""

    permanent: bytes
    saved: bytes | None

    @classmethod
    def by(cls, storage: Storage) -> Kept:
        permanent = storage.load(StateName.PERMANENT)
        assert permanent is not None
        return cls(permanent, storage.load(StateName.SAVED))


@dataclass(frozen=True)
class Place:
    """Where it happens: at which counted call, and what.

    `warm`: the storage has written these files before, so it writes them in place.
    """

    call: int
    mode: int
    error: int = 0
    warm: bool = False


AT_THE_ANSWER: Final = Place(0, 0)
"""Killed when the answer is out."""

Visit = Callable[[Engine, Step, Place, Path, Kept, Kept], None]
"""Engine, step that it is about to take, place, a copy of the files, and what they hold before the
step and after it."""


class _Remembers(RepeatableEntropy):
    """The second time a key is made it is there at once."""

    made: Final[dict[tuple[bytes, int, int], tuple[RSAPrivateKey, int]]] = {}

    def rsa_key(self, bits: int) -> RSAPrivateKey:
        wanted = (self._state, self._count, bits)
        if wanted not in self.made:
            self.made[wanted] = super().rsa_key(bits), self._count
        key, self._count = self.made[wanted]
        return key


class Life:
    """The life, and what it leaves on the files after each step.

    Args:
        directory: empty.
        seed: decides which places are chosen.
        most: so many places for each step; 0 for all that there are.
    """

    def __init__(self, directory: Path, seed: int, most: int) -> None:
        self.directory = directory
        self.shim = Shim()
        self._rng = random.Random(seed)
        self._most = most
        recorder = Recorder(factory_new(MemoryStorage(), _Remembers(b"a life")))
        self.steps = live(recorder)
        self.kept: list[Kept] = []
        self.writes: list[bool] = []
        for engine, step in self._walk("count"):
            self.shim.arm(0, 0)
            assert take(engine, step) == step.answer, step.name
            self.writes.append(self.shim.calls() > 0)
            self.kept.append(Kept.by(engine.storage))

    def _walk(self, name: str) -> Iterator[tuple[Engine, Step]]:
        """A new engine on files, and each step; the caller takes it."""
        with FileStorage(self.directory / name) as storage:
            engine = factory_new(storage, _Remembers(b"a life"))
            for step in self.steps:
                yield engine, step
            engine.close()

    def visit(
        self, kinds: list[tuple[int, int]], visit: Visit, also: Iterable[Place] = ()
    ) -> State:
        """Live, and stop at each step that writes.

        Args:
            kinds: mode of the shim and error that every call can have.
            visit: gets a copy of the files that it may ruin.
            also: places that are no calls.

        Returns:
            How many `places` were visited, the names of the `commands`, and how many `calls` a
            step made when cold and when warm.
        """
        done: Counter[str] = Counter()
        counts: set[tuple[int, int]] = set()
        for number, (engine, step) in enumerate(self._walk("life")):
            if self.writes[number]:
                cold, warm = (self._count(engine, step, warm=warm) for warm in (False, True))
                counts.add((cold, warm))
                places = [*also]
                for is_warm, calls in ((False, cold), (True, warm)):
                    for call in range(1, calls + 1):
                        places += [Place(call, *kind, is_warm) for kind in kinds]
                if self._most:
                    places = self._rng.sample(places, self._most)
                for place in places:
                    with self._copy() as copy, _told(f"{place} of {step.name}"):
                        visit(engine, step, place, copy, self.kept[number - 1], self.kept[number])
                    done[step.name] += 1
            assert take(engine, step) == step.answer, step.name
        return {
            "places": str(done.total()),
            "commands": " ".join(sorted(done)),
            "calls": " ".join(sorted(f"{cold}/{warm}" for cold, warm in counts)),
        }

    def _count(self, engine: Engine, step: Step, *, warm: bool) -> int:
        """How many counted calls the step makes."""

        def count() -> bytes:
            engine.storage = opened(copy, warm=warm)
            self.shim.arm(0, 0)
            take(engine, step)
            return b"%d" % self.shim.calls()

        with self._copy() as copy:
            said, _ = forked(lambda say: say(count()))
        return int(said)

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        copy = self.directory / "copy"
        shutil.copytree(self.directory / "life", copy)
        yield copy
        shutil.rmtree(copy)


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        error.add_note(where)
        raise


def opened(directory: Path, *, warm: bool) -> FileStorage:
    """The storage, with everything written once if it is to be `warm`."""
    storage = FileStorage(directory)
    for name in StateName if warm else ():
        blob = storage.load(name)
        if blob is not None:
            storage.store(name, blob)
    return storage


def forked(work: Callable[[Callable[[bytes], object]], object]) -> tuple[bytes, int]:
    """Have a forked process work, with a function that says something; what it said, and its exit
    code: negative for a signal, 1 if it raised, and then it said what."""
    heard, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(lambda text: os.write(said, text))
            code = 0
        except BaseException:
            os.write(said, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(said)
    with os.fdopen(heard, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return text, os.waitstatus_to_exitcode(status)


# --- kill -9 -----------------------------------------------------------------------------------


def kill_commands(directory: Path, seed: int, most: int) -> State:
    """Kill at places in a whole life; what is found afterwards is what was before the step or what
    is after it, and the latter if it was answered. `Life` has the arguments, `Life.visit` what is
    reported."""
    life = Life(directory, seed, most)

    def visit(
        engine: Engine, step: Step, place: Place, copy: Path, before: Kept, after: Kept
    ) -> None:
        def take_it(say: Callable[[bytes], object]) -> None:
            engine.storage = opened(copy, warm=place.warm)
            life.shim.arm(place.call, place.mode)
            say(b"!" + take(engine, step))
            os.kill(os.getpid(), signal.SIGKILL)

        said, code = forked(take_it)
        assert code == -signal.SIGKILL, said.decode(errors="replace")
        found = _found(copy)
        if place == AT_THE_ANSWER:
            assert said[1:] == step.answer
            assert found == after, _differences(found, after)
            return
        assert said == b""
        # The saved state may be gone, as after any power failure. It is never one that does not
        # belong to the permanent one.
        allowed = [before, after, *(replace(kept, saved=None) for kept in (before, after))]
        assert found in allowed, _differences(found, before)

    return life.visit([(mode, 0) for mode in Shim.KILLS], visit, also=[AT_THE_ANSWER])


def _found(copy: Path) -> Kept:
    """What a new TPM finds in the files; it starts, with the saved state if there is one."""
    with FileStorage(copy) as storage:
        found = Kept.by(storage)
        engine = Engine(storage)
        engine.power_on()
        assert engine.permanent == decode_permanent(found.permanent)
        kind = StartupType.CLEAR if found.saved is None else StartupType.STATE
        assert Rig(engine).refusal(Startup(kind)) == Rc.SUCCESS
        storage.store(StateName.PERMANENT, found.permanent)  # what is left over is in nobody's way
        assert Kept.by(storage) == replace(found, saved=None)
        engine.close()
    return found


def _differences(found: Kept, expected: Kept) -> str:
    ours, theirs = decode_permanent(found.permanent), decode_permanent(expected.permanent)
    return f"permanent same: {ours == theirs}, saved same: {found.saved == expected.saved}"


# --- a disk that fails -------------------------------------------------------------------------


def fail_commands(directory: Path, seed: int, most: int) -> State:
    """Have calls fail with ENOSPC and EIO in a whole life: the command fails, nothing has changed
    on the files or in memory, and the TPM goes on. Arguments and report as `kill_commands`."""
    life = Life(directory, seed, most)

    def visit(
        engine: Engine, step: Step, place: Place, copy: Path, before: Kept, after: Kept
    ) -> None:
        said, code = forked(lambda say: _fail(engine, step, place, copy, life.shim, before))
        assert code == 0, said.decode(errors="replace")

    kinds = [(mode, error) for mode in Shim.FAILS for error in (errno.ENOSPC, errno.EIO)]
    return life.visit(kinds, visit)


def _fail(engine: Engine, step: Step, place: Place, copy: Path, shim: Shim, before: Kept) -> None:
    storage = engine.storage = opened(copy, warm=place.warm)
    permanent, stclear, loaded = engine.permanent, engine.stclear, _loaded(engine)
    shim.arm(place.call, place.mode, place.error)
    try:
        take(engine, step)
    except StateError:
        shim.arm(0, 0)
    else:
        raise AssertionError("the command did not fail")
    found = Kept.by(storage)
    assert found in (before, replace(before, saved=None)), _differences(found, before)
    if step.do == Do.COMMAND and not step.succeeded:
        # A wrong authorisation counts, disk or no disk.
        permanent = replace(permanent, auth_failures=permanent.auth_failures + 1)
    assert engine.permanent == permanent
    assert engine.stclear == stclear
    keys, sessions = _loaded(engine)
    assert keys == loaded[0]
    assert sessions <= loaded[1]  # the command's own have ended
    if step.data[:2] != b"\0\xc1":
        return
    # Without sessions: nothing keeps it from being sent again.
    assert take(engine, step)[6:10] == step.answer[6:10]
    assert decode_permanent(Kept.by(storage).permanent) == engine.permanent


def _loaded(engine: Engine) -> tuple[tuple[int, ...], set[int]]:
    """Handles: of keys and DAA sessions, and of sessions that authorise."""
    return (
        engine.keys.handles + engine.daa.handles,
        {*engine.sessions.handles, *engine.transports.handles},
    )
