"""Timelines: an attack as dots and lines on one axis of time, thinned so that a page stays small.

Each request is a dot at the time it was meant to be sent and at the latency it had. Dots that
would lie on one another are drawn once; the counts in the legend are of all of them. Where there
are few (streams, rude clients) each is a line from its sending to its end.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stormproof.prove._recording import AttackRecord, Probe, Request, Sample

from ._plot import Across, Chart, Down, Line, Panel, Shapes, Tick, in_words, path, thinned
from ._words import duration, one_line, plural

OUTCOMES: Mapping[str, str] = {
    "good": "answered below 400",
    "client": "answered 4xx",
    "server": "answered 5xx",
    "timeout": "timed out",
    "broken": "cut, reset or refused",
    "left": "client left on purpose",
    "unsent": "never sent",
}
"""How a request ended, as the legend says it; the names are classes of the style sheet too."""

_BROKEN = {"truncated": "cut in mid-answer", "reset": "reset", "refused": "refused"}
_AS_DOTS = ("good", "client", "server")
_MOST_DOTS, _MOST_SHAPES, _MOST_GROUPS = 2000, 400, 12
_MOST_LIVES = 60
_HEIGHT, _LOW, _LANE = 170.0, 64.0, 16.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the legend: class, words, and how many requests."""

    style: str
    words: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """An attack to look at.

    Attributes:
        anchor: Its id on the page.
        groups: One line in words for each part the requests had.
        drawn: How many dots were drawn of how many requests, in words; "" when all were.
    """

    attack: AttackRecord
    anchor: str
    seconds: float
    legend: tuple[Entry, ...] = ()
    groups: tuple[str, ...] = ()
    drawn: str = ""
    chart: Chart | None = None


def timeline(attack: AttackRecord, anchor: str) -> Timeline:
    """Return what the page shows of an attack."""
    seconds = max(0.0, attack.ended_at - attack.began_at)
    if not (attack.requests or attack.canary or attack.samples):
        return Timeline(attack=attack, anchor=anchor, seconds=seconds)
    across = Across(attack.began_at, max(attack.ended_at, *_last_times(attack)))
    marks, rows = across.marks(_named(attack))
    panels: list[Panel] = []
    drawn = 0
    if 0 < len(attack.requests) <= _MOST_LIVES:
        panels.append(_lives(attack.requests, across))
        drawn = len(attack.requests)
    elif attack.requests:
        panel, drawn = _requests(attack.requests, across)
        panels.append(panel)
    panels += [_canary(attack.canary, across)] if attack.canary else []
    # What was sampled while the server started belongs to no attack.
    samples = [sample for sample in attack.samples if sample.at >= attack.began_at]
    panels += _processes(samples, across) if samples else []
    by_outcome = Counter(outcome(request) for request in attack.requests)
    return Timeline(
        attack=attack,
        anchor=anchor,
        seconds=seconds,
        legend=tuple(
            Entry(style, words, by_outcome[style])
            for style, words in OUTCOMES.items()
            if by_outcome[style]
        ),
        groups=tuple(_groups(attack.requests)),
        drawn=_drawn(drawn, len(attack.requests)),
        chart=Chart(panels=tuple(panels), ticks=across.ticks(), marks=marks, rows=rows),
    )


def outcome(request: Request) -> str:
    """Return how a request ended, as a name of OUTCOMES."""
    if request.is_good:
        return "good"
    if request.ended == "complete":
        return "server" if request.status >= 500 else "client"
    if request.ended in ("timeout", "left", "unsent"):
        return request.ended
    return "broken"


def _last_times(attack: AttackRecord) -> tuple[float, ...]:
    rows: Iterable[float] = (request.intended_at for request in attack.requests)
    probes = (probe.at for probe in attack.canary)
    samples = (sample.at for sample in attack.samples)
    return tuple(max(times, default=attack.began_at) for times in (rows, probes, samples))


def _named(attack: AttackRecord) -> dict[str, float]:
    exited = {"exit": attack.exit.at} if attack.exit else {}
    return {**attack.marks, **exited}


