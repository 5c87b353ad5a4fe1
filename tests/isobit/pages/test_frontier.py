"""`frontier.svg`: a drawing of its own with the page's geometry."""

from __future__ import annotations

from xml.etree import ElementTree

from isobit.pages.frontier import BOTTOM, LEFT, RIGHT, TOP, frontier_svg
from isobit.pipeline.facts.record import FrontierFacts

SPACE = "{http://www.w3.org/2000/svg}"


def facts(chosen=20, points=((10, 1.0), (20, 0.1), (40, 0.01))):
    return FrontierFacts.model_validate({
        "budget": "3 bits", "points": [{"bytes": size, "omega": omega} for size, omega in points],
        "chosen": {"bytes": chosen, "omega": 0.1}, "uniform": {2: {"bytes": 10, "omega": 1.0}}, "omegas": {},
    })


def test_the_frontier_is_a_drawing_with_the_same_bytes_for_the_same_numbers():
    text = frontier_svg(facts())
    root = ElementTree.fromstring(text)
    assert text == frontier_svg(facts()) != frontier_svg(facts(chosen=30))
    words = [one.text for one in root.iter(f"{SPACE}text")]
    assert {"bytes of all weight codes", "sum of sensitivities, nats", "chosen", "2 bits"} <= {*words}
    (dot,), (square,) = root.iter(f"{SPACE}circle"), [r for r in root.iter(f"{SPACE}rect") if r.get("x")]
    assert float(dot.get("cx")) == round(LEFT + (RIGHT - LEFT) / 3, 1) and float(dot.get("cy")) == (TOP + BOTTOM) / 2
    assert (float(square.get("x")), float(square.get("y"))) == (LEFT - 3.5, TOP - 3.5)


def test_a_frontier_with_a_zero_fits_and_its_marks_stay_inside():
    for one in (facts(points=((10, 1.0), (40, 0.0))), facts(points=((10, 1.0),))):
        for mark in ElementTree.fromstring(frontier_svg(one)).iter(f"{SPACE}circle"):
            assert LEFT <= float(mark.get("cx")) <= RIGHT and TOP <= float(mark.get("cy")) <= BOTTOM
