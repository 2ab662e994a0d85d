"""`python -m benchmarks`: measure ours and swtpm in alternating rounds and print one table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.commands import BENCHMARKS, Benchmark, Patient
from benchmarks.process import first_answers_ms, pss_per_process_mib
from benchmarks.subjects import ColdVtpm, ForkedVtpm, Subject, Swtpm
from vstack.host import processes

PROCESSES = 10


@dataclass(frozen=True)
class Row:
    """One measurement on both sides; less is better."""

    what: str
    unit: str
    ours: float
    theirs: float
    why_slow: str

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    @property
    def met(self) -> bool:
        return self.ratio <= 1.0


def measure(benchmark: Benchmark, patients: list[Patient], rounds: int) -> Row:
    """Median microseconds of one operation, for ours and theirs, in alternating rounds."""
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
    ours, theirs = (median(times) for times in spent)
    return Row(benchmark.name, "us", ours, theirs, benchmark.why_slow)


def commands(directory: Path, rounds: int) -> list[Row]:
    """All benchmarks of single commands on two prepared TPMs, which stay as state."""
    subjects: list[Subject] = [ForkedVtpm(directory / "ours"), Swtpm(directory / "swtpm")]
    try:
        patients = []
        for subject in subjects:
            subject.start()
            patients.append(Patient(subject))
        for patient in patients:
            patient.provision()
        return [measure(benchmark, patients, rounds) for benchmark in BENCHMARKS]
    finally:
        for subject in subjects:
            subject.stop()


def starts(directory: Path, rounds: int) -> list[Row]:
    """Time to the first answer, over the state that `commands` has left."""
    forked, cold = ForkedVtpm(directory / "ours"), ColdVtpm(directory / "ours")
    swtpm = Swtpm(directory / "swtpm")
    quick, slow, theirs = first_answers_ms([forked, cold, swtpm], rounds)
    return [
        Row("first answer, forked", "ms", quick, theirs, "the machine is busy"),
        Row("first answer, cold exec", "ms", slow, theirs, "the interpreter loads its modules"),
    ]


def memory(directory: Path) -> list[Row]:
    """PSS of one process and of each of ten."""
    why_slow = "an interpreter's objects are private as soon as they are touched"
    rows = []
    for count, what in ((1, "PSS of one, idle"), (PROCESSES, f"PSS of each of {PROCESSES}, idle")):
        ours = pss_per_process_mib(lambda number: ForkedVtpm(directory / f"ours{number}"), count)
        theirs = pss_per_process_mib(lambda number: Swtpm(directory / f"swtpm{number}"), count)
        rows.append(Row(what, "MiB", ours, theirs, why_slow))
    return rows


def show(rows: list[Row]) -> None:
    console = Console()
    table = Table("measured", "unit", "ours", "swtpm", "ours / swtpm", "aim (<= 1)")
    for row in rows:
        table.add_row(
            row.what,
            row.unit,
            f"{row.ours:,.1f}",
            f"{row.theirs:,.1f}",
            f"{row.ratio:.2f}",
            "met" if row.met else "missed",
        )
    console.print(table)
    met = sum(row.met for row in rows)
    console.print(f"Aim, no slower and no larger than swtpm: met in {met} of {len(rows)} rows.")
    for row in rows:
        if not row.met:
            console.print(f"  {row.what}: {row.why_slow}.", highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="alternating rounds (default: 20)")
    parser.add_argument("--dir", type=Path, help="where the state lies: a disk's speed shows")
    chosen = parser.parse_args()
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