def _requests(requests: Sequence[Request], across: Across) -> tuple[Panel, int]:
    """Return the panel of the requests, and how many dots it has."""
    latencies = [request.latency for request in requests if request.latency is not None]
    has_lane = len(latencies) < len(requests)
    down = Down.decades(latencies, _HEIGHT, bottom=6 + (_LANE if has_lane else 0))
    cells: dict[str, set[tuple[float, float]]] = {name: set() for name in OUTCOMES}
    for request in requests:
        taken = request.latency
        y = _HEIGHT - _LANE / 2 if taken is None else down.pixels(taken)
        style = outcome(request)
        grid = 0.1 if style in _AS_DOTS else 0.4  # per cent: about a pixel, or half a shape
        x = round(across.percent(request.intended_at) / grid) * grid
        cells[style].add((round(x, 2), float(round(y))))
    shapes = tuple(_shapes(style, cells[style]) for style in OUTCOMES if cells[style])
    drawn = sum(_count(each) for each in shapes)
    lane = (Tick(_HEIGHT - _LANE / 2, "no end"),) if has_lane else ()
    panel = Panel(
        title="Requests: latency",
        unit="logarithmic",
        height=_HEIGHT,
        words=f"{_summary(requests)}.",
        ticks=down.ticks(most=6) + lane,
        shapes=shapes,
    )
    return panel, drawn


def _lives(requests: Sequence[Request], across: Across) -> Panel:
    """Return the panel of few requests: a line for the life of each, and how it ended."""
    height = 12.0 + 10 * len(requests)
    lines: dict[str, str] = {}
    ends: dict[str, list[tuple[float, float]]] = {}
    for row, request in enumerate(sorted(requests, key=lambda request: request.intended_at)):
        style, y = outcome(request), 10.0 + 10 * row
        ended_at = request.intended_at if request.last_byte_at is None else request.last_byte_at
        begun, ended = across.percent(request.intended_at), across.percent(ended_at)
        lines[style] = lines.get(style, "") + f"M{begun * 10:g} {y:g}H{ended * 10:g}"
        ends.setdefault(style, []).append((ended, y))
    return Panel(
        title="Requests: from sending to end",
        unit="a line each",
        height=height,
        words=f"{_summary(requests)}.",
        lines=tuple(Line(f"life {style}", OUTCOMES[style], path) for style, path in lines.items()),
        shapes=tuple(_drawn_shapes(style, places) for style, places in ends.items()),
    )


def _drawn_shapes(style: str, places: Sequence[tuple[float, float]]) -> Shapes:
    if style in _AS_DOTS:
        return Shapes(style, path="".join(f"M{x * 10:g} {y:g}h0" for x, y in places))
    return Shapes(style, places=tuple(places))


def _shapes(style: str, cells: set[tuple[float, float]]) -> Shapes:
    most = _MOST_DOTS if style in _AS_DOTS else _MOST_SHAPES
    ordered = sorted(cells)
    return _drawn_shapes(style, ordered[:: math.ceil(len(ordered) / most)])


def _count(shapes: Shapes) -> int:
    return shapes.path.count("M") + len(shapes.places)


def _drawn(drawn: int, of: int) -> str:
    if drawn >= of:
        return ""
    return (
        f"{drawn:,} of {of:,} requests are drawn, evenly over time; the others would lie on "
        "them or next to them. The counts are of all requests."
    )


def _summary(requests: Sequence[Request]) -> str:
    """Return requests in words: how many, how they ended, how long they took."""
    endings = Counter(outcome(request) for request in requests)
    words = {name: words for name, words in OUTCOMES.items() if name != "broken"}
    parts = [f"{endings[name]:,} {words[name]}" for name in words if endings[name]]
    ways = Counter(request.ended for request in requests if outcome(request) == "broken")
    parts += [f"{count:,} {_BROKEN.get(way, way)}" for way, count in ways.items()]
    latencies = sorted(
        request.latency for request in requests if request.is_good and request.latency is not None
    )
    if latencies:
        p99 = latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))]
        parts.append(
            f"good answers took p50 {duration(statistics.median(latencies))}, p99 {duration(p99)}"
        )
    return f"{plural(len(requests), 'request', 'requests')}: {', '.join(parts)}"


