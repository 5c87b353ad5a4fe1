"""The picture of the README: current, made of the record alone, and whole in itself."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools import road
from tools.documents import read_json

ROOT = Path(__file__).parents[2]
RECORD = {
    "builds": [{"network": "resnet20", "recipe": "qdrop_w4a4", "float": 90.0, "calibrated": 81.25, "reference": 81.5,
                "artifact": 81.5, "kb": 12.4, "codes": {"all": [1234567, 3]}}],
    "latency": [{"network": "resnet20", "file": "float", "kb": 2048.6}],
}


def test_the_picture_is_current():
    drawn = road.picture(road.record(read_json(ROOT / road.RECORD)))
    assert (ROOT / road.PICTURE).read_text(encoding="utf-8") == drawn, "run python tools/road.py --write"


def test_numbers_are_those_of_the_record_and_nothing_is_loaded():
    drawn = road.picture(road.record(RECORD))
    tree = ElementTree.fromstring(drawn)
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    for number in ("90.00 %", "81.25 %", "81.50 %", "2,049 kB", "12 kB", "3 of 1,234,567 codes differ"):
        assert number in texts
    assert "3 of 1,234,567" in tree.attrib["aria-label"] and "prefers-color-scheme: dark" in drawn
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "") and "<image" not in drawn


def test_a_record_without_the_build_draws_nothing():
    with pytest.raises(StopIteration):
        road.record({"builds": [], "latency": []})


def test_a_picture_that_is_old_is_named_and_drawn(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / road.RECORD).write_text(json.dumps(RECORD))
    assert road.main([], tmp_path) == 1 and "not current" in capsys.readouterr().out
    assert road.main(["--write"], tmp_path) == 0 and road.main([], tmp_path) == 0
