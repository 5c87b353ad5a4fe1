"""The plot: what was measured is in it, and the same numbers give the same file."""

from xml.etree import ElementTree

import pytest

from tests.tools.small_grid import row
from tools.bench.rows import DS_CNN, RESNET
from tools.reproduce import plot as reproduce_plot
from tools.reproduce.content import content
from tools.reproduce.plan import Group, Line

pytest.importorskip("matplotlib")
LINES = tuple(Line(RESNET, f"qdrop_{bits}") for bits in ("w2a2", "w4a4", "w3a3"))
GROUPS = (Group("order", LINES, view="order"), Group("other", (Line(DS_CNN, "qdrop_w4a4"),)))


def measured(*lines):
    found = {cell: row(cell, 70.0 + number) for line in lines for number, cell in enumerate(line.cells)}
    return content(GROUPS, found, {})


def test_points_are_of_the_comparing_group_from_many_bits_to_few():
    found = reproduce_plot.points(measured(*LINES, *GROUPS[1].lines), RESNET)
    assert {method: [line["bits"] for line in lines] for method, lines in found.items()} == {
        "qdrop": ["W4A4", "W3A3", "W2A2"]
    }
    assert reproduce_plot.points(measured(*GROUPS[1].lines), DS_CNN) == {}


def test_the_same_numbers_give_the_same_file(tmp_path):
    files = [tmp_path / name for name in ("first.svg", "second.svg")]
    for path in files:
        assert reproduce_plot.draw(measured(*LINES), path)
    text = files[0].read_text(encoding="utf-8")
    assert text == files[1].read_text(encoding="utf-8") and len(text) < 200_000
    words = {element.text for element in ElementTree.fromstring(text).iter() if element.text}
    assert {"ResNet-20", "QDrop", "float", "W2A2"} <= words and "DS-CNN" not in words


def test_where_nothing_was_measured_nothing_is_drawn(tmp_path):
    assert not reproduce_plot.draw(measured(), tmp_path / "plot.svg")
    assert not (tmp_path / "plot.svg").exists()
