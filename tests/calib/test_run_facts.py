"""Why checkpoints were not used is said by what differs: the recipe's field, the model, the data, the target."""

import json

import pytest

from isobit.calib.run_facts import FACTS, differences, read_facts, why_not_resumed

FACTS_OF = {
    "kind": "calibration", "recipe": "name: qdrop_w4a4\nmethod: {name: qdrop, steps: 500}\nseed: 1\n", "model": "m",
    "weights": "w", "target": "onnx/generic", "data": "d", "units": "u", "device": "cpu", "engine": "2",
}


def other(**changes):
    return {**FACTS_OF, **changes}


@pytest.mark.parametrize(("changes", "told"), [
    ({"recipe": FACTS_OF["recipe"].replace("500", "300")}, ["method.steps 500, now 300"]),
    ({"recipe": FACTS_OF["recipe"].replace("seed: 1", "seed: 2"), "weights": "x"}, ["seed 1, now 2"]),
    ({"recipe": FACTS_OF["recipe"].replace(", steps: 500", "")}, ["method.steps 500, now unset"]),
    ({"model": "n", "weights": "x", "units": "v"}, ["another model file"]),
    ({"weights": "x"}, ["other weights"]),
    ({"data": "e"}, ["other calibration data"]),
    ({"target": "c/generic", "units": "v"}, ["target onnx/generic, now c/generic"]),
    ({"device": "cuda"}, ["device cpu, now cuda"]),
    ({"engine": "3"}, ["another version of the engine"]),
    ({}, ["another version"]),
])
def test_differences_are_named(changes, told):
    assert differences(FACTS_OF, other(**changes)) == told


def test_the_nearest_run_is_told_and_three_of_its_differences():
    far = other(recipe="name: far\nseed: 9\na: 1\nb: 2\nc: 3\n")
    near = other(recipe=FACTS_OF["recipe"].replace("500", "300"))
    assert why_not_resumed(near, [far, None, FACTS_OF]) == (
        "nothing was resumed: the checkpoints are of qdrop_w4a4 (method.steps 500, now 300)"
    )
    told = why_not_resumed(FACTS_OF, [far])
    assert told.endswith("of far (seed 9, now 1; a 1, now unset; b 2, now unset and 3 more)")
    assert "no checkpoints" in why_not_resumed(FACTS_OF, [])
    assert "do not say" in why_not_resumed(FACTS_OF, [None])


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "[" * 100_000, None])
def test_what_cannot_be_read_says_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / FACTS).write_text(content)
    assert read_facts(tmp_path) is None
    (tmp_path / FACTS).write_text(json.dumps(FACTS_OF))
    assert read_facts(tmp_path) == FACTS_OF
