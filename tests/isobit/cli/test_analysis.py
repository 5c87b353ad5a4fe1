"""What an analysis says: tables whose rows fit their columns, JSON without numbers that JSON does not have."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from isobit.analyze import analyze_model
from isobit.cli.analysis import analysis_json, heading, layer_table, tensor_table
from isobit.pipeline.recipe.file import load_recipe
from tests.examples.tiny import model_and_images
from tests.isobit.test_analyze import batches


@pytest.fixture(scope="module")
def analysis():
    model, _ = model_and_images()
    recipe = load_recipe("nearest_w4a8", ["images.batch_size=4"])
    return analyze_model(model, recipe, "onnx", batches(), bits=(3, 4))


def test_every_row_has_a_cell_for_each_column(analysis):
    for columns, rows in (layer_table(analysis, 3), tensor_table(analysis, 99)):
        assert rows and {len(row.cells) for row in rows} == {len(columns)}
    columns, rows = layer_table(analysis, 3)
    assert len(rows) == 3 and columns[3] == "dB: weight at 4" and columns[-1] == "lost at 4, %"
    assert "worst first" in heading(analysis)[1]


def test_endless_numbers_are_none(analysis):
    row = analysis.layers[0]
    broken = replace(row, effects={bits: replace(effect, loss=math.inf) for bits, effect in row.effects.items()})
    found = analysis_json(replace(analysis, layers=(broken, *analysis.layers[1:])), 1.0)
    assert found["layers"][0]["at"]["4"]["loss"] is None
    json.dumps(found, allow_nan=False)
