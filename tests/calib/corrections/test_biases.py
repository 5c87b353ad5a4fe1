"""Corrected biases: channels keep their means, the outputs come nearer, and batches change nothing."""

from __future__ import annotations

import dataclasses

import torch

from isobit.calib.context import Calibration
from isobit.calib.corrections.biases import correct_biases
from isobit.calib.ranges.ranges import round_weights, search_ranges
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.quant.quantizer import Phase
from tests.examples.units import calibration, recipe


def rounded(name: str = "mobile", bits: str = "minmax_w4a8") -> Calibration:
    made = calibration(recipe(bits), ranges=False, name=name)
    search_ranges(made)
    round_weights(made)
    return made


@torch.no_grad()
def answers(made: Calibration) -> torch.Tensor:
    return made.graph(made.images)


@torch.no_grad()
def in_float(name: str) -> torch.Tensor:
    made = calibration(recipe("minmax_w4a8"), ranges=False, name=name)
    return made.graph(made.images)


def test_outputs_come_nearer_and_keep_their_mean() -> None:
    for name in ("mobile", "residual"):
        made, reference = rounded(name), in_float(name)
        before = answers(made)
        assert correct_biases(made) > 2
        after = answers(made)
        assert float((after - reference).square().mean()) < float((before - reference).square().mean())
        shift = [float((found - reference).mean(0).abs().max()) for found in (before, after)]
        assert shift[1] < 0.5 * shift[0]


def test_the_size_of_batches_changes_nothing_but_last_bits() -> None:
    made = [rounded(), dataclasses.replace(rounded(), batch=5)]
    for each in made:
        correct_biases(each)
    state = [dict(each.graph.named_parameters()) for each in made]
    for name, value in state[0].items():
        assert torch.allclose(value, state[1][name], atol=1e-5)


def test_what_has_no_bias_of_its_own_is_left() -> None:
    made = rounded()
    weights = {name: value.clone() for name, value in made.graph.named_parameters() if "weight" in name}
    for node in made.graph.graph.nodes:
        if op_name(node) in ("conv2d", "linear"):
            node.args, node.kwargs = (*node.args[:2], None, *node.args[3:]), {**node.kwargs}
    made.graph.recompile()
    assert correct_biases(made) == 0
    state = dict(made.graph.named_parameters())
    assert all(torch.equal(value, state[name]) for name, value in weights.items())
    assert all(quantizer.phase is Phase.ON for quantizer in made.weights().values())
