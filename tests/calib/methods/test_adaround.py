"""AdaRound: the paper's defaults, layer by layer with float activations, ranges of activations afterwards."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.methods.adaround import AdaRoundParameters, adaround
from isobit.pipeline.graph.nodes import bias_quantizer_of
from isobit.pipeline.quant.quantizer import Phase
from tests.examples.units import Notes, calibrated, calibration, output_error, recipe, weight_of


def test_defaults_are_the_papers() -> None:
    settings = AdaRoundParameters().settings
    rounding = settings.rounding.parameters
    assert (settings.steps, rounding.rounding_weight, rounding.learning_rate) == (10_000, 0.01, 1e-3)
    assert (rounding.warmup, rounding.beta_start, rounding.beta_end, rounding.descent) == (0.2, 20.0, 2.0, "cosine")
    assert (settings.sampler, settings.keep_prob, settings.scale_learning_rate) == ("permutation", 1.0, 0.0)


@pytest.mark.parametrize("steps", [100, 10_000, 15_000])
def test_reach_does_not_depend_on_the_steps(steps: int) -> None:
    rounding = AdaRoundParameters(steps=steps).settings.rounding.parameters
    assert rounding.learning_rate * 0.8 * steps == pytest.approx(8.0)
    assert AdaRoundParameters(steps=steps, schedule="paper").settings.rounding.parameters.learning_rate == 1e-3


def test_better_than_nearest() -> None:
    of = recipe("adaround_w2a4", "method.init_images=32", steps=150)
    result = calibrated(of)
    assert sum(log.loss_hard for log in result.log) < 0.8 * sum(log.loss_nearest for log in result.log)
    nearest = calibrated(recipe("nearest_w2a4", f"policy={of.policy}", "method.init_images=32"))
    assert output_error(result) < 0.8 * output_error(nearest)


class Watching(Notes):
    """Notes the phases of activations and biases while layers are rounded."""

    def step(self, count: int) -> None:
        super().step(count)
        graph = self.made.graph
        biases = [bias_quantizer_of(graph, node) for node in graph.graph.nodes]
        self.phases |= {quantizer.phase for quantizer in self.made.activations().values()}
        self.phases |= {bias.phase for bias in biases if bias is not None}


def test_activations_stay_float_while_weights_are_rounded() -> None:
    watcher = Watching()
    made = calibration(recipe("adaround_w4a4"), ranges=False, watcher=watcher)
    watcher.made, watcher.phases = made, set()
    logs = adaround(made, AdaRoundParameters(steps=40))
    assert watcher.phases == {Phase.OFF} and watcher.trained == 160
    assert [log.name for log in logs] == ["stem", "inner", "outer", "head"]
    assert {quantizer.phase for quantizer in made.activations().values()} == {Phase.ON}


def test_ranges_of_activations_are_those_of_the_rounded_network() -> None:
    """Not the float network's: the ranges of a run with other weights differ after the first layer."""
    scales = []
    for steps in (40, 1):
        made = calibration(recipe("adaround_w2a4"), ranges=False)
        adaround(made, AdaRoundParameters(steps=steps, init_images=16))
        scales.append({name: float(quantizer.scale) for name, quantizer in made.activations().items()})
    assert scales[0]["x_q"] == scales[1]["x_q"] and scales[0]["relu_1_q"] != scales[1]["relu_1_q"]


def test_weights_leave_their_nearest_codes_by_one_at_most() -> None:
    made = calibration(recipe("adaround_w4a4"), ranges=False)
    adaround(made, AdaRoundParameters(steps=100))
    moved = 0
    for name, quantizer in made.weights().items():
        codes, quantizer.codes = quantizer.codes, None
        away = (codes - quantizer.quantize(weight_of(made.graph, name))).abs()
        assert float(away.max()) <= 1.0
        moved += int(away.sum())
    assert moved > 20 and torch.is_tensor(codes)
