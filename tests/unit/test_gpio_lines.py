"""RST# and PIRQ# lines over a stand-in for gpiod: those calls of its version 2 that are used."""

from __future__ import annotations

import errno
import sys
from enum import Enum, auto
from types import ModuleType, SimpleNamespace

import pytest

from hwtpm.clock import FakeClock
from hwtpm.errors import AccessDenied, BusError, Busy, DeviceNotFound, HwtpmError, Unsupported
from hwtpm.tis_spi.gpio import GpioLine, open_irq, open_reset

RESET = GpioLine("/dev/gpiochip0", 24)
PIRQ = GpioLine("/dev/gpiochip0", "GPIO25")


class Value(Enum):
    INACTIVE = 0
    ACTIVE = 1


class Direction(Enum):
    INPUT = auto()
    OUTPUT = auto()


class Bias(Enum):
    PULL_UP = auto()


class Drive(Enum):
    OPEN_DRAIN = auto()


class Edge(Enum):
    FALLING = auto()


class Gpiod(ModuleType):
    """The package, and behind it one line whose level changes as time passes."""

    line = SimpleNamespace(Value=Value, Direction=Direction, Bias=Bias, Drive=Drive, Edge=Edge)
    LineSettings = staticmethod(dict)

    def __init__(self, clock: FakeClock) -> None:
        super().__init__("gpiod")
        self.clock = clock
        self.refuses: Exception | None = None
        self.requested: list[object] = []
        self.driven: list[Value] = []
        self.released = 0
        self.low_from_s, self.low_until_s = 1e9, 1e9
        self.edges = [1e9]
        self.breaks = False

    def request_lines(self, path: str, config: dict[object, object], consumer: str) -> Gpiod:
        if self.refuses:
            raise self.refuses
        self.requested.append((path, config, consumer))
        return self

    def set_value(self, line: object, value: Value) -> None:
        self._break()
        self.driven.append(value)

    def get_value(self, line: object) -> Value:
        self._break()
        low = self.low_from_s <= self.clock.now() < self.low_until_s
        return Value.INACTIVE if low else Value.ACTIVE

    def wait_edge_events(self, timeout: float) -> bool:
        until_s = min(self.edges[0], self.clock.now() + timeout)
        self.clock.sleep(max(until_s - self.clock.now(), 0))
        return self.edges[0] <= self.clock.now()

    def read_edge_events(self) -> list[float]:
        assert self.edges[0] <= self.clock.now(), "this would block"
        return [self.edges.pop(0)]

    def release(self) -> None:
        self.released += 1

    def _break(self) -> None:
        if self.breaks:
            raise OSError(errno.ENODEV, "No such device")


@pytest.fixture
def gpiod(monkeypatch: pytest.MonkeyPatch) -> Gpiod:
    module = Gpiod(FakeClock())
    monkeypatch.setitem(sys.modules, "gpiod", module)
    return module


def test_reset_is_pulled_low_or_let_go(gpiod: Gpiod) -> None:
    line = open_reset(RESET)
    settings = {
        "direction": Direction.OUTPUT,
        "drive": Drive.OPEN_DRAIN,
        "bias": Bias.PULL_UP,
        "output_value": Value.ACTIVE,
    }
    assert gpiod.requested == [("/dev/gpiochip0", {24: settings}, "hwtpm")]
    line.drive(low=True)
    line.drive(low=False)
    assert gpiod.driven == [Value.INACTIVE, Value.ACTIVE]
    line.close()
    line.close()
    assert gpiod.released == 1


def test_pirq_is_an_input_with_a_pull_up(gpiod: Gpiod) -> None:
    open_irq(PIRQ).close()
    settings = {"direction": Direction.INPUT, "bias": Bias.PULL_UP, "edge_detection": Edge.FALLING}
    assert gpiod.requested == [("/dev/gpiochip0", {"GPIO25": settings}, "hwtpm")]
    assert gpiod.released == 1


@pytest.mark.parametrize(
    ("low", "edges", "came", "took_s"),
    [
        ((0, 9), [], True, 0),  # low already, whenever it fell
        ((0.2, 9), [0.2], True, 0.2),
        ((9, 9), [], False, 0.5),
        ((9, 9), [0.1, 0.2], False, 0.5),  # edges of pulses that are over
        ((0.3, 9), [-1.0, 0.3], True, 0.3),  # an edge that nobody took before
    ],
)
def test_pirq_counts_by_its_level(
    gpiod: Gpiod, low: tuple[float, float], edges: list[float], came: bool, took_s: float
) -> None:
    line = open_irq(PIRQ, gpiod.clock)
    gpiod.low_from_s, gpiod.low_until_s = low
    gpiod.edges = [*edges, 1e9]
    assert line.await_low(0.5) is came
    assert gpiod.clock.now() == pytest.approx(took_s)


def test_lines_that_break(gpiod: Gpiod) -> None:
    reset, pirq = open_reset(RESET), open_irq(PIRQ, gpiod.clock)
    gpiod.breaks = True
    with pytest.raises(BusError, match="line 24 of /dev/gpiochip0"):
        reset.drive(low=True)
    with pytest.raises(BusError, match="line GPIO25 of"):
        pirq.await_low(1)


@pytest.mark.parametrize(
    ("refusal", "kind", "text"),
    [
        (OSError(errno.ENOENT, "No such file"), DeviceNotFound, "gpioinfo"),
        (ValueError("no such line"), DeviceNotFound, "no such line"),
        (PermissionError(errno.EACCES, "Permission denied"), AccessDenied, "gpio"),
        (OSError(errno.EBUSY, "Busy"), Busy, "in use"),
    ],
)
def test_lines_that_cannot_be_had(
    gpiod: Gpiod, refusal: Exception, kind: type[HwtpmError], text: str
) -> None:
    gpiod.refuses = refusal
    with pytest.raises(kind, match="line 24 of /dev/gpiochip0") as raised:
        open_reset(RESET)
    assert text in str(raised.value)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(Unsupported, match="gpiod") as raised:
        open_irq(PIRQ)
    assert "hwtpm[gpio]" in raised.value.hint
    monkeypatch.setitem(sys.modules, "gpiod", ModuleType("gpiod"))
    with pytest.raises(Unsupported, match="too old"):
        open_irq(PIRQ)
