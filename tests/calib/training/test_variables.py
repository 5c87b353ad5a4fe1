"""What the finish learns starts where the method ended, folds into the graph, and is put back whole."""

from __future__ import annotations

import pytest
import torch

from isobit.backends.onnx.target import TARGETS
from isobit.calib.context import Calibration
from isobit.calib.ranges.ranges import round_weights, search_ranges
from isobit.calib.training.variables import TrainedNetwork
from isobit.pipeline.graph.nodes import is_constant, quantizer_of
from isobit.pipeline.graph.ports import output_nodes
from isobit.pipeline.recipe.schema import FinishRule
from isobit.pipeline.samples.network_inputs import run_graph
from tests.examples.units import CPU, Notes, recipe, responsive

ALL = ("scales", "biases", "rounding")


def made(bits: str = "minmax_w3a3") -> tuple[Calibration, TrainedNetwork, str]:
    quantized, images = responsive(recipe(bits), TARGETS["generic"])
    calibration = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Notes())
    search_ranges(calibration)
    round_weights(calibration)
    (answer,) = output_nodes(calibration.graph)
    return calibration, TrainedNetwork(calibration, FinishRule(steps=1, what=ALL), [answer.name]), answer.name


@torch.no_grad()
def test_it_starts_with_the_answers_of_the_graph() -> None:
    calibration, network, name = made()
    wanted = run_graph(calibration.graph, calibration.images)
    with network.attached():
        found = network.answers(calibration.images)[name]
    assert torch.equal(wanted[0] if isinstance(wanted, tuple) else wanted, found)


@torch.no_grad()
@pytest.mark.parametrize("bits", ["minmax_w2a2", "minmax_w4a4"])
def test_a_code_far_from_its_weight_stays_where_it_is(bits: str) -> None:
    calibration, _, name = made(bits)
    random = torch.Generator().manual_seed(0)
    for quantizer in calibration.weights().values():
        grid = quantizer.spec.grid
        codes = torch.randint(grid.qmin, grid.qmax + 1, quantizer.decided.shape, generator=random)
        quantizer.harden(codes, quantizer.scale.clone())
    held = [quantizer.decided.clone() for quantizer in calibration.weights().values()]
    network = TrainedNetwork(calibration, FinishRule(steps=1, what=ALL), [name])
    network.settle()
    assert all(torch.equal(a, q.decided) for a, q in zip(held, calibration.weights().values(), strict=True))


@torch.no_grad()
def test_values_are_a_copy_and_come_back() -> None:
    calibration, network, name = made()
    kept = network.values()
    for group in network.variables:
        for each in group["params"]:
            each.add_(0.3)
    with network.attached():
        moved = network.answers(calibration.images)[name].clone()
        network.set_values(kept)
        back = network.answers(calibration.images)[name]
    assert not torch.equal(moved, back)
    assert all(torch.equal(a, b) for a, b in zip(kept, network.values(), strict=True))


@torch.no_grad()
def test_a_value_and_its_quantizer_may_both_be_asked_for() -> None:
    calibration, _, _ = made()
    node = next(node for node in calibration.graph.graph.nodes if len(node.users) == 1 and quantizer_of(
        calibration.graph, next(iter(node.users))) is not None and not is_constant(node) and node.op != "placeholder")
    names = [node.name, next(iter(node.users)).name]
    network = TrainedNetwork(calibration, FinishRule(steps=1, what=ALL), names)
    with network.attached():
        found = network.answers(calibration.images)
    assert set(found) == set(names) and torch.equal(*found.values())
