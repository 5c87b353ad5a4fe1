"""Geometry of charts: paths and ticks in shares of a drawing, for templates that write SVG and place texts in HTML.

A drawing is 100 wide and 100 high and is stretched to its place; texts stand beside it, so that none is stretched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from isobit.pipeline.facts.record import FrontierFacts, StepsFacts, TensorFacts

MOST_LINES = 33  # of a grid that are drawn one by one


@dataclass(frozen=True)
class Bar:
    """Part of a row, in percent of its width; `sign` is -1, 0 or 1 of a change."""

    left: float
    width: float
    sign: int


@dataclass(frozen=True)
class Tick:
    """A text at a place of an axis, in percent."""

    place: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A chart of lines: `series` are paths, `dots` (x, y, text) of the first one, `marks` further named dots."""

    series: tuple[str, ...]
    dots: tuple[tuple[float, float, str], ...]
    marks: tuple[tuple[float, float, str, str], ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]


@dataclass(frozen=True)
class HistogramView:
    """A histogram on its grid: a closed path, the grid's lines, the part of the width that the grid covers."""

    path: str
    lines: str
    left: float
    width: float
    every: int


def waterfall(steps: StepsFacts) -> list[Bar]:
    """A bar a stage: the first and the last from the left end, the others from the stage before."""
    known = [row.value for row in steps.rows if row.value is not None]
    if not known:
        return []
    low, high = _zoom(min(known), max(known))
    bars, before = [], None
    for place, row in enumerate(steps.rows):
        if row.value is None:
            bars.append(Bar(0, 0, 0))
            continue
        whole = before is None or place == len(steps.rows) - 1
        first = low if whole or before is None else before
        ends = sorted((_share(first, low, high), _share(row.value, low, high)))
        change = 0.0 if before is None else row.value - before
        sign = 0 if abs(change) < 1e-9 else int(math.copysign(1, change))
        bars.append(Bar(ends[0], max(ends[1] - ends[0], 0.4), sign))
        before = row.value
    return bars


def waterfall_start(steps: StepsFacts) -> float:
    """The value at the left end of the bars."""
    known = [row.value for row in steps.rows if row.value is not None]
    return _zoom(min(known), max(known))[0] if known else 0.0


def _zoom(least: float, most: float) -> tuple[float, float]:
    """Ends of an axis on which small changes are seen: three times the spread, or all from 0."""
    spread = most - least
    low = 0.0 if least >= 0 and (spread == 0 or spread * 4 > most) else least - 3 * spread
    step = nice_step(max(most - low, 1e-12), 10)
    return (math.floor(low / step) * step if low else 0.0), most if most != low else low + 1


def _share(value: float, low: float, high: float) -> float:
    return round(100 * (value - low) / (high - low), 2) if high > low else 0.0


