"""Commands in, responses out, over an SPI bus."""

from __future__ import annotations

from collections.abc import Callable

from hwtpm.clock import Clock
from hwtpm.tis.transport import ChipTransport
from hwtpm.tis_spi.bus import SpiBus
from hwtpm.tis_spi.flow import drive
from hwtpm.tis_spi.planner import SpiHost

__all__ = ["SpiTis"]


class SpiTis(ChipTransport):
    """One TPM behind one chip select; see `hwtpm.tis.transport.ChipTransport`."""

    def __init__(
        self,
        bus: SpiBus,
        clock: Clock,
        *,
        duration_s: Callable[[int], float],
        host: SpiHost | None = None,
        locality: int = 0,
    ) -> None:
        self.host = host or SpiHost(bus.limits)
        super().__init__(
            self.host,
            lambda operation: drive(operation, bus, clock),
            bus.close,
            duration_s=duration_s,
            device=self.host.host.device,
            locality=locality,
        )
