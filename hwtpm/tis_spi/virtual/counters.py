"""What a virtual adapter counts, so that costs are pinned as numbers and not as times."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Counts of one port since it was made; `since` gives those of a span."""

    control: int = 0
    """Vendor requests; standard ones (descriptors) are not counted."""
    bulk_out: int = 0
    bulk_in: int = 0
    bytes_out: int = 0
    """MPSSE command bytes that the adapter took."""
    bytes_in: int = 0
    """Answer bytes, without the two status bytes of each packet."""
    packets_in: int = 0
    empty_packets: int = 0
    """Packets of nothing but status."""
    round_trips: int = 0
    """Times that the host, having written, turned round to read."""
    latency_waits: int = 0
    """Packets that left only because the latency timer ran out."""
    latency_wait_s: float = 0.0
    timeouts: int = 0
    """Bulk transfers that the adapter did not finish in their time."""
    commands: int = 0
    """MPSSE commands."""
    bad_commands: int = 0
    off_mode: int = 0
    """Shift commands that leave no margin in SPI mode 0: MOSI changed on the rising edge, MISO
    sampled on the falling one, or SCK idling high. They still move the right bits here."""
    selects: int = 0
    """Falling edges of chip selects."""
    clock_cycles: int = 0
    bus_time_s: float = 0.0
    """Time that SCK ran."""

    def snapshot(self) -> Counters:
        """A copy that stands still."""
        return dataclasses.replace(self)

    def since(self, before: Counters) -> Counters:
        """What was counted after the snapshot `before`."""
        return Counters(
            *(
                getattr(self, field.name) - getattr(before, field.name)
                for field in dataclasses.fields(self)
            )
        )