def nice_step(width: float, parts: int) -> float:
    """1, 2 or 5 times a power of ten: about `parts` of them make `width`."""
    raw = width / max(parts, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def ticks(low: float, high: float, parts: int = 5) -> tuple[Tick, ...]:
    """Round numbers between two ends."""
    step = nice_step(high - low, parts)
    count = math.floor((high + step * 1e-9) / step) - math.ceil((low - step * 1e-9) / step) + 1
    first = math.ceil((low - step * 1e-9) / step)
    return tuple(Tick(_share((first + k) * step, low, high), f"{(first + k) * step:,.6g}") for k in range(count))


def histogram(tensor: TensorFacts) -> HistogramView | None:
    """What of a tensor's values lies where on its grid; heights are square roots, so that few values are seen too."""
    found = tensor.histogram
    if found is None or found.high <= found.low:
        return None
    wide, parts, last = 100 / len(found.heights), ["M0 100"], 100.0
    for place, height in enumerate(found.heights):
        top = round(100 - 96 * math.sqrt(height / 1000), 1)
        if top != last:
            parts.append(f"H{place * wide:.2f}V{top:g}")
            last = top
    parts.append("H100V100Z")
    every = 1
    while (tensor.qmax - tensor.qmin) / every >= MOST_LINES:
        every *= 2
    first = math.ceil(tensor.qmin / every) * every
    places = (_share(code, found.low, found.high) for code in range(first, tensor.qmax + 1, every))
    left, right = (_share(end, found.low, found.high) for end in (tensor.qmin - 0.5, tensor.qmax + 0.5))
    return HistogramView("".join(parts), "".join(f"M{place:g} 0V100" for place in places), left, right - left, every)


def profile(series: Sequence[Sequence[float | None]], names: Sequence[str]) -> Plot | None:
    """Ratios in decibel along the network; gaps where there is none.

    Args:
        series: one list a line; a shorter one ends before the others.
        names: of the places, for the dots of the first line.
    """
    known = [value for line in series for value in line if value is not None]
    if not known or max(map(len, series)) < 2:
        return None
    low, high = min(0.0, 10 * math.floor(min(known) / 10)), max(10.0, 10 * math.ceil(max(known) / 10))
    width = max(map(len, series)) - 1
    dots = tuple(
        (_share(place, 0, width), 100 - _share(value, low, high), f"{names[place]}: {value:.1f} dB")
        for place, value in enumerate(series[0]) if value is not None and place < len(names)
    )
    paths = tuple("".join(_line(run) for run in _runs(line, width, low, high)) for line in series)
    places = tuple(Tick(_share(tick, 0, width), f"{tick + 1}") for tick in _whole(width))
    return Plot(paths, dots, (), places, ticks(low, high))


def _runs(line: Sequence[float | None], width: int, low: float, high: float) -> list[list[tuple[float, float]]]:
    """Points of a line between its gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for place, value in enumerate(line):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((_share(place, 0, width), 100 - _share(value, low, high)))
    return runs


def _whole(width: int) -> list[int]:
    """Places of about six ticks, the first and the last among them."""
    parts = min(6, width)
    return [round(width * part / parts) for part in range(parts + 1)]


def frontier(found: FrontierFacts) -> Plot:
    """Sensitivity over size, with what was chosen and what equal bits everywhere would be."""
    points = [*found.points, found.chosen, *found.uniform.values()]
    logarithmic = all(point.omega > 0 for point in points)

    def height(omega: float) -> float:
        return math.log10(omega) if logarithmic else omega

    low, high = min(map(height, (p.omega for p in points))), max(map(height, (p.omega for p in points)))
    least, most = min(point.bytes for point in points), max(point.bytes for point in points)
    high, most = high if high > low else low + 1, most if most > least else least + 1

    def at(size: int, omega: float) -> tuple[float, float]:
        return _share(size, least, most), 100 - _share(height(omega), low, high)

    line = _line([at(point.bytes, point.omega) for point in found.points])
    marks = [(*at(point.bytes, point.omega), "uniform", f"{bits} bits") for bits, point in found.uniform.items()]
    marks.append((*at(found.chosen.bytes, found.chosen.omega), "chosen", "chosen"))
    heights = _decades(low, high) if logarithmic else ticks(low, high)
    return Plot((line,), (), tuple(marks), ticks(least, most), heights)


def _decades(low: float, high: float) -> tuple[Tick, ...]:
    """Ticks between two powers of ten; round numbers where they lie within two decades."""
    found = range(math.ceil(low), math.floor(high) + 1)
    if len(found) > 1:
        return tuple(Tick(_share(exponent, low, high), f"{10.0 ** exponent:.0e}") for exponent in found)
    least, most = 10.0**low, 10.0**high
    step = nice_step(max(most - least, 1e-9 * most), 4)
    places = range(math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9) + 1)
    return tuple(Tick(_share(math.log10(place * step), low, high), f"{place * step:.3g}") for place in places if place)


def _line(points: Sequence[tuple[float, float]]) -> str:
    """A path through points; a dot of one alone."""
    if len(points) == 1:
        return f"M{points[0][0]:g} {points[0][1]:g}h0"
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if points else ""
