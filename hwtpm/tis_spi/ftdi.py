"""SPI through an FTDI adapter: whole batches as one MPSSE program, one USB round trip each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import HwtpmError, Timeout, Unsupported, UsageError
from hwtpm.tis_spi.bus import BusLimits, Captured, Step, Transfer
from hwtpm.tis_spi.framing import data_start
from hwtpm.tis_spi.ftdi_usb import MpssePort, UsbCounters
from hwtpm.tis_spi.mpsse import (
    GPIOL1,
    LONGEST_PAUSE_S,
    MARK_SIZE,
    MARKERS,
    Encoder,
    Program,
    Wires,
    marked,
    results,
    unmarked,
)

__all__ = ["FtdiBus"]

_USB_S: Final = 1.0
"""What USB and a busy host may add to a program's own time."""

_USB_AFTER_IRQ_S: Final = 0.05
"""The same where PIRQ# was waited for: too short costs a slower exchange, not a failure."""


class FtdiBus:
    """One TPM on an MPSSE; see `SpiBus`. `open` makes one.

    Pins that `wires` does not name are never driven. After an error the adapter is started anew,
    which lets go of all pins; the next call finds it idle. Once it is gone, so is this bus.
    """

    def __init__(self, port: MpssePort, wires: Wires, sck_hz: float, clock: Clock) -> None:
        self._port = port
        self._wires = wires
        self._clock = clock
        self._encoder = Encoder(wires, port.width, sck_hz)
        self._marks = 0
        self._sound = True
        self._closed = False
        # Answers must leave room in the FIFO, or both sides wait for one another.
        bytes_in = port.to_host_bytes - MARK_SIZE - 1
        self.limits = BusLimits(
            transfers=bytes_in,
            bytes_in=bytes_in,
            longest_pause_s=LONGEST_PAUSE_S,
            awaits_irq=self._encoder.awaits_irq,
            clock_hz=int(self._encoder.sck_hz),
        )

    @classmethod
    def open(
        cls,
        where: str,
        wires: Wires | None = None,
        *,
        sck_hz: float = 10e6,
        clock: Clock | None = None,
        detach_kernel_driver: bool = True,
    ) -> FtdiBus:
        """Open the adapter `where` names; arguments and errors are also those of `MpssePort.open`.

        `sck_hz` is the most that SCK may have: 30 MHz and whole parts of it can be made.

        Raises:
            UsageError: the adapter has no such pin, or cannot make such a clock.
            BusError: it does not answer as an MPSSE does.
        """
        clock = clock or RealClock()
        port = MpssePort.open(where, clock=clock, detach_kernel_driver=detach_kernel_driver)
        try:
            bus = cls(port, wires or Wires(), sck_hz, clock)
            with bus._guarded():
                bus._ask(Program(bus._encoder.setup))
        except BaseException:
            port.close()
            raise
        return bus

    @property
    def counters(self) -> UsbCounters:
        """What has been sent over USB."""
        return self._port.counters

    def run(self, steps: Sequence[Step]) -> list[Captured]:
        """See `SpiBus`.

        Raises:
            UsageError: more than the limits allow, or no PIRQ# to wait for; nothing was sent.
        """
        if not steps:
            return []
        program = self._encoder.batch(steps)
        if program.answers > self.limits.bytes_in:
            raise UsageError(
                f"a batch with {program.answers} answers: the limit is {self.limits.bytes_in}"
            )
        with self._guarded():
            return results(steps, self._ask(program))

    def stretch(self, transfer: Transfer, most_waits: int, *, trust_header: bool = True) -> bytes:
        """See `SpiBus`; `trust_header` is False for a chip whose header says ready too early.

        No more bytes are clocked than belong to the transfer, wherever in them the chip gets ready:
        none is lost, and none is one too many. Without waits that is one round trip.
        """
        with self._guarded():
            answer = self._stretch(transfer, most_waits, trust_header)
        if answer is None:
            raise Timeout(
                f"{self._port.name}: the chip is not ready after {most_waits} wait bytes",
                hint="check the chip's power and reset; lower the clock",
            )
        return answer

    def reset(self) -> None:
        """See `SpiBus`."""
        if self._wires.reset is None:
            raise Unsupported(
                f"{self._port.name}: no reset line is wired",
                hint="name its pin in the board's file, or power the chip off and on",
            )
        with self._guarded():
            self._ask(Program(self._encoder.hold_reset))
            self._clock.sleep(self._wires.reset_pulse_s)
            self._ask(Program(self._encoder.free_reset))
            self._clock.sleep(self._wires.reset_settle_s)

    def close(self) -> None:
        """See `SpiBus`; all pins are inputs afterwards."""
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(HwtpmError):  # an adapter that is gone drives nothing
                if self._sound:
                    self._port.send(self._encoder.let_go, _USB_S)
                else:
                    self._port.restart()
        finally:
            self._port.close()

    def _stretch(self, transfer: Transfer, most_waits: int, trust_header: bool) -> bytes | None:
        """The bytes read; None if the chip did not get ready."""
        encoder = self._encoder
        size = transfer.size or len(transfer.data)
        # What a chip does not take while it waits must be what it takes when it is ready.
        filler = transfer.data[:1] or bytes(1)
        blind = bytes(transfer.size) or filler
        sent = blind if trust_header else filler + blind
        captured = self._ask(encoder.opening(transfer.header, sent))
        while (start := data_start(captured, trust_header=trust_header)) is None:
            if len(captured) > most_waits:
                self._send(encoder.closing(b""))
                return None
            # The next byte is a wait byte for certain: it tells whether data follow.
            captured += self._ask(encoder.more(filler + blind))
        done = len(captured) - start
        if transfer.data:
            self._send(encoder.closing(transfer.data[done:]))
            return b""
        if done < size:
            captured += self._ask(encoder.more(bytes(size - done)))
        self._send(encoder.closing(b""))
        return captured[start:]

    def _ask(self, program: Program) -> bytes:
        """One round trip; its answers, all of them and nothing else."""
        self._marks += 1
        marker = MARKERS[self._marks % len(MARKERS)]
        spare_s = _USB_AFTER_IRQ_S if program.awaits_s else _USB_S
        reply = self._port.ask(
            marked(program.code, marker),
            program.answers + MARK_SIZE,
            program.duration_s + program.awaits_s + spare_s,
        )
        if program.awaits_s and len(reply) < program.answers + MARK_SIZE:
            raise Timeout(
                f"{self._port.name}: PIRQ# did not come within {program.awaits_s:g} s",
                hint=f"check the wire from PIRQ# to xDBUS{GPIOL1}, and its pull-up",
            )
        return unmarked(reply, program.answers, marker)

    def _send(self, program: Program) -> None:
        self._port.send(program.code, program.duration_s + _USB_S)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Leave the bus idle, whatever happens inside."""
        if self._closed:
            raise UsageError(f"{self._port.name}: the bus is closed")
        if not self._sound:
            self._restart()
        try:
            yield
        except BaseException:
            self._sound = False
            with suppress(HwtpmError):  # the first error is the one to tell
                self._restart()
            raise

    def _restart(self) -> None:
        self._port.restart()
        self._ask(Program(self._encoder.setup))
        self._sound = True
