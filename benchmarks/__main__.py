"""`python -m benchmarks`: measure ours and its peers in alternating rounds and print one table."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.commands import BENCHMARKS, Bed, PatientBed, measure
from benchmarks.inprocess import EngineBed
from benchmarks.patient import Patient
from benchmarks.process import first_answers_ms, memory_of_each
from benchmarks.subjects import ColdVtpm, ForkedVtpm, StackVtpm, Subject, Swtpm
from vstack.host import processes

_INSTANCES = (1, 10, 20)
_PRIVATE_MIB = 4.0
_COLD_MS, _FORKED_MS = 100.0, 20.0
_ROUNDS, _QUICK_ROUNDS = 16, 3


@dataclass(frozen=True)
class Row:
    """One measurement; less is better.

    `theirs` is swtpm's, `stack` that of a vTPM in a whole stack; `engine` and `libtpms` are called
    in their own process. The aim is for `ours`: `part` of swtpm's, or `limit` in its own right.
    """

    what: str
    unit: str
    ours: float
    theirs: float
    stack: float | None = None
    engine: float | None = None
    libtpms: float | None = None
    part: float = 1.0
    limit: float | None = None

    @property
    def met(self) -> bool:
        return self.ours <= (self.part * self.theirs if self.limit is None else self.limit)

    @property
    def cells(self) -> Iterator[str]:
        yield self.what
        yield self.unit
        for value in (self.ours, self.stack, self.theirs):
            yield _number(value)
        yield f"{self.ours / self.theirs:.2f}"
        yield f"<= {self.part:g}" if self.limit is None else f"<= {self.limit:g} {self.unit}"
        yield "met" if self.met else "missed"
        yield _number(self.engine)
        yield _number(self.libtpms)
        yield f"{self.engine / self.libtpms:.2f}" if self.engine and self.libtpms else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


@contextmanager
def _beds(directory: Path) -> Iterator[list[Bed]]:
    """Ours, ours in a stack, swtpm, our engine and libtpms: all provisioned."""
    with ExitStack() as stack:
        engines = (EngineBed.ours(), EngineBed.libtpms())
        for engine in engines:
            stack.callback(engine.close)
        beds: list[Bed] = []
        for subject in (
            ForkedVtpm(directory / "ours"),
            StackVtpm(directory / "stack"),
            Swtpm(directory / "swtpm"),
        ):
            subject.start()
            stack.callback(subject.stop)
            patient = Patient(subject.connect(), has_ek=subject.has_ek)
            patient.provision()
            beds.append(PatientBed(patient))
        yield [*beds, *engines]


def commands(directory: Path, rounds: int) -> list[Row]:
    """All benchmarks of commands; our files and those of swtpm stay."""
    rows = []
    with _beds(directory) as beds:
        for benchmark in BENCHMARKS:
            ours, stack, theirs, engine, libtpms = measure(benchmark, beds, rounds)
            rows.append(
                Row(benchmark.name, "us", ours, theirs, stack, engine, libtpms, benchmark.aim)
            )
    return rows


def starts(directory: Path, rounds: int) -> list[Row]:
    """Time to the first answer, over the state that `commands` has left."""
    forked, cold = ForkedVtpm(directory / "ours"), ColdVtpm(directory / "ours")
    swtpm = Swtpm(directory / "swtpm")
    cold.compile()
    quick, slow, theirs = first_answers_ms([forked, cold, swtpm], rounds)
    return [
        Row("first answer, forked", "ms", quick, theirs, limit=_FORKED_MS),
        Row("first answer, cold exec", "ms", slow, theirs, limit=_COLD_MS),
    ]


def memory(directory: Path) -> list[Row]:
    """Memory of each of several idle processes, with an empty state."""

    def of(kind: type[Subject], count: int) -> list[float]:
        name = f"{kind.name}-{count}-"
        found = memory_of_each(lambda number: kind(directory / f"{name}{number}"), count)
        return [found.private, found.pss]

    rows = []
    for count in _INSTANCES:
        (private, pss), (their_private, their_pss) = of(ForkedVtpm, count), of(Swtpm, count)
        each = "" if count == 1 else f", each of {count}"
        what = f"private memory, idle{each}"
        rows.append(Row(what, "MiB", private, their_private, limit=_PRIVATE_MIB))
        rows.append(Row(f"PSS, idle{each}", "MiB", pss, their_pss))
    return rows


def show(rows: list[Row], took_s: float) -> None:
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table(
        *("measured", "unit", "ours", "in a stack", "swtpm", "ours / swtpm", "aim", ""),
        *("engine", "libtpms", "engine / libtpms"),
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row.cells)
    console.print(table)
    met = sum(row.met for row in rows)
    console.print("All processes on one processor; medians of alternating rounds.")
    console.print("Left: processes behind a unix socket. Right: called in their own process.")
    console.print(f"The aim is met in {met} of {len(rows)} rows; {took_s:.0f} s.")
    console.print("Why not in the others: docs/performance.md", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, help=f"alternating rounds (default: {_ROUNDS})")
    parser.add_argument(
        "--quick", action="store_true", help=f"{_QUICK_ROUNDS} rounds: a first look"
    )
    parser.add_argument("--dir", type=Path, help="where the state lies: a disk's speed shows")
    chosen = parser.parse_args()
    rounds = chosen.rounds or (_QUICK_ROUNDS if chosen.quick else _ROUNDS)
    # Where the kernel puts two processes that wake each other decides more than what they do: on
    # one processor both sides pay the same.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    began = time.monotonic()
    processes.prepare()
    with tempfile.TemporaryDirectory(dir=chosen.dir) as name:
        directory = Path(name)
        last: list[Row] = []
        try:
            # First: what is measured later makes this process larger, and with it its children.
            last = memory(directory)
        except PermissionError as error:
            sys.stderr.write(f"memory not measured, run as root: {error}\n")
        rows = commands(directory, rounds) + starts(directory, rounds) + last
    show(rows, time.monotonic() - began)


if __name__ == "__main__":
    main()
