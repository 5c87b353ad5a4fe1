"""BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction.

Li, Gong, Tan, Yang, Hu, Zhang, Yu, Wang, Gu; ICLR 2021, arXiv 2102.05426. Two passes over the network, as in the
released code. First the rounding of each block, on the prefix with rounded weights and float activations, so that the
block answers like the float network; errors weighted by the Fisher information of its output, or plain. Then the
activation scales of each block on the float network's values, with rounding decided.
"""

from __future__ import annotations

from pydantic import Field

from isobit.calib.context import Calibration
from isobit.calib.cost import STEERED, Cost, CostFacts
from isobit.calib.methods import Need, method
from isobit.calib.ranges.ranges import search_ranges_in_order, search_weight_ranges
from isobit.calib.reconstruction.mixing import MaskSource
from isobit.calib.reconstruction.objectives import Fisher, FullFisher, Reconstruction, fisher_weights
from isobit.calib.reconstruction.partition import join_units
from isobit.calib.reconstruction.predictions import float_predictions
from isobit.calib.reconstruction.reconstruct import Sweep, UnitTask, reconstruct
from isobit.calib.reconstruction.schedule import LearnedBlocks, rate_factor
from isobit.calib.reconstruction.trainer import MakeObjective, Sampler, Settings, UnitTrainer, unit_trainer
from isobit.pipeline.stages import UnitLog

PAPER_STEPS, PAPER_ACTIVATION_STEPS = 20_000, 5_000


class BRECQParameters(LearnedBlocks):
    """Defaults are those of the released script.

    Args:
        fisher: `diag` weights each output element's error by abs(G) + 1, G the gradient of the prediction's divergence
            (section 3.3); `full` takes one dot product an image; `off`, plain squared error, is what the released
            script runs, while the paper derives `diag`.
        activation_steps: of one unit in the second pass.
        scale_learning_rate: of the activation scales; the command line's 4e-4 (its function's default is 4e-5).
        activation_exponent: of the error in the second pass.
        init_images: how many images the activation ranges see, in one forward pass of the quantized network.
        skip_stem: the first unit is rounded to nearest, and its activation scale stays as searched.
        sampler: the first images of a fresh permutation in every step.
    """

    steps: int = Field(default=PAPER_STEPS, ge=1)
    fisher: Fisher = "off"
    activation_steps: int = Field(default=PAPER_ACTIVATION_STEPS, ge=1)
    scale_learning_rate: float = Field(default=4e-4, gt=0.0)
    activation_exponent: float = Field(default=2.4, ge=1.0)
    init_images: int = Field(default=64, ge=1)
    skip_stem: bool = True
    sampler: Sampler = "permutation"

    @property
    def weight_settings(self) -> Settings:
        """Settings of the first pass."""
        return Settings(steps=self.steps, rounding=self.chosen_rounding(PAPER_STEPS), sampler=self.sampler)

    @property
    def activation_settings(self) -> Settings:
        """Settings of the second pass."""
        factor = rate_factor(self.schedule, self.activation_steps, PAPER_ACTIVATION_STEPS)
        return Settings(
            steps=self.activation_steps, scale_learning_rate=self.scale_learning_rate * factor,
            sampler=self.sampler,
        )


def _needs(parameters: BRECQParameters) -> set[Need]:
    return {"images", "batch"} if parameters.fisher == "off" else {"images", "batch", "predictions"}


def _cost(parameters: BRECQParameters, facts: CostFacts) -> Cost:
    """Both passes; the Fisher information sends every image once through each unit's rest of the network."""
    trained = facts.steps(parameters.steps, parameters.passes) + facts.steps(parameters.activation_steps, STEERED)
    fisher = Cost() if parameters.fisher == "off" else sum(facts.after, Cost()) * (STEERED * facts.images)
    return facts.searched(parameters.init_images) + facts.swept() * 2 + trained + fisher


@method("brecq", BRECQParameters, needs=_needs, cost=_cost, shared=True)
def brecq(calibration: Calibration, parameters: BRECQParameters) -> tuple[UnitLog, ...]:
    """First all weights, then all activation scales."""
    stem = calibration.units[0].name if parameters.skip_stem else None
    units = join_units(calibration.graph, calibration.units, parameters.joined, apart={stem} if stem else ())
    search_weight_ranges(calibration)
    weights, activations = parameters.weight_settings, parameters.activation_settings

    objective = _objective(calibration, parameters)

    def round_weights(task: UnitTask) -> UnitTrainer | None:
        if task.unit.name == stem:
            return None
        return unit_trainer(task, weights, objective)

    def learn_scales(task: UnitTask) -> UnitTrainer | None:
        if task.unit.name == stem:
            return None
        return unit_trainer(
            task, activations,
            lambda task, masks: Reconstruction(task, masks, exponent=parameters.activation_exponent),
        )

    first = reconstruct(calibration, Sweep(weights.steps, units, stage="weights"), round_weights)
    search_ranges_in_order(calibration, parameters.init_images)
    sweep = Sweep(
        activations.steps, units, stage="activations", inputs="teacher", exponent=parameters.activation_exponent
    )
    return first + reconstruct(calibration, sweep, learn_scales)


def _objective(calibration: Calibration, parameters: BRECQParameters) -> MakeObjective:
    if parameters.fisher == "off":
        return Reconstruction
    kind = Reconstruction if parameters.fisher == "diag" else FullFisher
    predictions = float_predictions(calibration, parameters.prediction)

    def make(task: UnitTask, masks: MaskSource) -> Reconstruction:
        weights = fisher_weights(task, task.make_tail("float32", predictions.names), predictions)
        return kind(task, masks, weights=weights)

    return make
