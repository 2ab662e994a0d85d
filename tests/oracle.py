"""libtpms as an oracle that repeats: same seed, same state, same commands, same bytes.

It runs in a process of its own, so the replaced random number generator touches nothing else, and
there can be as many as a test needs. Clocks are not replaced: tick values differ.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from engine_rig import Rig

from hwtpm.errors import ProtocolError
from hwtpm.softtpm.base import SoftwareTpm
from hwtpm.softtpm.engine.state import Permanent
from hwtpm.softtpm.migration import export_permanent, import_permanent

_HOST = Path(__file__).with_name("oracle_host.py")
_END_WAIT_S = 20.0


class Oracle:
    """A libtpms TPM, with as much of `hwtpm.softtpm.base.SoftwareTpm` as a `Rig` needs."""

    description = "libtpms that repeats"

    def __init__(self, seed: bytes = b"oracle") -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_HOST), seed.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def power_on(self, permanent: Permanent | None = None) -> None:
        """Power cycle; the random numbers start over. `permanent` takes the place of its state."""
        self._ask(b"P", b"" if permanent is None else export_permanent(permanent))

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        return self._ask(b"X", bytes((locality,)) + command)

    def rig(self) -> Rig:
        """Typed commands on it."""
        return Rig(cast("SoftwareTpm", self))

    @property
    def blob(self) -> bytes:
        """What libtpms last stored."""
        return self._ask(b"S")

    @property
    def permanent(self) -> Permanent:
        """The same, as our engine has it."""
        return import_permanent(self.blob, bytes)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(_END_WAIT_S)
        self._process.stdout.close()

    def _ask(self, letter: bytes, body: bytes = b"") -> bytes:
        channel, answers = self._process.stdin, self._process.stdout
        assert channel is not None
        assert answers is not None
        try:
            channel.write(struct.pack(">I", 1 + len(body)) + letter + body)
            channel.flush()
        except BrokenPipeError as error:
            raise ProtocolError("the oracle's process has ended") from error
        head = answers.read(4)
        if len(head) < 4:
            raise ProtocolError(f"the oracle's process ended with {self._process.wait()}")
        return answers.read(struct.unpack(">I", head)[0])


@contextmanager
def oracle(seed: bytes = b"oracle") -> Iterator[Oracle]:
    made = Oracle(seed)
    try:
        yield made
    finally:
        made.close()
