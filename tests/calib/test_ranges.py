"""Ranges of a whole graph: every quantizer gets numbers, from the float network, and is switched on."""

from __future__ import annotations

import pytest
import torch

from calib.observers import weight_params
from calib.ranges import search_ranges, search_unit_ranges
from pipeline.errors import CalibrationError
from pipeline.graph import get_attribute, quantizer_of
from pipeline.grid import QParams
from pipeline.quantizer import Phase
from tests.calib.nets import calibration, recipe
from tests.calib.test_trainer import work_of


@pytest.mark.parametrize("name", ["mse_w8a8", "minmax_w8a8"])
def test_every_quantizer_is_on_with_numbers(name: str) -> None:
    made = calibration(recipe(name))
    found = [quantizer_of(made.graph, node) for node in made.graph.graph.nodes]
    for quantizer in (q for q in found if q is not None):
        quantizer.params.check(quantizer.spec)
        assert quantizer.phase is Phase.ON and quantizer.observer is None


def test_activations_see_the_float_network_and_the_asked_images() -> None:
    made = calibration(recipe("minmax_w8a8"), ranges=False)
    with torch.no_grad():
        made.graph(made.images)  # OFF: float
    name = "relu_q"
    node = next(n for n in made.graph.graph.nodes if n.name == name)
    seen: list[torch.Tensor] = []
    made.activations()[name].phase, made.activations()[name].observer = Phase.OBSERVE, seen.append
    made.graph(made.images[:10])
    search_ranges(made, images=10)
    assert float(quantizer_of(made.graph, node).scale) == pytest.approx(float(seen[0].max()) / 255)


def test_weights_get_their_own_search() -> None:
    made = calibration()
    nodes = {node.name: node for node in made.graph.graph.nodes}
    for name, quantizer in made.weights().items():
        weight = get_attribute(made.graph, nodes[name].args[0])
        assert torch.equal(quantizer.scale, weight_params(weight, quantizer.spec, name).scale)


def test_a_fixed_quantizer_keeps_its_numbers() -> None:
    made = calibration(ranges=False)
    quantizer = next(iter(made.activations().values()))
    quantizer.set_params(QParams(torch.tensor(0.125), torch.tensor(0, dtype=torch.int32)))
    quantizer.fixed = True
    search_ranges(made)
    assert float(quantizer.scale) == 0.125 and quantizer.phase is Phase.ON


def test_a_weight_that_is_not_finite_is_named() -> None:
    made = calibration(ranges=False)
    made.graph.get_parameter("inner.weight").data[0, 0, 0, 0] = float("nan")
    with pytest.raises(CalibrationError, match="conv2d_1_w"):
        search_ranges(made)


def test_a_units_ranges_follow_what_arrives_there() -> None:
    work, _ = work_of(2, "activations.range=minmax")
    (quantizer,) = work.activations
    before = float(quantizer.scale)
    search_unit_ranges(work, 20)
    seen: list[torch.Tensor] = []
    quantizer.phase, quantizer.observer = Phase.OBSERVE, seen.append
    work.student(*(value.rows(slice(0, 20)) for value in work.inputs))
    assert float(quantizer.scale) == pytest.approx(float(seen[0].max()) / quantizer.spec.grid.qmax)
    assert float(quantizer.scale) != before
