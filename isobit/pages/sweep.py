"""The page of a sweep: what is best, accuracy over size for every model, and every recipe with its seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from isobit.pages.charts import Plot, nice_step, ticks
from isobit.pages.environment import MOST_BYTES, render, size_text
from isobit.sweep.best import answers
from isobit.sweep.results import DONE, FAILED, Group, Row, groups
from isobit.sweep.rules import Rule

BRAND = "Isobit sweep"
APART = (35.0, 8.0)  # of a chart's width and height: names beside points of a front that are nearer would overlap


@dataclass(frozen=True)
class Line:
    """A row of a model's table; `front` says that nothing else is both as accurate and as small."""

    group: Group
    front: bool

    @property
    def accuracy(self) -> str:
        """`91.26 ± 0.42 %`."""
        group = self.group
        if group.accuracy is None:
            return "–"
        deviation = "" if group.deviation is None else f" ± {group.deviation:.2f}"
        return f"{group.accuracy:.2f}{deviation} {group.head.unit}".rstrip()

    @property
    def change(self) -> float | None:
        """Artifact minus float."""
        here, of_float = self.group.accuracy, self.group.float_accuracy
        return None if here is None or of_float is None else here - of_float


@dataclass(frozen=True)
class ModelView:
    """All of one model."""

    name: str
    measure: str
    unit: str
    float_accuracy: str
    plots: tuple[tuple[str, Plot], ...]
    lines: tuple[Line, ...]


def sweep_page(title: str, rows: Sequence[Row], rules: Sequence[Rule]) -> str:
    """The page; of large sweeps recipes that are on no front are left out to keep to `MOST_BYTES`."""
    views, text = [model_view(name, groups(rows), name) for name in dict.fromkeys(row.model for row in rows)], ""
    for most in (None, 2000, 200, 0):
        text = render("sweep.html.j2", **_facts(title, rows, rules, views, most))
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


def _facts(title: str, rows: Sequence[Row], rules: Sequence[Rule], views: Sequence[ModelView], most: int | None
           ) -> dict[str, Any]:
    failed = [row for row in rows if row.status == FAILED]
    shown = [(view, _cut(view.lines, most)) for view in views]
    return {
        "brand": BRAND, "title": title, "views": shown, "size": size_text, "failed": failed[:100],
        "more_failed": len(failed[100:]), "left_out": sum(len(view.lines) - len(lines) for view, lines in shown),
        "best": answers(rules, rows), "tiles": [
            ("cells", f"{sum(row.status == DONE for row in rows)} of {len(rows)}", "done"),
            ("failed", str(len(failed)), "tried again by the next call"),
            ("codes that differ", f"{sum(row.differing or 0 for row in rows):,}", "in all artifacts together"),
            ("time of builds", f"{sum(row.seconds or 0.0 for row in rows):,.0f} s", "one after another"),
        ],
    }


def _cut(lines: Sequence[Line], most: int | None) -> Sequence[Line]:
    """Fronts first."""
    return lines if most is None else [line for place, line in enumerate(lines) if line.front or place < most]


def model_view(name: str, found: Sequence[Group], model: str) -> ModelView:
    """Charts and table of a model.

    Args:
        found: groups of all models.
    """
    here = [group for group in found if group.model == model]
    known = [group for group in here if group.accuracy is not None and group.bytes is not None]
    front = {id(group) for group in pareto(known)}
    lines = sorted((Line(group, id(group) in front) for group in here), key=lambda line: line.group.bytes or 0.0)
    plots = [("size", plot(known, lambda g: g.bytes or 0.0))] if len(known) > 1 else []
    timed = [group for group in known if group.latency is not None]
    plots += [("latency", plot(timed, lambda g: g.latency or 0.0))] if len(timed) > 1 else []
    head = known[0].head if known else None
    value = None if not known else known[0].float_accuracy
    return ModelView(name, "" if head is None else head.measure, "" if head is None else head.unit,
                     "" if value is None or head is None else f"{value:.2f} {head.unit}".rstrip(), tuple(plots),
                     tuple(lines))


def pareto(known: Sequence[Group], cost: Callable[[Group], float] = lambda g: g.bytes or 0.0) -> list[Group]:
    """Those that no other beats in accuracy without costing more, cheapest first."""
    better = 1.0 if not known or known[0].head.higher_is_better else -1.0
    front: list[Group] = []
    for group in sorted(known, key=lambda g: (cost(g), -better * (g.accuracy or 0.0))):
        if not front or better * (group.accuracy or 0.0) > better * (front[-1].accuracy or 0.0):
            front.append(group)
    return front


def plot(known: Sequence[Group], cost: Callable[[Group], float]) -> Plot:
    """Accuracy over a cost: the front as a line, deviations over seeds as strokes, every group a dot with its name."""
    front = pareto(known, cost)
    spread = [(g.accuracy or 0.0, g.deviation or 0.0) for g in known]
    low, high = _ends([value - more for value, more in spread] + [value + more for value, more in spread])
    least, most = _ends([cost(group) for group in known])

    def at(value: float, here: float) -> tuple[float, float]:
        return round(100 * (here - least) / (most - least), 2), round(100 - 100 * (value - low) / (high - low), 2)

    line = "M" + "L".join("{:g} {:g}".format(*at(g.accuracy or 0.0, cost(g))) for g in front)
    strokes = "".join(
        "M{:g} {:g}".format(*at((g.accuracy or 0.0) - g.deviation, cost(g)))
        + f"V{at((g.accuracy or 0.0) + g.deviation, cost(g))[1]:g}" for g in known if g.deviation)
    named: dict[int, tuple[float, float]] = {}
    for group in front:
        place = at(group.accuracy or 0.0, cost(group))
        if all(abs(place[0] - x) > APART[0] or abs(place[1] - y) > APART[1] for x, y in named.values()):
            named[id(group)] = place
    dots = tuple((*at(g.accuracy or 0.0, cost(g)), f"{_called(g)}: {Line(g, False).accuracy}, {cost(g):,.6g}")
                 for g in known if id(g) not in named)
    marks = tuple((*named[id(g)], "chosen", _called(g)) for g in front if id(g) in named)
    return Plot(tuple(filter(None, (line, strokes))), dots, marks, ticks(least, most), ticks(low, high))


def _called(group: Group) -> str:
    return f"{group.title}, {group.target}"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Round ends of an axis with room on both sides."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    step = nice_step(high - low + 2 * room, 10)
    return step * ((low - room) // step), step * -((-high - room) // step)
