"""PD-Quant: the released code's defaults, both additions do something, better than nearest rounding."""

from __future__ import annotations

import math

import pytest
import torch

from isobit.calib.methods.pdquant import PDQuantParameters, pdquant
from isobit.calib.methods.qdrop import QDropParameters, qdrop
from isobit.pipeline.stages import UnitLog
from tests.examples.units import PAPER, calibrated, calibration, output_error, recipe

SMALL = {"steps": 40, "init_images": 16, "precision": "float32"}


def test_defaults_are_the_released_codes_for_resnet() -> None:
    parameters = PDQuantParameters()
    settings, correction = parameters.settings, parameters.correction
    rounding = settings.rounding.parameters
    assert (settings.steps, rounding.learning_rate, settings.scale_learning_rate) == (20_000, 3e-3, 4e-5)
    assert (settings.keep_prob, rounding.rounding_weight, rounding.warmup) == (0.5, 0.01, 0.2)
    assert (rounding.beta_start, rounding.beta_end, rounding.descent) == (20.0, 2.0, "linear")
    assert (settings.gradient_factor, settings.sampler) == (False, "replacement")
    assert (parameters.temperature, parameters.reconstruction_weight, parameters.init_images) == (4.0, 0.1, 256)
    assert (correction.steps, correction.learning_rate, correction.tie) == (500, 1e-3, 0.02)


@pytest.mark.parametrize("steps", [100, 1000, 20_000, 40_000])
def test_reach_does_not_depend_on_the_steps(steps: int) -> None:
    parameters = PDQuantParameters(steps=steps)
    assert parameters.settings.rounding.parameters.learning_rate * 0.8 * steps == pytest.approx(48.0)
    assert parameters.correction.steps == min(500, max(1, round(500 * steps / 20_000 + 0.49)))
    assert parameters.correction.learning_rate == 1e-3  # Adam's first steps are whole rates: fewer, not larger
    paper = PDQuantParameters(steps=steps, schedule="paper")
    assert paper.settings.rounding.parameters.learning_rate == 3e-3
    assert (paper.correction.learning_rate, paper.correction.steps) == (1e-3, 500)


def test_better_than_nearest() -> None:
    of = recipe("pdquant_w2a2", "method.correction_steps=100", "method.init_images=48", steps=150)
    result = calibrated(of)
    assert sum(log.loss_hard for log in result.log) < 0.8 * sum(log.loss_nearest for log in result.log)
    assert output_error(result) < 0.8 * output_error(calibrated(recipe("nearest_w2a2", f"policy={of.policy}")))


def numbers(**changes: object) -> torch.Tensor:
    """Scales and codes of a network with batch norms in every block."""
    made = calibration(recipe("pdquant_w2a2"), ranges=False, name="residual", target=PAPER)
    pdquant(made, PDQuantParameters(**{**SMALL, **changes}))
    scales = [quantizer.scale.reshape(1) for quantizer in made.activations().values()]
    return torch.cat(scales + [quantizer.codes.flatten() for quantizer in made.weights().values()])


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return numbers()


@pytest.mark.parametrize(
    "changes",
    [{"reconstruction_weight": None}, {"reconstruction_weight": 1.0}, {"temperature": 1.0}, {"correction_steps": 0},
     {"keep_prob": 1.0}, {"init_images": 48}, {"precision": "bfloat16"},
     {"correction_rate": 0.1}, {"prediction_images": 2}],
)  # fmt: skip
def test_every_parameter_makes_a_difference(plain: torch.Tensor, changes: dict[str, object]) -> None:
    assert not torch.equal(plain, numbers(**changes))


def test_the_tie_makes_a_difference_from_the_second_correction_step_on() -> None:
    """The distance from the start has no gradient at the start: where `fast` leaves one step, the tie is idle."""
    several = {"schedule": "paper", "correction_steps": 5}
    assert not torch.equal(numbers(**several), numbers(**several, correction_tie=1e-3))


def test_without_its_additions_it_is_qdrops_first_release() -> None:
    """Bit for bit: prediction difference off, correction off, QDrop's rate."""
    results: list[tuple[tuple[UnitLog, ...], torch.Tensor]] = []
    for method, parameters in (
        (pdquant, PDQuantParameters(steps=40, learning_rate=1e-3, reconstruction_weight=None, correction_steps=0,
                                    init_images=16)),
        (qdrop, QDropParameters(steps=40, branch="master", init_images=16)),
    ):
        made = calibration(recipe("pdquant_w2a2"), ranges=False)
        logs = method(made, parameters)
        codes = torch.cat([quantizer.codes.flatten() for quantizer in made.weights().values()])
        results.append(([log.loss_hard for log in logs], codes))
    assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1])


def statistics(method: str, seed: int) -> list[list[float]]:
    """For every unit that trains: log of its loss after training, soft and hard, share of flipped weights."""
    made = calibration(recipe("pdquant_w2a2", f"seed={seed}"), ranges=False, name="residual", target=PAPER)
    shared = {"steps": 100, "init_images": 48, "schedule": "paper", "learning_rate": 0.1, "scale_learning_rate": 2e-3}
    if method == "pdquant":
        logs = pdquant(made, PDQuantParameters(
            **shared, reconstruction_weight=1e9, correction_tie=1e-9, correction_steps=10, precision="float32"
        ))  # fmt: skip
    else:
        logs = qdrop(made, QDropParameters(**shared, branch="master"))
    return [[math.log(log.loss_soft), math.log(log.loss_hard), log.flipped] for log in logs]


@pytest.mark.slow
def test_in_the_limit_it_is_qdrops_first_release_in_distribution() -> None:
    """lambda_r -> infinity, lambda_c -> 0, QDrop's rate: the same statistics of every unit over seeds.

    Not bit for bit, because the second half of the batch takes its own random bits. Rates are the paper's times the
    same factor in both, for a hundred steps.
    """
    seeds = range(5)
    left, right = (torch.tensor([statistics(method, seed) for seed in seeds]) for method in ("pdquant", "qdrop"))
    assert not torch.equal(left, right)
    spread = torch.sqrt((left.var(0) + right.var(0)) / len(seeds))
    assert bool(((left.mean(0) - right.mean(0)).abs() <= 4.0 * spread + 0.005).all())
    # The comparison can tell losses of blocks apart that differ by a fifth; the classifier's own vary more.
    assert float(spread[:3, :2].max()) < 0.05
