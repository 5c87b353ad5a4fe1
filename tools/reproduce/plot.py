"""Accuracy against bits for every method, one panel a network, as a small SVG; the same numbers give the same file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.bench.rows import SUBJECT_TITLES
from tools.reproduce.content import METHOD_TITLES, Content
from tools.reproduce.plan import BITS, METHODS, NETWORKS

Line = Mapping[str, Any]


def points(content: Content, subject: str) -> dict[str, list[Line]]:
    """By method: what was measured where methods are compared, from the most bits to the fewest."""
    lines = content.get("groups", {}).get("order", {}).get("lines", ())
    found: dict[str, list[Line]] = {}
    for method in METHODS:
        wanted = [(subject, f"{method}_{bits}") for bits in BITS]
        measured = [line for place in wanted for line in lines
                    if (line["network"], line["recipe"]) == place and "top1" in line]
        if measured:
            found[method] = measured
    return found


def draw(content: Content, path: Path) -> bool:
    """Write the plot of what docs/results.json holds; False, and no file touched, where nothing was measured."""
    import matplotlib

    panels = {subject: points(content, subject) for subject in NETWORKS}
    panels = {subject: curves for subject, curves in panels.items() if curves}
    if not panels:
        return False
    matplotlib.use("svg")
    with matplotlib.rc_context({"svg.hashsalt": "isobit", "svg.fonttype": "none", "font.size": 9}):
        floats = {subject: known["float"] for subject, known in content["groups"]["order"]["networks"].items()}
        _draw(panels, floats, path)
    return True


def _draw(panels: dict[str, dict[str, list[Line]]], floats: Mapping[str, float], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axes, (subject, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, (method, lines) in enumerate(curves.items()):
            shift = 0.04 * (number - (len(curves) - 1) / 2)  # bars of different methods side by side
            means = [line["top1"] for line in lines]
            spread = [[line["top1"] - line["lowest"] for line in lines],
                      [line["highest"] - line["top1"] for line in lines]]
            places = [BITS.index(line["bits"].lower()) + shift for line in lines]
            axes.errorbar(places, means, yerr=spread, marker="o", markersize=3, linewidth=1, capsize=2,
                          color=f"C{METHODS.index(method)}", label=METHOD_TITLES[method])
        axes.axhline(floats[subject], color="grey", linestyle="--", linewidth=0.8, label="float")
        axes.set(title=SUBJECT_TITLES[subject], ylabel="top-1 of the artifact, %", xlim=(-0.3, len(BITS) - 0.7))
        axes.set_xticks(range(len(BITS)), [bits.upper() for bits in BITS])
        axes.grid(axis="y", linewidth=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
