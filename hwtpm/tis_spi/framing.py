"""The bit protocol of a TPM on SPI, pure: header, wait states, data; one chip select a transaction.

TCG PC Client Platform TPM Profile (PTP) "SPI hardware protocol" and "SPI bit protocol": mode 0,
bytes with their most significant bit first, registers with their least significant byte first.

A transaction is 4 header bytes, any number of wait bytes, and 1 to 64 data bytes under one chip
select. The chip says "ready" with the least significant bit of the byte it shifts out: data follow
the first byte from the last header byte on in which that bit is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hwtpm.errors import ProtocolError, UsageError
from hwtpm.tis.registers import (
    LOCALITIES,
    LOCALITY_SIZE,
    SPI_BASE,
    Register,
    register_at,
    split_address,
)

__all__ = [
    "HEADER_SIZE",
    "MAX_TRANSFER",
    "Header",
    "Transaction",
    "data_start",
    "decode_header",
    "decode_transaction",
    "read_data",
    "transfer_limit",
]

HEADER_SIZE: Final = 4
MAX_TRANSFER: Final = 64

_LEGACY_TRANSFER: Final = 4
_READ: Final = 0x80
_RESERVED: Final = 0x40
_SIZE: Final = 0x3F
_READY: Final = 0x01
_PAGES: Final = LOCALITIES * LOCALITY_SIZE


@dataclass(frozen=True, slots=True)
class Header:
    """What a transaction does: `size` bytes at an address of the TIS window (from 0).

    Raises:
        UsageError: no header can say that.
    """

    reading: bool
    address: int
    size: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_TRANSFER:
            raise UsageError(f"SPI transfer of {self.size} bytes: 1 to {MAX_TRANSFER}")
        if not 0 <= self.address < _PAGES:
            raise UsageError(f"address {self.address:#x} is outside of the localities")

    @classmethod
    def within(cls, reading: bool, address: int, size: int, limit: int = MAX_TRANSFER) -> Header:
        """A header that a chip with that transfer limit takes, for a host to send.

        Raises:
            UsageError: more than `limit` bytes, or beyond the end of a register.
        """
        header = cls(reading, address, size)
        if size > limit:
            raise UsageError(f"SPI transfer of {size} bytes: the chip takes {limit}")
        register = header.register
        if register is not None and not register.is_fifo:
            room = register.offset + register.size - header.offset
            if size > room:
                # The chip may discard what is too much, or the whole transaction.
                raise UsageError(
                    f"SPI transfer of {size} bytes at {header.offset:#05x}: "
                    f"{register.name} ends after {room}"
                )
        return header

    @property
    def locality(self) -> int:
        """Whose page it is."""
        return split_address(self.address)[0]

    @property
    def offset(self) -> int:
        """Where in the page."""
        return split_address(self.address)[1]

    @property
    def register(self) -> Register | None:
        """The register there, or None where nothing is declared."""
        return register_at(self.offset)

    def encode(self) -> bytes:
        """The 4 bytes on the wire."""
        first = (_READ if self.reading else 0) | self.size - 1
        return bytes([first]) + (SPI_BASE + self.address).to_bytes(3, "big")


def decode_header(raw: bytes) -> Header:
    """The header that 4 bytes on MOSI are.

    Raises:
        ProtocolError: they are none; a TPM ignores that transaction.
    """
    if len(raw) != HEADER_SIZE:
        raise ProtocolError(f"SPI header of {len(raw)} bytes")
    if raw[0] & _RESERVED:
        raise ProtocolError(f"SPI header {raw.hex(' ')}: the reserved bit 6 is set")
    address = int.from_bytes(raw[1:], "big") - SPI_BASE
    if not 0 <= address < _PAGES:
        raise ProtocolError(
            f"SPI header {raw.hex(' ')}: the address is not 0xD4LRRR with a locality of 0 to "
            f"{LOCALITIES - 1}"
        )
    return Header(bool(raw[0] & _READ), address, (raw[0] & _SIZE) + 1)


def transfer_limit(announced: int) -> int:
    """Bytes a FIFO transfer may have on a chip that announces `announced` (0: legacy)."""
    return min(announced or _LEGACY_TRANSFER, MAX_TRANSFER)


def data_start(captured: bytes, *, trust_header: bool = True) -> int | None:
    """Where data start in MISO bytes captured from the last header byte on.

    None if the chip was not ready within them: clock more bytes. Some chips set the bit in the
    header too early (see `Quirks.header_bit_valid`); for those `trust_header` is False.
    """
    first = 0 if trust_header else 1
    for at in range(first, len(captured)):
        if captured[at] & _READY:
            return at + 1
    return None


def read_data(captured: bytes, size: int, *, trust_header: bool = True) -> bytes | None:
    """The `size` data bytes in MISO captured from the last header byte on; None if cut short."""
    start = data_start(captured, trust_header=trust_header)
    if start is None or len(captured) < start + size:
        return None
    return captured[start : start + size]


@dataclass(frozen=True, slots=True)
class Transaction:
    """A captured transaction: what was asked for, how long the chip made the host wait, the data.

    `data` is shorter than `header.size` where chip select rose early.
    """

    header: Header
    waits: int
    data: bytes

    @property
    def complete(self) -> bool:
        """Whether all bytes were transferred."""
        return len(self.data) == self.header.size


def decode_transaction(mosi: bytes, miso: bytes, *, trust_header: bool = True) -> Transaction:
    """Both lines under one chip select, as a logic analyser or a trace has them.

    Raises:
        ProtocolError: the lines differ in length, or MOSI does not start with a header.
    """
    if len(mosi) != len(miso):
        raise ProtocolError(f"{len(mosi)} bytes on MOSI, {len(miso)} on MISO")
    header = decode_header(mosi[:HEADER_SIZE])
    captured = miso[HEADER_SIZE - 1 :]
    start = data_start(captured, trust_header=trust_header)
    if start is None:
        return Transaction(header, len(captured) - 1, b"")
    first = HEADER_SIZE - 1 + start
    line = miso if header.reading else mosi
    return Transaction(header, start - 1, line[first : first + header.size])
