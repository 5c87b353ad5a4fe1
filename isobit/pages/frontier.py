"""`frontier.svg` beside `report.md`: the page's chart of bits as a file of its own, in light and in dark."""

from __future__ import annotations

from isobit.pages import charts
from isobit.pages.environment import render
from isobit.pipeline.facts.record import FrontierFacts

WIDTH, HEIGHT = 540, 350
LEFT, RIGHT, TOP, BOTTOM = 70, 515, 30, 298  # of what is drawn


def frontier_svg(found: FrontierFacts) -> str:
    """Sensitivity over size: the frontier, what was chosen, and equal bits everywhere. Equal facts give equal bytes."""
    return render(
        "frontier.svg.j2", plot=charts.frontier(found), width=WIDTH, height=HEIGHT, left=LEFT, right=RIGHT, top=TOP,
        bottom=BOTTOM, along=lambda place: round(LEFT + (RIGHT - LEFT) * place / 100, 1),
        down=lambda place: round(TOP + (BOTTOM - TOP) * place / 100, 1),
    )
