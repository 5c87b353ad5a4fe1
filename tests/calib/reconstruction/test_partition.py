"""Layer-wise units: every layer once, nothing that joins branches, constants and activation included."""

from __future__ import annotations

import pytest

from isobit.calib.reconstruction.boundary import segments
from isobit.calib.reconstruction.partition import layers
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.examples.units import PAPER, TARGET, calibration, recipe


@pytest.mark.parametrize("name", ["tiny", "residual", "mobile"])
def test_every_layer_once_in_execution_order_and_no_sum_inside(name: str) -> None:
    made = calibration(recipe("adaround_w4a4"), ranges=False, name=name, target=PAPER)
    nodes = {node.name: node for node in made.graph.graph.nodes}
    units = layers(made.graph)
    members = [node for unit in units for node in unit.nodes]
    assert len(members) == len(set(members))
    weighted = [node.name for node in nodes.values() if op_name(node) in WEIGHTED]
    assert [n for n in members if op_name(nodes[n]) in WEIGHTED] == weighted and len(units) == len(weighted)
    assert {op_name(nodes[n]) for n in members} & {"add", "mean", "max_pool2d", "view"} == set()
    assert {unit.kind for unit in units} == {"layer"}
    assert set(made.weights()) <= set(members)


def test_units_of_the_residual_net() -> None:
    """The ReLU after a sum belongs to no layer; the quantizer on the branch before it does."""
    made = calibration(recipe("adaround_w4a4"), ranges=False, target=TARGET)
    assert [(unit.name, unit.nodes) for unit in layers(made.graph)] == [
        ("stem", ("conv2d_w", "conv2d_b", "conv2d", "relu", "relu_q")),
        ("inner", ("conv2d_1_w", "conv2d_1_b", "conv2d_1", "relu_1", "relu_1_q")),
        ("outer", ("conv2d_2_w", "conv2d_2_b", "conv2d_2", "conv2d_2_q")),
        ("head", ("linear_w", "linear_b", "linear")),
    ]


def test_the_path_over_layers_covers_the_graph() -> None:
    made = calibration(recipe("adaround_w4a4"), ranges=False, name="residual", target=PAPER)
    path = segments(made.graph, [unit.nodes for unit in layers(made.graph)])
    assert [stretch.unit for stretch in path if stretch.unit is not None] == list(range(6))
    between = {name for stretch in path if stretch.unit is None for name in stretch.nodes}
    assert {"max_pool2d", "add_", "add__1", "mean_dim"} <= between
    assert not between & set(quantizers(made.graph)) - {"relu__2_q", "relu__4_q"}
