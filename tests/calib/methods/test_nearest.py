"""Nearest rounding: ranges and plain rounding, nothing else."""

from __future__ import annotations

import torch

from isobit.calib.methods.nearest import NearestParameters, nearest
from isobit.pipeline.graph.nodes import get_attribute
from tests.examples.units import calibration, recipe


def test_weights_go_to_their_nearest_codes() -> None:
    made = calibration(recipe("mse_w8a8"), ranges=False)
    assert nearest(made, NearestParameters()) == ()
    nodes = {node.name: node for node in made.graph.graph.nodes}
    for name, quantizer in made.weights().items():
        weight = get_attribute(made.graph, nodes[name].args[0])
        error = (quantizer(weight) - weight).abs() / quantizer.aligned(weight)[0]
        assert float(error.quantile(0.9)) <= 0.5


def test_fewer_images_give_other_ranges() -> None:
    few, many = calibration(recipe("minmax_w8a8"), ranges=False), calibration(recipe("minmax_w8a8"), ranges=False)
    nearest(few, NearestParameters(init_images=4))
    nearest(many, NearestParameters())
    scales = [torch.stack([q.scale for q in made.activations().values()]) for made in (few, many)]
    assert bool((scales[0] <= scales[1]).all()) and not torch.equal(*scales)
