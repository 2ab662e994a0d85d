"""Addresses: one text names one way to one TPM, and nothing ever stands in for another.

sim:  sim:PATH            our own engine behind a simulated chip, in memory or kept in a directory
libtpms:  libtpms:PATH    the same with libtpms
swtpm:PATH                the same with a swtpm process that keeps its state in a directory
libtpms2:  libtpms2:PATH  libtpms as a TPM 2.0 behind a simulated chip
swtpm2:PATH               the same with a swtpm process
dev:/dev/tpm0             the kernel's device
ftdi://ftdi:232h/1        a chip on an FTDI adapter, by pyftdi's URL
spidev:/dev/spidev0.1     a chip on a spidev device
board:NAME                the chip of a board's file; board:NAME:PATH a simulated one that is kept
unix:PATH  tcp:HOST:PORT  raw commands on a socket, such as every virtual TPM has
replay:FILE               a recording
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hwtpm.errors import HwtpmError, Unsupported, UsageError
from hwtpm.transport.base import Target, Transport
from hwtpm.transport.deadlines import Deadlines

__all__ = ["SCHEMES", "Scheme", "host_and_port", "kept_in", "open_transport", "schemes_text"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """One kind of address. `localities` tells whether commands can come from another than 0."""

    name: str
    form: str
    summary: str
    localities: bool
    open: Callable[[Target], Transport]


def open_transport(
    address: str, *, locality: int = 0, deadlines: Deadlines | None = None
) -> Transport:
    """The transport to the TPM that `address` names, opened.

    Software TPMs are powered on and started, as firmware does it: a TPM 1.2 with
    TPM_Startup(ST_CLEAR), a TPM 2.0 as `hwtpm.transport.simulated.StandbyTransport` says.

    Raises:
        UsageError: this is no address, or its scheme is unknown.
        DeviceNotFound, AccessDenied, Busy: it cannot be opened; nothing else is tried.
        Unsupported: this kind of transport carries no locality other than 0.
    """
    name, colon, rest = address.partition(":")
    scheme = next((known for known in SCHEMES if known.name == name), None)
    if not colon or scheme is None:
        raise UsageError(
            f"{address!r} is no address of a TPM", hint=f"use one of these:\n{schemes_text()}"
        )
    if locality not in range(5):
        raise UsageError(f"{address}: there is no locality {locality}", hint="use 0 to 4")
    if locality and not scheme.localities:
        raise Unsupported(
            f"{address}: commands on a {name}: address come from a locality of the other end's"
            f" choice, not from {locality}",
            hint="leave the locality out",
        )
    return scheme.open(Target(address, rest, locality, deadlines or Deadlines()))


def kept_in(address: str, directory: Path) -> str:
    """The address of the same simulated TPM 1.2, kept in a directory.

    One that is kept somewhere already, and whatever is not simulated, stays as it is.
    """
    name, _, rest = address.partition(":")
    if name in ("sim", "libtpms", "swtpm") and not rest:
        return f"{address}{directory}"
    if name == "board":
        from hwtpm.boards import find_board

        # Whoever opens what is no board learns why.
        with suppress(HwtpmError):
            return f"{address}:{directory}" if find_board(rest).simulated else address
    return address


def schemes_text() -> str:
    """All forms of addresses, one a line."""
    width = max(len(scheme.form) for scheme in SCHEMES)
    return "\n".join(f"  {scheme.form:<{width}}  {scheme.summary}" for scheme in SCHEMES)


def host_and_port(text: str, address: str, *, lowest: int = 1) -> tuple[str, int]:
    """The two parts of HOST:PORT, an IPv6 address without its brackets.

    Args:
        text: what is taken apart.
        address: what errors call it.
        lowest: the first port that is one.

    Raises:
        UsageError: these are no host and port.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    if not host or (":" in host and not bracketed) or not lowest <= number < 65536:
        raise UsageError(
            f"{address}: this is no host and port",
            hint="write HOST:PORT, an IPv6 address as [::1]:PORT",
        )
    return host[1:-1] if bracketed else host, number


def _sim(target: Target) -> Transport:
    from hwtpm.transport.simulated import open_engine

    return open_engine(target)


def _libtpms(target: Target) -> Transport:
    from hwtpm.transport.simulated import open_libtpms

    return open_libtpms(target)


def _swtpm(target: Target) -> Transport:
    from hwtpm.transport.simulated import open_swtpm

    return open_swtpm(target)


def _libtpms2(target: Target) -> Transport:
    from hwtpm.transport.simulated import open_libtpms2

    return open_libtpms2(target)


def _swtpm2(target: Target) -> Transport:
    from hwtpm.transport.simulated import open_swtpm2

    return open_swtpm2(target)


def _dev(target: Target) -> Transport:
    from hwtpm.transport.device import open_device

    return open_device(target.address, target.path("dev:/dev/tpm0"), deadlines=target.deadlines)


def _ftdi(target: Target) -> Transport:
    from hwtpm.transport.spi import open_ftdi

    return open_ftdi(target)


def _spidev(target: Target) -> Transport:
    from hwtpm.transport.spi import open_spidev_address

    return open_spidev_address(target)


def _board(target: Target) -> Transport:
    from hwtpm.transport.spi import open_board

    return open_board(target)


def _unix(target: Target) -> Transport:
    from hwtpm.transport.stream import connect_unix

    return connect_unix(target.address, target.path("unix:PATH"), deadlines=target.deadlines)


def _tcp(target: Target) -> Transport:
    from hwtpm.transport.stream import connect_tcp

    host, port = host_and_port(target.rest, target.address)
    return connect_tcp(target.address, host, port, deadlines=target.deadlines)


def _replay(target: Target) -> Transport:
    from hwtpm.transport.replay import Replay

    return Replay(target.address, target.path("replay:FILE"))


SCHEMES: Final[tuple[Scheme, ...]] = (
    Scheme("sim", "sim:[PATH]", "our software TPM, in memory or kept in a directory", True, _sim),
    Scheme(
        "libtpms", "libtpms:[PATH]", "libtpms, in memory or kept in a directory", True, _libtpms
    ),
    Scheme("swtpm", "swtpm:PATH", "a swtpm process with its state in a directory", True, _swtpm),
    Scheme(
        "libtpms2", "libtpms2:[PATH]", "libtpms as a TPM 2.0, in memory or kept", True, _libtpms2
    ),
    Scheme("swtpm2", "swtpm2:PATH", "a swtpm process as a TPM 2.0, kept", True, _swtpm2),
    Scheme("dev", "dev:/dev/tpm0", "the kernel's TPM device", False, _dev),
    Scheme("ftdi", "ftdi://ftdi:232h/1", "a TPM on an FTDI adapter (SPI)", True, _ftdi),
    Scheme("spidev", "spidev:/dev/spidev0.1", "a TPM on a spidev device (SPI)", True, _spidev),
    Scheme("board", "board:NAME", "the TPM of a board's file, see `hwtpm boards`", True, _board),
    Scheme(
        "unix", "unix:PATH", "raw commands on a unix socket, as virtual TPMs take", False, _unix
    ),
    Scheme("tcp", "tcp:HOST:PORT", "raw commands on a TCP socket", False, _tcp),
    Scheme("replay", "replay:FILE", "a recording", False, _replay),
)
