"""`python -m benchmarks`: measure ours and swtpm in alternating rounds and print one table."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.commands import BENCHMARKS, Benchmark, Patient
from benchmarks.process import first_answers_ms, pss_per_process_mib
from benchmarks.subjects import ColdVtpm, ForkedVtpm, StackVtpm, Subject, Swtpm
from vstack.host import processes

PROCESSES = 10


@dataclass(frozen=True)
class Row:
    """One measurement of each subject; less is better. `stack` is a vTPM in a whole stack."""

    what: str
    unit: str
    ours: float
    theirs: float
    stack: float | None = None

    @property
    def met(self) -> bool:
        """No slower and no larger than swtpm."""
        return self.ours <= self.theirs


def measure(benchmark: Benchmark, patients: list[Patient], rounds: int) -> list[float]:
    """Median microseconds of one operation for each patient, in alternating rounds."""
    spent: list[list[float]] = [[] for _ in patients]
    for patient in patients:
        patient.watch.ordinals = benchmark.ordinals
        benchmark.operation(patient)  # warm
    for _ in range(rounds):
        for patient, times in zip(patients, spent, strict=True):
            for _ in range(benchmark.times):
                patient.watch.spent_ns = 0
                benchmark.operation(patient)
                times.append(patient.watch.spent_ns / 1000)
    return [median(times) for times in spent]


def commands(directory: Path, rounds: int) -> list[Row]:
    """All benchmarks of single commands on prepared TPMs; the first and last leave their state."""
    subjects = [
        ForkedVtpm(directory / "ours"),
        StackVtpm(directory / "stack"),
        Swtpm(directory / "swtpm"),
    ]
    started: list[Subject] = []
    try:
        for subject in subjects:
            subject.start()
            started.append(subject)
        patients = [Patient(subject) for subject in subjects]
        for patient in patients:
            patient.provision()
        rows = []
        for benchmark in BENCHMARKS:
            ours, stack, theirs = measure(benchmark, patients, rounds)
            rows.append(Row(benchmark.name, "us", ours, theirs, stack))
        return rows
    finally:
        for subject in started:
            subject.stop()


def starts(directory: Path, rounds: int) -> list[Row]:
    """Time to the first answer, over the state that `commands` has left."""
    forked, cold = ForkedVtpm(directory / "ours"), ColdVtpm(directory / "ours")
    swtpm = Swtpm(directory / "swtpm")
    quick, slow, theirs = first_answers_ms([forked, cold, swtpm], rounds)
    return [
        Row("first answer, forked", "ms", quick, theirs),
        Row("first answer, cold exec", "ms", slow, theirs),
    ]


def memory(directory: Path) -> list[Row]:
    """PSS of one process and of each of ten."""
    rows = []
    for count, what in ((1, "PSS of one, idle"), (PROCESSES, f"PSS of each of {PROCESSES}, idle")):
        ours = pss_per_process_mib(lambda number: ForkedVtpm(directory / f"ours{number}"), count)
        theirs = pss_per_process_mib(lambda number: Swtpm(directory / f"swtpm{number}"), count)
        rows.append(Row(what, "MiB", ours, theirs))
    return rows


def show(rows: list[Row]) -> None:
    console = Console()
    table = Table("measured", "unit", "ours", "in a stack", "swtpm", "ours / swtpm", "aim (<= 1)")
    for row in rows:
        table.add_row(
            row.what,
            row.unit,
            f"{row.ours:,.1f}",
            "" if row.stack is None else f"{row.stack:,.1f}",
            f"{row.theirs:,.1f}",
            f"{row.ours / row.theirs:.2f}",
            "met" if row.met else "missed",
        )
    console.print(table)
    met = sum(row.met for row in rows)
    console.print("All processes on one processor; medians of alternating rounds.")
    console.print(f"Aim, no slower and no larger than swtpm: met in {met} of {len(rows)} rows.")
    console.print("Why not in the others: docs/performance.md", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="alternating rounds (default: 20)")
    parser.add_argument("--dir", type=Path, help="where the state lies: a disk's speed shows")
    chosen = parser.parse_args()
    # Where the kernel puts two processes that wake each other decides more than what they do: on
    # one processor both sides pay the same.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    processes.prepare()
    with tempfile.TemporaryDirectory(dir=chosen.dir) as name:
        directory = Path(name)
        rows: list[Row] = []
        try:
            rows += memory(directory)
        except PermissionError as error:
            sys.stderr.write(f"memory not measured, run as root: {error}\n")
        rows = commands(directory, chosen.rounds) + starts(directory, chosen.rounds) + rows
    show(rows)


if __name__ == "__main__":
    main()
