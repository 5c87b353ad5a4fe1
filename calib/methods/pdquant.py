"""PD-Quant: Post-Training Quantization Based on Prediction Difference Metric.

Liu, Niu, Yuan, Yang, Wang, Liu; CVPR 2023, arXiv 2212.07048. QDrop's first release, with two additions: the unit's
answer on the quantized prefix goes through the float rest of the network, and the difference of the predictions joins
the loss; and the float inputs and targets are corrected towards the batch norms' statistics, against over-fitting.
"""

from __future__ import annotations

import math

from pydantic import Field

from isobit.calib.context import Calibration
from isobit.calib.cost import STEERED, Cost, CostFacts
from isobit.calib.methods import Need, method
from isobit.calib.precision import Precision
from isobit.calib.ranges.ranges import search_ranges, search_unit_ranges
from isobit.calib.reconstruction.correction import Correction, correct
from isobit.calib.reconstruction.objectives import PredictionDifference
from isobit.calib.reconstruction.partition import join_units
from isobit.calib.reconstruction.predictions import float_predictions
from isobit.calib.reconstruction.reconstruct import Sweep, UnitTask, reconstruct
from isobit.calib.reconstruction.schedule import LearnedBlocks, rate_factor
from isobit.calib.reconstruction.trainer import MakeObjective, Settings, UnitTrainer, unit_trainer
from isobit.pipeline.stages import UnitLog

PAPER_STEPS = 20_000


class PDQuantParameters(LearnedBlocks):
    """Defaults are the released code's for ResNet; other networks' stand in recipes of their own (section 5.4).

    Args:
        keep_prob: probability that an element stays quantized, at the unit's input and inside.
        learning_rate: of the rounding variables; three times that of the other papers.
        scale_learning_rate: Adam's, of the activation scales, cosine to 0.
        temperature: of the softmaxes whose divergence is a classifier's prediction difference; detectors and maps
            have distances of their own (`calib.reconstruction.predictions`).
        reconstruction_weight: lambda_r; the prediction difference is divided by it. None leaves the difference out.
        correction_steps: of the distribution correction, at the paper's number of steps; 0 leaves it out. `fast`
            takes the same share of them as of `steps`.
        correction_rate: Adam's, of the corrected inputs.
        correction_tie: lambda_c; smaller ties corrected inputs closer to the original ones.
        correction_batch: images corrected at once; they share the plateau's scheduler only. The paper's code: 32.
        precision: in which the rest of the network, and the unit while inputs are corrected, compute.
        prediction_images: how many images of a step go through the rest of the network; None for all, as in the paper.
        init_images: how many images the activation ranges of a unit see, on the quantized prefix.
    """

    steps: int = Field(default=PAPER_STEPS, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0.0)
    keep_prob: float = Field(default=0.5, ge=0.0, le=1.0)
    scale_learning_rate: float = Field(default=4e-5, ge=0.0)
    temperature: float = Field(default=4.0, gt=0.0)
    reconstruction_weight: float | None = Field(default=0.1, gt=0.0)
    correction_steps: int = Field(default=500, ge=0)
    correction_rate: float = Field(default=1e-3, gt=0.0)
    correction_tie: float = Field(default=0.02, gt=0.0)
    correction_batch: int = Field(default=64, ge=1)
    precision: Precision = "auto"
    prediction_images: int | None = Field(default=None, ge=1)
    init_images: int = Field(default=256, ge=1)

    @property
    def settings(self) -> Settings:
        """The step loop's settings, rates scaled to the number of steps."""
        factor = rate_factor(self.schedule, self.steps, PAPER_STEPS)
        return Settings(
            steps=self.steps, rounding=self.chosen_rounding(PAPER_STEPS), keep_prob=self.keep_prob,
            scale_learning_rate=self.scale_learning_rate * factor,
        )

    @property
    def correction(self) -> Correction:
        """The distribution correction; its rate is not scaled.

        Adam's first steps move every element by the whole rate, whatever its gradient: few large ones are noise.
        """
        factor = rate_factor(self.schedule, self.steps, PAPER_STEPS)
        steps = min(self.correction_steps, math.ceil(self.correction_steps / factor))
        return Correction(steps, self.correction_rate, self.correction_tie, self.correction_batch, self.precision)


def _needs(parameters: PDQuantParameters) -> set[Need]:
    needs: set[Need] = {"images", "batch"}
    if parameters.correction_steps:
        needs.add("bn_statistics")
    if parameters.reconstruction_weight is not None:
        needs.add("predictions")
    return needs


def _cost(parameters: PDQuantParameters, facts: CostFacts) -> Cost:
    """QDrop's, a second half of the batch that goes on through the rest of the network, and the correction."""
    done = facts.reconstructed(parameters.init_images, parameters.steps, parameters.passes)
    if parameters.reconstruction_weight is not None:
        images = parameters.steps * min(parameters.prediction_images or facts.batch, facts.batch)
        done += facts.network * (images * parameters.passes) + sum(facts.after, Cost()) * (images * STEERED)
    return done + facts.network * (parameters.correction.steps * facts.images * STEERED)


@method("pdquant", PDQuantParameters, needs=_needs, cost=_cost, shared=True)
def pdquant(calibration: Calibration, parameters: PDQuantParameters) -> tuple[UnitLog, ...]:
    """Every unit in order: ranges on the prefix, corrected inputs, training through the rest of the network."""
    search_ranges(calibration, parameters.init_images)
    settings, objective = parameters.settings, _objective(calibration, parameters)

    def trainer(task: UnitTask) -> UnitTrainer | None:
        task = correct(task, parameters.correction)
        return unit_trainer(task, settings, objective)

    def ranges(task: UnitTask) -> None:
        search_unit_ranges(task, parameters.init_images)

    units = join_units(calibration.graph, calibration.units, parameters.joined)
    return reconstruct(calibration, Sweep(settings.steps, units), trainer, ranges)


def _objective(calibration: Calibration, parameters: PDQuantParameters) -> MakeObjective | None:
    if parameters.reconstruction_weight is None:
        return None
    weight = 1.0 / parameters.reconstruction_weight
    predictions = float_predictions(calibration, parameters.prediction, parameters.temperature)
    return lambda task, masks: PredictionDifference(
        task, masks, parameters.keep_prob, task.make_tail(parameters.precision, predictions.names), predictions, weight,
        None if parameters.prediction_images is None else task.ranks.part(parameters.prediction_images),
    )