def _groups(requests: Sequence[Request]) -> Iterable[str]:
    by_group: dict[str, list[Request]] = {}
    for request in requests:
        by_group.setdefault(request.group, []).append(request)
    for group, rows in list(by_group.items())[:_MOST_GROUPS]:
        yield f"{one_line(group) or 'unnamed'}: {_summary(rows)}"
    if len(by_group) > _MOST_GROUPS:
        yield f"and {len(by_group) - _MOST_GROUPS} more groups"


def _canary(probes: Sequence[Probe], across: Across) -> Panel:
    answered = [probe.seconds for probe in probes if probe.status]
    missed = [probe for probe in probes if not 200 <= probe.status < 300]
    down = Down.decades(answered, _LOW, bottom=6 + (12 if missed else 0))
    points = [(probe.at, probe.seconds if probe.status else math.nan) for probe in probes]
    lane = {(round(across.percent(probe.at) / 0.8) * 0.8, _LOW - 8) for probe in missed}
    slowest = f", the slowest took {duration(max(answered))}" if answered else ""
    words = f"{len(probes):,} questions, {len(missed):,} without a 2xx answer{slowest}."
    return Panel(
        title="Liveness, asked all the time",
        unit="logarithmic; a cross is no answer" if missed else "logarithmic",
        height=_LOW,
        words=words,
        ticks=down.ticks(most=3),
        lines=(Line("canary", "liveness", path(_kept(points), across, down)),),
        shapes=(_shapes("broken", lane),) if lane else (),
    )


def _kept(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return the points thinned stretch by stretch, so that each gap stays a gap."""
    kept: list[tuple[float, float]] = []
    stretch: list[tuple[float, float]] = []
    for point in points:
        if math.isfinite(point[1]):
            stretch.append(point)
        elif stretch:
            kept += [*thinned(stretch), point]
            stretch = []
    return kept + list(thinned(stretch))


def _processes(samples: Sequence[Sample], across: Across) -> Iterable[Panel]:
    cpu = [
        (after.at, max(0.0, after.cpu_seconds - before.cpu_seconds) / (after.at - before.at))
        for before, after in pairwise(samples)
        if after.at > before.at
    ]
    if cpu:
        yield _of_lines("CPU", "cores busy", across, {"cpu": ("cores busy", cpu)})
    memory = [(sample.at, sample.rss_bytes / 1e6) for sample in samples]
    yield _of_lines("Memory, all processes", "MB", across, {"memory": ("MB", memory)})
    files = [(sample.at, float(sample.fds)) for sample in samples]
    threads = [(sample.at, float(sample.threads)) for sample in samples]
    yield _of_lines(
        "Open files (solid) and threads (dashed)",
        "count",
        across,
        {"files": ("open files", files), "threads": ("threads", threads)},
    )


def _of_lines(
    title: str,
    unit: str,
    across: Across,
    named: Mapping[str, tuple[str, Sequence[tuple[float, float]]]],
) -> Panel:
    values = [value for _, points in named.values() for _, value in points]
    down = Down.linear(values, _LOW)
    return Panel(
        title=title,
        unit=unit,
        height=_LOW,
        words="; ".join(in_words(points, name) for name, points in named.values()) + ".",
        ticks=down.ticks(most=2),
        lines=tuple(
            Line(style, name, path(thinned(points), across, down))
            for style, (name, points) in named.items()
        ),
    )


def scaled(value: float, limit: float) -> tuple[float, float]:
    """Return value and limit in per cent of a bar that has room for both."""
    full = max(abs(value), abs(limit)) * 1.1 or 1.0
    return round(100 * abs(value) / full, 1), round(100 * abs(limit) / full, 1)
