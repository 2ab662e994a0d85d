"""What an SPI bus does for the TIS driver: batches of chip select assertions in one round trip.

A batch is decided before its first clock: nothing in it can depend on what the chip answers. A chip
that inserts wait states answers a batch with rubbish; it shows in the status bit of each header,
and `stretch` does one transfer with as many wait bytes as it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = ["AwaitIrq", "BusLimits", "Captured", "Pause", "SpiBus", "Step", "Transfer"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """One chip select assertion: four header bytes, then either bytes out or bytes in.

    `header` is made by `hwtpm.tis_spi.framing`; one of `data` and `size` is empty or zero.
    """

    header: bytes
    data: bytes = b""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """At least so much time with chip select high before the next step."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class AwaitIrq:
    """Go on when PIRQ# is low; only on a bus whose limits say `awaits_irq`."""

    timeout_s: float


Step: TypeAlias = Transfer | Pause | AwaitIrq


@dataclass(frozen=True, slots=True)
class Captured:
    """What came back during one transfer: the chip's byte under the last header byte, and `size`
    bytes after it. Bit 0 of `status` is 1 where the chip was ready at once."""

    status: int
    data: bytes

    @property
    def ready(self) -> bool:
        """The chip inserted no wait state."""
        return bool(self.status & 1)


@dataclass(frozen=True, slots=True)
class BusLimits:
    """What fits into one round trip.

    `transfers` and `bytes_in` bound one batch (bytes_in counts one status byte a transfer);
    `longest_pause_s` is 0 where a batch cannot pause; `awaits_irq` tells whether PIRQ# is wired.
    """

    transfers: int
    bytes_in: int
    longest_pause_s: float
    awaits_irq: bool
    clock_hz: int


class SpiBus(Protocol):
    """One chip select of one SPI controller. Not for use by two threads at once.

    Every method leaves chip select high, whatever happens.
    """

    @property
    def limits(self) -> BusLimits:
        """What fits into one round trip."""
        ...

    def run(self, steps: Sequence[Step]) -> list[Captured]:
        """All steps in order in one round trip; one result for each `Transfer`.

        Raises:
            BusError: the adapter failed, or less came back than was clocked.
            DeviceNotFound: the adapter is gone.
            Timeout: PIRQ# did not come.
        """
        ...

    def stretch(self, transfer: Transfer, most_waits: int, *, trust_header: bool = True) -> bytes:
        """One transfer that lets the chip insert up to `most_waits` wait bytes; the bytes read.

        `trust_header` is False for a chip whose header says ready too early.

        Raises:
            BusError, DeviceNotFound: as `run`.
            Timeout: the chip was not ready after so many wait bytes.
        """
        ...

    def reset(self) -> None:
        """Pulse RST# and wait until the chip may be accessed.

        Raises:
            Unsupported: no reset line is wired.
        """
        ...

    def close(self) -> None:
        """Let the adapter go; a second call does nothing."""
        ...
