"""What one benchmark is: an operation, which commands of it are timed, and what is aimed at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.patient import Patient
from hwtpm.tpm12.table import TABLE

__all__ = ["Benchmark", "of"]


@dataclass(frozen=True)
class Benchmark:
    """`times` operations a round, of which the commands with these ordinals are timed.

    `aim` is the part of swtpm's time that we want to stay within.
    """

    name: str
    operation: Callable[[Patient], object]
    ordinals: frozenset[int]
    times: int
    aim: float


def of(
    operation: Callable[[Patient], object],
    *commands: str,
    name: str = "",
    times: int = 50,
    aim: float = 1.0,
) -> Benchmark:
    """A benchmark of these commands, in all that `operation` does; named for them."""
    ordinals = frozenset(TABLE[f"TPM_{command}"].ordinal for command in commands)
    return Benchmark(name or " + ".join(commands), operation, ordinals, times, aim)
