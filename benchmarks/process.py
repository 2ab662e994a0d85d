"""What a TPM process costs besides its commands: time to the first answer, and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from benchmarks.subjects import Subject
from hwtpm.client.session import Tpm
from hwtpm.tpm12.commands.integrity import PcrRead

__all__ = ["Memory", "first_answers_ms", "memory_of_each"]


@dataclass(frozen=True)
class Memory:
    """MiB of one process: what nobody else has, and that plus its part of what is shared."""

    private: float
    pss: float


def first_answers_ms(subjects: Sequence[Subject], rounds: int) -> list[float]:
    """Median milliseconds from starting a process to its answer to PCRRead, for each subject.

    The subjects take turns. Their state exists already.
    """
    spent: list[list[float]] = [[] for _ in subjects]
    for _ in range(rounds):
        for subject, times in zip(subjects, spent, strict=True):
            try:
                start = time.perf_counter()
                subject.start()
                with Tpm(subject.connect()) as tpm:
                    tpm.execute(PcrRead(0))
                    times.append((time.perf_counter() - start) * 1000)
            finally:
                subject.stop()
    return [median(times) for times in spent]


def memory_of_each(make: Callable[[int], Subject], count: int) -> Memory:
    """What each of `count` idle processes takes, after one command.

    Raises:
        PermissionError: /proc does not tell us about processes that guard their memory; root may.
    """
    with ExitStack() as stack:
        subjects = [make(number) for number in range(count)]
        for subject in subjects:
            stack.callback(subject.stop)
            subject.start()
        for subject in subjects:
            with Tpm(subject.connect()) as tpm:
                tpm.execute(PcrRead(0))
        found = [_memory(subject.pid) for subject in subjects]
    return Memory(mean(one.private for one in found), mean(one.pss for one in found))


def _memory(pid: int) -> Memory:
    mib = {
        line.split(":")[0]: int(line.split()[1]) / 1024
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    }
    return Memory(mib["Private_Clean"] + mib["Private_Dirty"], mib["Pss"])
