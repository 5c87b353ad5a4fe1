"""The two stage functions on a two-block network: quantize leaves numbers alone, legalize makes them final."""

from __future__ import annotations

import pytest
import torch

from isobit import passes
from isobit.backends.onnx.target import TARGETS
from isobit.backends.reference import TARGET as PAPER
from isobit.pipeline.errors import CalibrationError, RecipeError
from isobit.pipeline.graph.nodes import bias_quantizer_of, quantizer_of
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.quant.grid import params_from_range
from isobit.pipeline.quant.quantizer import Phase
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.stages import Calibrated
from tests.examples import nets, tiny

TARGET = TARGETS["generic"]


@pytest.fixture(scope="module")
def quantized():
    captured, _ = nets.captured_net("residual")
    return passes.quantize(captured, load_recipe("qdrop_w4a4"), TARGET)


def by_hand(quantized):
    """Weights by their range, every activation [-2, 3] or [0, 3]."""
    graph = quantized.graph
    for node in graph.graph.nodes:
        quantizer = quantizer_of(graph, node)
        if quantizer is None:
            continue
        low, high = torch.tensor(-2.0), torch.tensor(3.0)
        if node.name.endswith("_w"):
            weight = graph.get_parameter(str(node.args[0].target)).flatten(1)
            low, high = weight.amin(1), weight.amax(1)
        quantizer.set_params(params_from_range(low, high, quantizer.spec))
        quantizer.phase = Phase.ON
    return Calibrated(graph, quantized)


@pytest.mark.parametrize("name", nets.NETS)
@pytest.mark.parametrize("target", [TARGET, PAPER], ids=lambda t: t.name)
def test_quantizing_changes_no_number_and_no_earlier_stage(name, target):
    captured, x = nets.captured_net(name)
    nodes, before = nets.snapshot(captured.graph), nets.run(captured.graph, x.clone())
    stage = passes.quantize(captured, load_recipe("qdrop_w4a4"), target)
    assert torch.equal(nets.run(stage.graph, x), nets.run(stage.teacher, x))
    torch.testing.assert_close(nets.run(stage.teacher, x), before, rtol=1e-5, atol=1e-5)
    assert stage.captured is captured and nets.snapshot(captured.graph) == nodes
    assert torch.equal(nets.run(captured.graph, x.clone()), before)


@pytest.mark.parametrize("name", nets.NETS)
def test_frozen_graph_computes_what_was_calibrated(name):
    """In float64: the biases, which freezing rounds, are switched on before the comparison."""
    model, x = nets.build(name)
    stage, x = tiny.quantized_net(TARGET, "qdrop_w4a4", model, x)
    calibrated = tiny.calibrate_by_range(stage, x)
    for node in calibrated.graph.graph.nodes:
        if bias_quantizer_of(calibrated.graph, node) is not None:
            bias_quantizer_of(calibrated.graph, node).phase = Phase.ON
    reference, lines = passes.legalize(calibrated)
    assert not lines
    torch.testing.assert_close(nets.run(reference.graph, x), nets.run(calibrated.graph, x), rtol=0, atol=1e-5)


def test_units_name_nodes_of_the_quantized_graph(quantized):
    names = {node.name for node in quantized.graph.graph.nodes}
    assert [unit.name for unit in quantized.units] == ["stem.0", "blocks.0", "blocks.1", "fc"]
    assert all(set(unit.nodes) <= names for unit in quantized.units)
    assert "conv2d_1_w" in quantized.units[1].nodes and "conv2d_1_b" in quantized.units[1].nodes


def test_chain_with_ranges_set_by_hand(quantized):
    reference, lines = passes.legalize(by_hand(quantized))
    _, x = nets.captured_net("residual")
    assert lines == []
    assert {q.phase for q in quantizers(reference.graph).values()} == {Phase.FROZEN}
    assert {q.phase for q in quantizers(quantized.graph).values()} == {Phase.ON}
    exact = reference.evaluate(x)
    assert exact.shape == (3, 5) and torch.isfinite(exact).all()
    stem = quantizer_of(reference.graph, next(iter(nets.find(reference.graph, "relu").users)))
    assert (float(stem.scale), int(stem.zero_point), stem.spec.grid.levels) == (pytest.approx(3 / 15), 0, 16)


def test_legalizing_what_was_never_calibrated_is_refused():
    captured, _ = nets.captured_net("perceptron")
    stage = passes.quantize(captured, load_recipe("qdrop_w4a4"), TARGET)
    with pytest.raises(CalibrationError, match="never calibrated"):
        passes.legalize(Calibrated(stage.graph, stage))


def test_names_are_the_same_in_every_run():
    captured, _ = nets.captured_net("squeeze")
    graphs = [passes.quantize(captured, load_recipe("qdrop_w4a4"), TARGET).graph for _ in range(2)]
    assert nets.snapshot(graphs[0]) == nets.snapshot(graphs[1])


def test_passes_that_do_not_exist_are_refused():
    captured, _ = nets.captured_net("perceptron")
    with pytest.raises(RecipeError, match="equalise"):
        passes.quantize(captured, load_recipe("qdrop_w4a4", ["passes=[equalise]"]), TARGET)
