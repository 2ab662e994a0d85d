"""Batches as messages of Linux' spidev driver, pure: what the ioctl SPI_IOC_MESSAGE(N) gets.

Sources: linux/spi/spidev.h (the structure), drivers/spi/spidev.c (the buffer), drivers/spi/spi.c
`spi_transfer_one_message` (chip select). The ioctl's number is that of asm-generic: x86, ARM and
RISC-V, but not PowerPC, MIPS or SPARC.

One transfer is one chip select assertion: cs_change makes chip select pulse between two transfers
of a message, and on the last transfer it keeps chip select low into the next message. delay_usecs
passes before chip select rises.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from hwtpm.tis_spi.bus import AwaitIrq, Captured, Pause, Step, Transfer
from hwtpm.tis_spi.framing import HEADER_SIZE, MAX_TRANSFER

__all__ = [
    "LONGEST_DELAY_US",
    "MOST_TRANSFERS",
    "Buffer",
    "IocTransfer",
    "Piece",
    "captured",
    "encode",
    "in_messages",
    "request",
]

# struct spi_ioc_transfer: tx_buf, rx_buf, len, speed_hz, delay_usecs, bits_per_word, cs_change,
# tx_nbits, rx_nbits, word_delay_usecs, pad.
_TRANSFER: Final = struct.Struct("=QQIIHBBBBBB")
_REST: Final = (0, 0, 0, 0)
_NUMBER: Final = 1 << 30 | ord("k") << 8  # _IOC_WRITE, SPI_IOC_MAGIC, 0
_SIZE_SHIFT: Final = 16
_SIZE_BITS: Final = 14

MOST_TRANSFERS: Final = ((1 << _SIZE_BITS) - 1) // _TRANSFER.size
"""The size of the structures has to fit into the ioctl's number."""

LONGEST_DELAY_US: Final = 0xFFFF
"""delay_usecs has 16 bits."""

_WIDEST_ALIGNMENT: Final = 128
_STATUS_AT: Final = HEADER_SIZE - 1


class IocTransfer(NamedTuple):
    """One full-duplex transfer: as many bytes come back as `tx` has."""

    tx: bytes
    cs_change: bool = False
    delay_us: int = 0


Piece: TypeAlias = tuple[IocTransfer, ...] | Pause | AwaitIrq
"""A message, or what has to happen between two of them."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """spidev's buffer: `size` bytes (its parameter bufsiz) in each direction, of which each
    transfer takes a multiple of `alignment` bytes.

    The alignment is that of the kernel's memory for DMA, which it tells nobody: 8 on x86, 64 or 128
    elsewhere. The widest is always right, and still gives 32 transfers a message.
    """

    size: int = 4096
    alignment: int = _WIDEST_ALIGNMENT

    def takes(self, size: int) -> int:
        """Bytes of the buffer that a transfer of so many takes."""
        return -(-size // self.alignment) * self.alignment

    @property
    def transfers(self) -> int:
        """Transactions, however long, that fit into one message; at least one is tried."""
        fitting = self.size // self.takes(HEADER_SIZE + MAX_TRANSFER)
        return max(1, min(fitting, MOST_TRANSFERS))


def in_messages(
    steps: Sequence[Step], buffer: Buffer, longest_delay_us: int = LONGEST_DELAY_US
) -> list[Piece]:
    """A batch in as few messages as it takes; chip select is high after each of them.

    A pause of up to `longest_delay_us` that stands between two transfers of a message becomes the
    delay of the first one. Any other one, and every `AwaitIrq`, stands between two messages.
    """
    pieces: list[Piece] = []
    message: list[IocTransfer] = []
    taken = 0
    for step in steps:
        match step:
            case Transfer(header, data, size):
                tx = header + (data or bytes(size))
                taken += buffer.takes(len(tx))
                if message and (taken > buffer.size or len(message) == MOST_TRANSFERS):
                    _close(pieces, message)
                    taken = buffer.takes(len(tx))
                message.append(IocTransfer(tx, cs_change=True))
            case Pause(duration_s) if (
                message
                and (delay_us := message[-1].delay_us + _microseconds(duration_s))
                <= longest_delay_us
            ):
                message[-1] = message[-1]._replace(delay_us=delay_us)
            case _:
                _close(pieces, message)
                taken = 0
                pieces.append(step)
    _close(pieces, message)
    return pieces


def _close(pieces: list[Piece], message: list[IocTransfer]) -> None:
    """End a message; a delay at its end is a pause after it, when chip select is high."""
    if not message:
        return
    last = message[-1]
    pieces.append((*message[:-1], IocTransfer(last.tx)))
    if last.delay_us:
        pieces.append(Pause(last.delay_us / 1e6))
    message.clear()


def _microseconds(duration_s: float) -> int:
    return max(math.ceil(duration_s * 1e6), 0)


def request(transfers: int) -> int:
    """The number of the ioctl SPI_IOC_MESSAGE(transfers)."""
    assert 0 < transfers <= MOST_TRANSFERS
    return _NUMBER | transfers * _TRANSFER.size << _SIZE_SHIFT


def encode(transfers: Sequence[IocTransfer], tx_address: int, rx_address: int) -> bytearray:
    """The structures of a message whose bytes out, and in, lie one behind the other in memory."""
    raw = bytearray(len(transfers) * _TRANSFER.size)
    at = moved = 0
    for tx, cs_change, delay_us in transfers:
        size = len(tx)
        # Zeros: the device's speed and word size, and what is of no use here.
        _TRANSFER.pack_into(
            raw, at, tx_address + moved, rx_address + moved, size, 0, delay_us, 0, cs_change, *_REST
        )
        at += _TRANSFER.size
        moved += size
    return raw


def captured(steps: Sequence[Step], received: bytes) -> list[Captured]:
    """What came back during the transfers of a batch, from all bytes that were received."""
    results = []
    at = 0
    for step in steps:
        if isinstance(step, Transfer):
            end = at + HEADER_SIZE + (len(step.data) or step.size)
            data = b"" if step.data else received[at + HEADER_SIZE : end]
            results.append(Captured(received[at + _STATUS_AT], data))
            at = end
    return results
