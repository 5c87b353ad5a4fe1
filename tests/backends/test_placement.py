"""The placement table says what runs where, at how many bits, and why."""

import torch
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.backends.placement import placement_table
from tests.examples.tiny import multibit_recipe, quantized_net


def rows(profile="generic", **kwargs):
    quantized, _ = quantized_net(TARGETS[profile], **kwargs)
    return {row.name: row for row in placement_table(quantized.graph, quantized.target)}


def test_one_row_per_region_with_bits_and_reason():
    table = rows()
    assert table["relu_q"].op == "conv2d+relu" and table["relu_q"].weight == "8" and table["relu_q"].output == 4
    assert table["relu_1_q"].weight == "4 asym" and table["relu_1_q"].grid == "unsigned"
    assert table["conv2d_2_q"].output == 8 and table["conv2d_2_q"].note == "enters only add"
    assert table["mean_dim_q"].note == "input of last" and table["x_q"].note == "network input"
    assert table["linear"].output is None and table["linear"].runs == "integer"


def test_the_code_limit_of_the_profile_is_named():
    assert "+-64" in rows("generic")["relu_q"].note
    assert rows("vnni")["relu_q"].note == ""


def test_a_float_operator_is_named_with_its_reason():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)).eval()
    table = rows(model=model, images=torch.randn(4, 3, 8, 8))
    row = next(row for row in table.values() if row.op == "gelu")
    assert row.runs == "float" and "no integer kernel for gelu" in row.note


def test_levels_that_are_not_uniform_are_named_with_the_recipe_s_bits():
    table = rows(recipe=multibit_recipe())
    assert (table["relu_1_q"].weight, table["relu_1_q"].output, table["relu_1_q"].grid) == ("2 multibit", 2, "nested")
    assert "+-64" in table["relu_q"].note and table["relu_1_q"].note == ""
    assert table["conv2d_2_q"].grid == "asymmetric"
