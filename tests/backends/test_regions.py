"""Regions: every operator once, in execution order, with what it absorbs and what it reads."""

import pytest

from isobit.backends.onnx.target import TARGETS
from isobit.backends.regions import find_regions
from isobit.pipeline.graph.nodes import is_constant, op_name, quantizer_of
from tests.examples.ends import frozen_end
from tests.examples.onnx_cases import FLOAT_MIDDLES, MIDDLES, PRODUCT_MIDDLES, frozen
from tests.examples.tiny import frozen_reference

TARGET = TARGETS["generic"]


def regions_of(name):
    reference, _ = frozen(name)
    return reference.graph, find_regions(reference.graph, TARGET)


def test_a_residual_network_as_a_table():
    reference, _ = frozen_reference(TARGETS["generic"])
    rows = [
        (r.kind, r.anchor.name, [n.name for n in r.absorbed], r.quantizer and r.quantizer.name, r.is_layout)
        for r in find_regions(reference.graph, TARGETS["generic"])
    ]
    assert rows == [
        ("input", "x_q", [], "x_q", False),
        ("conv2d", "conv2d", ["relu"], "relu_q", False),
        ("conv2d", "conv2d_1", ["relu_1"], "relu_1_q", False),
        ("conv2d", "conv2d_2", [], "conv2d_2_q", False),
        ("add", "add", ["relu_2"], "relu_2_q", False),
        ("mean", "mean_dim", [], "mean_dim_q", False),
        ("view", "reshape_default", [], None, True),
        ("linear", "linear", [], None, False),
    ]


@pytest.mark.parametrize("name", [*MIDDLES, *FLOAT_MIDDLES])
def test_every_operator_is_in_exactly_one_region(name):
    graph, regions = regions_of(name)
    inside = [node for r in regions for node in {r.anchor: 0, **dict.fromkeys(r.absorbed), **({r.quantizer: 0} if
              r.quantizer else {})}]
    expected = [
        node for node in graph.graph.nodes
        if not is_constant(node) and (node.op == "call_function" or quantizer_of(graph, node) is not None)
    ]
    assert len(inside) == len(set(inside)) and set(inside) == set(expected)


@pytest.mark.parametrize("name", [*MIDDLES, *sorted(PRODUCT_MIDDLES)])
def test_inputs_are_made_before_they_are_read(name):
    graph, regions = regions_of(name)
    made = {node for node in graph.graph.nodes if node.op == "placeholder"}
    for region in regions:
        assert set(region.inputs) <= made
        made.add(region.value)


@pytest.mark.parametrize("name", [*MIDDLES, *sorted(PRODUCT_MIDDLES)])
def test_everything_that_the_target_lists_runs_in_integers(name):
    _, regions = regions_of(name)
    assert all(region.integer and not region.reason for region in regions)


@pytest.mark.parametrize("name", sorted({*FLOAT_MIDDLES} - PRODUCT_MIDDLES))
def test_what_does_not_says_why(name):
    _, regions = regions_of(name)
    floating = [region for region in regions if not region.integer]
    assert floating and all(region.kind == "float" and region.reason for region in floating)


def test_a_tensor_read_twice_is_two_inputs():
    _, regions = regions_of("add_itself")
    added = next(region for region in regions if region.kind == "add")
    assert len(added.inputs) == 2 and added.inputs[0] is added.inputs[1]


def test_a_grid_is_found_through_layout_operators():
    _, regions = regions_of("pad_slice")
    padded = next(region for region in regions if region.kind == "pad")
    assert padded.grid.name == "conv2d_q"


def test_joined_tensors_on_one_grid_are_layout():
    _, regions = regions_of("shuffle")
    joined = next(region for region in regions if op_name(region.anchor) == "cat")
    assert joined.is_layout and joined.quantizer is None


def test_results_on_several_grids_are_laid_out_as_values():
    reference, *_ = frozen_end("detector", TARGET)
    joined = next(region for region in find_regions(reference.graph, TARGET) if region.kind == "cat")
    assert joined.is_layout and joined.integer and joined.quantizer is None
    assert joined.grid is None
