"""Layer-wise units: every layer once, nothing that joins branches; and neighbours joined where capacities differ."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import fx

from isobit.calib.reconstruction.boundary import Boundary, segments
from isobit.calib.reconstruction.partition import STRIDED, join_units, layers
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import bound_args, get_attribute, op_name
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.stages import JOINT, Unit
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


def test_the_border_of_the_largest_difference_goes_first() -> None:
    made = calibration(recipe("qdrop_w4a4"), ranges=False, name="mobile", target=PAPER)
    units = made.units
    for count in range(1, len(units)):
        joined = join_units(made.graph, units, count)
        assert len(joined) == len(units) - count
        assert [node for unit in joined for node in unit.nodes] == [node for unit in units for node in unit.nodes]
        assert [name for unit in joined for name in unit.name.split(JOINT)] == [unit.name for unit in units]
    sizes = [
        sum(quantizer_size(made.graph, name) for name in unit.nodes if name.endswith("_w")) for unit in units
    ]
    gaps = [abs(one - other) for one, other in itertools.pairwise(sizes)]
    widest = max(range(len(gaps)), key=gaps.__getitem__)
    first = next(unit for unit in join_units(made.graph, units, 1) if JOINT in unit.name)
    assert first.name == JOINT.join(unit.name for unit in units[widest : widest + 2])


def quantizer_size(graph: fx.GraphModule, name: str) -> float:
    """Capacity of the layer whose weight's quantizer is `name`."""
    (node,) = (node for node in graph.graph.nodes if node.name == name)
    (reader,) = node.users
    quantizer = graph.get_submodule(str(node.target))
    stride = bound_args(reader).get("stride", [1])
    size = get_attribute(graph, node.all_input_nodes[0]).numel()
    return size * quantizer.spec.grid.bits * (STRIDED if max(stride) > 1 else 1.0)


def test_units_that_do_not_touch_or_stay_alone_are_not_joined() -> None:
    made = calibration(recipe("adaround_w4a4"), ranges=False, target=TARGET)
    alone = layers(made.graph)
    joined = join_units(made.graph, alone, 9)
    # The sum and its ReLU stand between the last two.
    assert [unit.name for unit in joined] == ["stem + inner + outer", "head"]
    assert join_units(made.graph, alone, 0) == alone
    kept = join_units(made.graph, alone, 9, apart={"stem"})
    assert [unit.name for unit in kept] == ["stem", "inner + outer", "head"]
    assert isinstance(kept[1], Unit) and kept[1].kind == "block"


@pytest.mark.parametrize("name", ["residual", "mobile"])
def test_a_joined_unit_is_one_segment_that_answers_like_its_parts(name: str) -> None:
    made = calibration(recipe("qdrop_w4a4"), name=name, target=PAPER)
    joined = join_units(made.graph, made.units, 2)
    path = segments(made.graph, [unit.nodes for unit in joined])
    assert [segment.unit for segment in path if segment.unit is not None] == [*range(len(joined))]
    boundary = Boundary(made.graph, made.images, made.device)
    for segment in path:
        boundary.run_teacher(segment)
        boundary.run_student(segment, keep=True)
    with torch.no_grad():
        expected = made.graph(made.images)
    (answer,) = path[-1].outputs
    assert torch.allclose(boundary.student[answer].rows(slice(0, len(expected))), expected, atol=1e-5)
