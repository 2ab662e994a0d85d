"""RST# and PIRQ# on GPIO lines of a Linux machine, by libgpiod's Python package (version 2).

A line is named by its chip (/dev/gpiochip0) and its number or name there.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol

from hwtpm.clock import Clock, RealClock
from hwtpm.errors import AccessDenied, BusError, Busy, DeviceNotFound, HwtpmError, Unsupported

__all__ = ["GpioLine", "IrqLine", "ResetLine", "open_irq", "open_reset"]

_CONSUMER: Final = "hwtpm"


class ResetLine(Protocol):
    """Whatever drives RST#."""

    def drive(self, low: bool) -> None:
        """Hold the chip in reset, or let it run.

        Raises:
            BusError: the line cannot be driven any more.
        """
        ...

    def close(self) -> None:
        """Let the line go; a second call does nothing."""
        ...


class IrqLine(Protocol):
    """Whatever watches PIRQ#."""

    def await_low(self, timeout_s: float) -> bool:
        """Return True as soon as the line is low; False if it does not become so in time.

        Raises:
            BusError: the line cannot be read any more.
        """
        ...

    def close(self) -> None:
        """Let the line go; a second call does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class GpioLine:
    """A line of a GPIO chip, by its number or its name."""

    chip: str
    line: int | str

    def __str__(self) -> str:
        return f"line {self.line} of {self.chip}"


def open_reset(line: GpioLine) -> ResetLine:
    """Take RST#: it is pulled low, or let go for a pull-up to raise; the machine's is switched on.

    What another part of the board does to the line is not fought, then, and after `close` it is an
    input again. A chip that was held in reset till now comes out of it: use `SpiBus.reset`.

    Raises:
        Unsupported: the package is missing, or too old.
        DeviceNotFound: there is no such chip or line.
        AccessDenied: its permissions forbid it.
        Busy: somebody else uses the line.
    """
    gpiod = _package()
    return _Reset(
        _request(
            gpiod,
            line,
            direction=gpiod.line.Direction.OUTPUT,
            drive=gpiod.line.Drive.OPEN_DRAIN,
            bias=gpiod.line.Bias.PULL_UP,
            output_value=gpiod.line.Value.ACTIVE,
        ),
        line,
        gpiod,
    )


def open_irq(line: GpioLine, clock: Clock | None = None) -> IrqLine:
    """Watch PIRQ#, an open-drain output of the chip; the machine's pull-up is switched on.

    Raises:
        Unsupported, DeviceNotFound, AccessDenied, Busy: as `open_reset`.
    """
    gpiod = _package()
    return _Irq(
        _request(
            gpiod,
            line,
            direction=gpiod.line.Direction.INPUT,
            bias=gpiod.line.Bias.PULL_UP,
            edge_detection=gpiod.line.Edge.FALLING,
        ),
        line,
        gpiod,
        clock or RealClock(),
    )


class _Requested:
    """A line that the kernel gave us; gpiod is typed, but need not be installed."""

    def __init__(self, request: Any, line: GpioLine, gpiod: Any) -> None:
        self._request = request
        self._line = line
        self._value = gpiod.line.Value

    def close(self) -> None:
        if self._request is not None:
            request, self._request = self._request, None
            request.release()


class _Reset(_Requested):
    def drive(self, low: bool) -> None:
        value = self._value.INACTIVE if low else self._value.ACTIVE
        try:
            self._request.set_value(self._line.line, value)
        except OSError as error:
            raise BusError(f"RST#: cannot drive {self._line}: {error.strerror}") from error


class _Irq(_Requested):
    def __init__(self, request: Any, line: GpioLine, gpiod: Any, clock: Clock) -> None:
        super().__init__(request, line, gpiod)
        self._clock = clock

    def await_low(self, timeout_s: float) -> bool:
        until_s = self._clock.now() + timeout_s
        try:
            # The level decides: an edge is old news, it only tells when to look again. One that
            # comes between looking and waiting is kept for the wait.
            while self._request.get_value(self._line.line) is not self._value.INACTIVE:
                left_s = until_s - self._clock.now()
                if left_s <= 0:
                    return False
                if self._request.wait_edge_events(left_s):
                    self._request.read_edge_events()
        except OSError as error:
            raise BusError(f"PIRQ#: cannot read {self._line}: {error.strerror}") from error
        return True


def _package() -> Any:
    try:
        gpiod = import_module("gpiod")
    except ImportError as error:
        raise Unsupported(
            "GPIO lines need the Python package gpiod",
            hint="pip install 'hwtpm[gpio]', or take the lines out of the board's file",
        ) from error
    if not hasattr(gpiod, "request_lines"):
        raise Unsupported(
            f"the Python package gpiod is too old: {getattr(gpiod, '__version__', 'version 1')}",
            hint="pip install 'gpiod>=2.1'; Debian's python3-libgpiod of 2023 is version 1",
        )
    return gpiod


def _request(gpiod: Any, line: GpioLine, **settings: Any) -> Any:
    try:
        return gpiod.request_lines(
            line.chip, consumer=_CONSUMER, config={line.line: gpiod.LineSettings(**settings)}
        )
    except (OSError, ValueError) as error:
        raise _open_error(error, line) from error


def _open_error(error: OSError | ValueError, line: GpioLine) -> HwtpmError:
    code = error.errno if isinstance(error, OSError) else errno.EINVAL
    if code in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"no permission to use {line}",
            hint="become a member of the device's group (often gpio), or run as root",
        )
    if code == errno.EBUSY:
        return Busy(f"{line} is in use", hint="gpioinfo shows by whom; often it is an overlay")
    return DeviceNotFound(f"{line}: {error}", hint="gpioinfo lists chips and lines")
