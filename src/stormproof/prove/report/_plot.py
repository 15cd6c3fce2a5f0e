"""Plots: scales, ticks and paths; what the page draws and what it says in words instead.

Across, everything is a share of the width, so that a plot fits any screen: per cent for what is
drawn as a shape, thousandths of the width within paths. Down, everything is in CSS pixels.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ._words import duration, number, one_line

WIDTH = 1000
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Tick:
    """A label on an axis: `at` in per cent across, or in pixels down."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A named time: where, in per cent; its words; the row they stand in, and on which side."""

    at: float
    label: str
    row: int
    is_before: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A line in a panel: its class in the style sheet, its name, its path."""

    style: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Shapes:
    """Many of one shape: drawn as one path of dots, or each at its place."""

    style: str
    path: str = ""
    places: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot of a chart; `words` say what it shows to who does not see it."""

    title: str
    unit: str
    height: float
    words: str
    ticks: tuple[Tick, ...] = ()
    lines: tuple[Line, ...] = ()
    shapes: tuple[Shapes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Panels over one another on one axis of time, with the same marks through all of them."""

    panels: tuple[Panel, ...]
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...] = ()
    rows: int = field(default=0)


@dataclass(frozen=True, slots=True)
class Across:
    """The axis of time: from when to when, in seconds since the recording began."""

    began_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        """Its length, never zero."""
        return max(self.ended_at - self.began_at, 1e-3)

    def percent(self, at: float) -> float:
        """Return where a time is, in per cent of the width."""
        share = (at - self.began_at) / self.seconds
        return round(100 * min(1.0, max(0.0, share)), 2)

    def ticks(self) -> tuple[Tick, ...]:
        """Return about five labels, in seconds since its beginning."""
        values = round_values(self.seconds, most=6)
        return tuple(Tick(self.percent(self.began_at + value), number(value)) for value in values)

    def marks(self, named: Mapping[str, float]) -> tuple[tuple[Mark, ...], int]:
        """Return the marks within it, in rows so that no words lie on others, and how many rows."""
        inside = sorted((at, name) for name, at in named.items() if self._holds(at))
        found: list[Mark] = []
        free_from: list[float] = []
        for at, name in inside:
            label = f"{one_line(name)[:40]} {duration(at - self.began_at)}"
            place = self.percent(at)
            wide = len(label) * 2.1  # per cent: a letter takes 7 of some 340 pixels on a phone
            is_before = place + wide > 100
            left = place - wide if is_before else place
            row = next((row for row, free in enumerate(free_from) if free <= left), len(free_from))
            free_from[row : row + 1] = [left + wide]
            found.append(Mark(place, label, row, is_before))
        return tuple(found), len(free_from)

    def _holds(self, at: float) -> bool:
        return self.began_at <= at <= self.ended_at


@dataclass(frozen=True, slots=True)
class Down:
    """An axis of values: linear from zero, or logarithmic in whole decades."""

    low: float
    high: float
    height: float
    top: float = 6.0
    bottom: float = 6.0
    is_log: bool = False

    @classmethod
    def linear(cls, values: Iterable[float], height: float) -> "Down":
        """Return an axis from zero to a round number above all values."""
        high = max((value for value in values if math.isfinite(value)), default=0.0)
        steps = round_values(high or 1.0, most=4)
        step = steps[1] - steps[0] if len(steps) > 1 else 1.0
        return cls(0.0, step * math.ceil((high or 1.0) / step - 1e-9), height)

    @classmethod
    def decades(cls, values: Iterable[float], height: float, *, bottom: float = 6.0) -> "Down":
        """Return a logarithmic axis of 0.1 ms to 100 s, as much of it as the values need."""
        finite = [value for value in values if math.isfinite(value)]
        least, most = min(finite, default=0.01), max(finite, default=0.1)
        low = 10.0 ** math.floor(math.log10(min(10.0, max(1e-4, least))))
        high = 10.0 ** math.ceil(math.log10(min(100.0, max(low * 10, most))) - 1e-9)
        return cls(low, high, height, bottom=bottom, is_log=True)

    def pixels(self, value: float) -> float:
        """Return how far down a value is."""
        if self.is_log:
            value = min(self.high, max(self.low, value))
            share = math.log10(value / self.low) / math.log10(self.high / self.low)
        else:
            share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        return round(self.top + (1 - share) * (self.height - self.top - self.bottom), 1)

    def ticks(self, *, most: int = 4) -> tuple[Tick, ...]:
        """Return labels: the decades as durations, else a few round numbers."""
        if self.is_log:
            count = round(math.log10(self.high / self.low))
            decades = [self.low * 10**power for power in range(count + 1)]
            every = math.ceil(len(decades) / most)
            labels = [f"{value:g} s" if value >= 1 else duration(value) for value in decades]
            ticks = [
                Tick(self.pixels(at), label) for at, label in zip(decades, labels, strict=True)
            ]
            return tuple(ticks[::every])
        values = [value for value in round_values(self.high, most=most) if value <= self.high]
        return tuple(Tick(self.pixels(value), number(value)) for value in values)


def round_values(most_value: float, *, most: int) -> list[float]:
    """Return at most `most` + 1 round numbers from 0 up to `most_value`."""
    rough = most_value / most
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(
        factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough - 1e-12
    )
    return [round(step * index, 9) for index in range(math.floor(most_value / step + 1e-9) + 1)]


def thinned(points: Points, *, most: int = 400) -> Points:
    """Return at most about `most` points that keep every peak: least and most of each stretch."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most / 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        least = min(stretch, key=lambda point: point[1])
        highest = max(stretch, key=lambda point: point[1])
        kept += sorted({least, highest})
    return kept


def path(points: Points, across: Across, down: Down) -> str:
    """Return the points joined by straight lines; a gap where a value is not finite."""
    parts: list[str] = []
    is_joined = False
    for at, value in points:
        if not math.isfinite(value):
            is_joined = False
            continue
        x = round(across.percent(at) * WIDTH / 100, 1)
        parts.append(f"{'L' if is_joined else 'M'}{x:g} {down.pixels(value):g}")
        is_joined = True
    return "".join(parts)


def in_words(points: Points, unit: str) -> str:
    """Return a line in words: from, to, least and most."""
    values = [value for _, value in points if math.isfinite(value)]
    if not values:
        return "nothing was measured"
    ends = f"from {number(values[0])} to {number(values[-1])} {one_line(unit)}"
    return f"{ends}, least {number(min(values))}, most {number(max(values))}"
