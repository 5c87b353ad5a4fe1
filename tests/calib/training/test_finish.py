"""The network-wise finish: codes stay, the prediction comes nearer, and what helps nobody is not taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from isobit import passes
from isobit.backends import reference
from isobit.backends.onnx.target import TARGETS
from isobit.calib.context import Calibration
from isobit.calib.ranges.ranges import round_weights, search_ranges
from isobit.calib.reconstruction.losses import prediction_loss
from isobit.calib.reconstruction.predictions import FloatPredictions, float_predictions
from isobit.calib.training.finish import KEPT_OUT, TEMPERATURE, Finish, finish
from isobit.pipeline.stages import Calibrated
from tests.examples import nets
from tests.examples.tiny import quantized_net
from tests.examples.units import CPU, Notes, detector_calibration, recipe, responsive
from tests.passes import plans


class Epochs(Notes):
    """Remembers what training tells."""

    def training(self, epochs: int, steps: int) -> None:
        self.total, self.steps = epochs, steps

    def epoch(self, log: object) -> None:
        self.logs.append(log)


def rounded(bits: str = "minmax_w3a3") -> tuple[Calibration, FloatPredictions]:
    """A residual network rounded to nearest, and the float network's predictions."""
    quantized, images = responsive(recipe(bits), TARGETS["generic"])
    made = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Epochs())
    answers = float_predictions(made, None, TEMPERATURE)
    search_ranges(made)
    round_weights(made)
    return made, answers


def codes(made: Calibration) -> list[torch.Tensor]:
    return [quantizer.decided.clone() for quantizer in made.weights().values()]


@torch.no_grad()
def error(made: Calibration, answers: FloatPredictions) -> float:
    (reference,) = answers.values.values()
    return float((made.graph(made.images) - reference).square().mean())


def test_the_prediction_comes_nearer_with_the_same_codes() -> None:
    made, answers = rounded()
    before, held = error(made, answers), codes(made)
    finish(made, Finish(30, 5e-3, 0.0, 16), answers)
    assert error(made, answers) < 0.7 * before
    assert all(torch.equal(*pair) for pair in zip(held, codes(made), strict=True))
    (note,) = made.findings.notes
    assert "6 samples kept out" in note and "not taken" not in note
    assert made.progress.trained == 30 and len(made.progress.logs) == 1


def test_learned_rounding_goes_to_a_code_next_to_the_weight_and_is_worth_more() -> None:
    made, answers = rounded()
    finish(made, Finish(30, 5e-3, 0.0, 16), answers)
    better, answers = rounded()
    held = codes(better)
    finish(better, Finish(30, 5e-3, 1e-2, 16), answers)
    assert better.progress.logs[0].measured["loss after"] < 0.8 * made.progress.logs[0].measured["loss after"]
    moved = torch.cat([(old - new).abs().flatten() for old, new in zip(held, codes(better), strict=True)])
    assert int(moved.count_nonzero()) > 0 and int(moved.max()) == 1


def test_what_makes_the_samples_kept_out_worse_is_not_taken() -> None:
    made, answers = rounded()
    before = {name: value.clone() for name, value in made.graph.state_dict().items()}
    finish(made, Finish(3, 1.0, 0.0, 16), answers)
    assert made.findings.notes[0].endswith("not taken (3 steps)")
    after = made.graph.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(("count", "kept"), [(48, 6), (24, 4), (6, 3)])
def test_few_samples_are_not_judged_by_one(count: int, kept: int) -> None:
    made, answers = rounded()
    made = dataclasses.replace(made, images=made.images[:count])
    finish(made, Finish(2, 5e-3, 0.0, 4), answers)
    assert f"on {kept} samples kept out" in made.findings.notes[0]


@pytest.mark.parametrize("rounding_rate", [0.0, 1e-2])
def test_what_is_trained_is_what_the_graph_computes_afterwards(rounding_rate: float) -> None:
    made, answers = rounded()
    order = np.random.default_rng(made.seed("finish")).permutation(made.count)
    kept = order[: made.count // KEPT_OUT]
    finish(made, Finish(10, 5e-3, rounding_rate, 16), answers)
    with torch.no_grad():
        found = made.graph(made.images[kept])
    (reference,), (log,) = answers.values.values(), made.progress.logs
    settled = float(prediction_loss(found, reference[kept], TEMPERATURE))
    assert settled == pytest.approx(log.measured["loss after"], rel=1e-3)
    assert settled < 0.9 * log.measured["loss before"]
    assert f"to {log.measured['loss after']:.4g}" in made.findings.notes[0]


@pytest.mark.parametrize("name", ["plain", "ssd", "yolo8"])
def test_a_detector_is_trained_by_its_predictions_before_they_are_decoded(name: str) -> None:
    made = dataclasses.replace(detector_calibration(name, recipe("minmax_w3a3")), progress=Epochs())
    predictions = float_predictions(made, None, TEMPERATURE)
    round_weights(made)
    finish(made, Finish(20, 5e-3, 0.0, 8), predictions)
    (log,) = made.progress.logs
    assert log.measured["loss after"] < log.measured["loss before"]
    assert made.findings.notes[0] == predictions.text and "not taken" not in made.findings.notes[1]


def test_several_outputs_and_a_target_without_integer_biases() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.relu(self.a(x))
            return self.b(y), self.c(y)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Two().eval(), torch.randn(32, 3, 8, 8)
    quantized, _ = quantized_net(reference.TARGET, recipe("minmax_w3a3"), model, images)
    made = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Epochs())
    answers = float_predictions(made, None, TEMPERATURE)
    wanted = list(answers.values.values())
    search_ranges(made)
    round_weights(made)

    def distance() -> float:
        with torch.no_grad():
            return sum(
                float((got - reference).square().sum() / reference.square().sum())
                for got, reference in zip(made.graph(images), wanted, strict=True)
            )

    before = distance()
    finish(made, Finish(20, 5e-3, 0.0, 16), answers)
    assert distance() < before
    frozen, _ = passes.legalize(Calibrated(made.graph, quantized, (), made.findings))
    assert frozen.graph(images)[0].shape == wanted[0].shape


def test_answers_are_those_of_their_outputs_whatever_is_computed_first() -> None:
    def late_first(m, x):
        early = m.a(x)
        return m.b(torch.relu(early))[:, :2], early

    captured, images = nets.captured_of(plans.Call(late_first), 3, 6, 6)
    quantized = passes.quantize(captured, recipe("minmax_w8a8"), TARGETS["generic"])
    made = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Epochs())
    values = float_predictions(made, None).values
    with torch.no_grad():
        wanted = captured.graph(images)
    for node, answer in zip(quantized.calls.outputs, wanted, strict=True):
        found = [value for value in values.values() if value.shape == answer.shape and torch.allclose(value, answer)]
        assert found, node.name
