"""Accuracy against bits for every method, one panel a network, as a small SVG; the same numbers give the same file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.bench.rows import SUBJECT_TITLES
from tools.reproduce.content import METHOD_TITLES
from tools.reproduce.plan import BITS, METHODS, NETWORKS, Group
from tools.reproduce.summary import Records, Summary, summarize


def points(groups: Sequence[Group], records: Records, subject: str) -> dict[str, list[Summary]]:
    """By method: what was measured of the groups that compare methods, from the most bits to the fewest."""
    lines = [line for group in groups if group.view == "order" for line in group.lines if line.subject == subject]
    found: dict[str, list[Summary]] = {}
    for method in METHODS:
        measured = [summarize(line, records) for bits in BITS for line in lines
                    if (line.method, line.bits) == (method, bits)]
        if measured := [summary for summary in measured if summary.top1]:
            found[method] = measured
    return found


def draw(groups: Sequence[Group], records: Records, path: Path) -> bool:
    """Write the plot; False, and no file touched, where nothing was measured."""
    import matplotlib

    panels = {subject: points(groups, records, subject) for subject in NETWORKS}
    panels = {subject: curves for subject, curves in panels.items() if curves}
    if not panels:
        return False
    matplotlib.use("svg")
    with matplotlib.rc_context({"svg.hashsalt": "isobit", "svg.fonttype": "none", "font.size": 9}):
        _draw(panels, path)
    return True


def _draw(panels: dict[str, dict[str, list[Summary]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axes, (subject, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, (method, summaries) in enumerate(curves.items()):
            shift = 0.04 * (number - (len(curves) - 1) / 2)  # bars of different methods side by side
            means = [summary.mean for summary in summaries]
            spread = [[mean - min(s.top1) for mean, s in zip(means, summaries, strict=True)],
                      [max(s.top1) - mean for mean, s in zip(means, summaries, strict=True)]]
            places = [BITS.index(summary.line.bits) + shift for summary in summaries]
            axes.errorbar(places, means, yerr=spread, marker="o", markersize=3, linewidth=1, capsize=2,
                          color=f"C{METHODS.index(method)}", label=METHOD_TITLES[method])
        top = next(iter(curves.values()))[0].float_top1
        axes.axhline(top, color="grey", linestyle="--", linewidth=0.8, label="float")
        axes.set(title=SUBJECT_TITLES[subject], ylabel="top-1 of the artifact, %", xlim=(-0.3, len(BITS) - 0.7))
        axes.set_xticks(range(len(BITS)), [bits.upper() for bits in BITS])
        axes.grid(axis="y", linewidth=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
