"""What a TPM process costs besides its commands: time to the first answer, and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.subjects import Subject
from hwtpm.client.session import Tpm
from hwtpm.tpm12.commands.integrity import PcrRead

__all__ = ["first_answers_ms", "pss_per_process_mib"]


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


def pss_per_process_mib(make: Callable[[int], Subject], count: int) -> float:
    """MiB of memory that each of `count` processes takes, shared pages split among their users.

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
        return sum(_pss_kib(subject.pid) for subject in subjects) / count / 1024


def _pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise ValueError(f"no Pss in the memory map of process {pid}")
