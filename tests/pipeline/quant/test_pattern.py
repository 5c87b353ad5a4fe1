"""What a pattern says of itself is enough to make it again."""

import json

import numpy as np

from isobit.pipeline.quant.pattern import Pattern, pattern_of


def test_a_pattern_comes_back_from_json():
    up = np.arange(12).reshape(3, 2, 2) % 2 == 0
    pattern = Pattern("q", (3, 2, 2), 0, 105, 0, (105, 35, 15), up)
    again = pattern_of(json.loads(json.dumps(pattern.facts())), up)
    assert again == pattern and again.up is up and again.scale is None


def test_what_is_not_there_is_not_told():
    pattern = Pattern("input", (3,), 0, 255, 7, scale=float(np.float32(0.1)))
    assert pattern.facts() == {"name": "input", "shape": [3], "low": 0, "high": 255, "zero": 7, "scale": pattern.scale}
    assert pattern_of(json.loads(json.dumps(pattern.facts()))) == pattern
