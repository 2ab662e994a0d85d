"""All benchmarks of commands, and how one is measured on several TPMs.

Only the time between request and response counts: what the client computes is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, Protocol

from benchmarks import lasting, light, rsa, sessions
from benchmarks.benchmark import Benchmark
from benchmarks.patient import Patient

__all__ = ["BENCHMARKS", "Bed", "PatientBed", "measure"]

BENCHMARKS: Final = (*light.ROWS, *sessions.ROWS, *lasting.ROWS, *rsa.ROWS)


class Bed(Protocol):
    """Where a patient lies: in this process or in another one."""

    def round(self, number: int, times: int) -> list[float]:
        """Microseconds of each of so many operations of the benchmark with that number."""
        ...


class PatientBed:
    """In this process."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient

    def round(self, number: int, times: int) -> list[float]:
        benchmark, watch = BENCHMARKS[number], self._patient.watch
        watch.ordinals = benchmark.ordinals
        spent = []
        for _ in range(times):
            watch.spent_ns = 0
            benchmark.operation(self._patient)
            spent.append(watch.spent_ns / 1000)
        return spent


def measure(benchmark: Benchmark, beds: Sequence[Bed], rounds: int) -> list[float]:
    """Median microseconds of one operation on each TPM; they take turns."""
    number = BENCHMARKS.index(benchmark)
    spent: list[list[float]] = [[] for _ in beds]
    for bed in beds:
        bed.round(number, 1)  # warm
    for _ in range(rounds):
        for bed, times in zip(beds, spent, strict=True):
            times += bed.round(number, benchmark.times)
    return [median(times) for times in spent]
