"""What a folder is made from."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from isobit.backends.base import Backend
from isobit.calib.estimate import Estimate
from isobit.calib.sources import SyntheticImages
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.proof.measures import Measures
from isobit.pipeline.recipe.allocation import Allocation
from isobit.pipeline.samples.data import Batches
from isobit.pipeline.samples.network_inputs import Inputs
from isobit.pipeline.stages import Calibrated, EpochLog, Reference


@dataclass(frozen=True)
class Synthetic:
    """What a build has to tell about images that no camera took, made by the source or by the method.

    Args:
        images: for people to look at; None where there are none.
        notes: for the report.
        trainings: epochs by what was trained.
    """

    images: Tensor | None
    notes: list[str]
    trainings: dict[str, list[EpochLog]]

    @classmethod
    def of(cls, made: SyntheticImages | None, calibrated: Calibrated) -> Synthetic:
        found = calibrated.findings
        images = made.images if made is not None and len(made.images) else found.images
        trainings = {"images": made.findings.epochs if made is not None else [], "network": found.epochs}
        notes = [*(made.findings.notes if made is not None else ()), *found.notes]
        return cls(images, notes, {title: epochs for title, epochs in trainings.items() if epochs})


@dataclass(frozen=True)
class Shipment:
    """All that a folder is made from.

    Args:
        loaded: the model, whose name and hash the manifest states.
        backend: of the target.
        calibrated, reference: the last two stages of the typed chain.
        calibration: what calibration saw, [N, ...] of each input; N may be 0.
        calibration_set: the same as a set with its origin.
        evaluation: None where parity is proven on other images.
        synthetic: what is to be told about images that no camera took.
        source_made: the recipe's source made the calibration images.
        allocation: where a budget of bits was spent.
        expected: what the build was estimated to cost.
        notes: for the report, beside those of this step.
        measures: what is measured of every stage.
    """

    loaded: LoadedModel
    backend: Backend
    calibrated: Calibrated
    reference: Reference
    calibration: Inputs
    calibration_set: Batches
    evaluation: Batches | None
    synthetic: Synthetic
    source_made: bool
    allocation: Allocation | None
    expected: Estimate
    notes: list[str]
    measures: Measures = field(default_factory=Measures)
