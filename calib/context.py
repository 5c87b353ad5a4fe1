"""What a method may touch: the graph under calibration, the images, the recipe, and where to report to."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from isobit.calib.checkpoints import UnitCheckpoints
from isobit.calib.ranks import ALONE, Ranks
from isobit.calib.reconstruction.boundary import EVALUATION_BATCH, batches
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.graph.subgraphs import float_network
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.samples.network_inputs import Inputs, on_device, part, run_graph, sample_count
from isobit.pipeline.stages import Findings, Unit
from isobit.pipeline.target import Target
from isobit.pipeline.watcher import CalibrationWatcher


@dataclass(frozen=True)
class Calibration:
    """One run of a method.

    Args:
        graph: the copy that is being calibrated, on `device`.
        units: in execution order.
        images: [N, C, H, W], or a tuple of several inputs [N, ...], finite, wherever the caller keeps them; N is 0
            where the method needs none.
        recipe: seed and batch size are the method's business, its parameters come separately.
        checkpoints: where finished units are kept; None for nowhere.
        resume: use the units found there.
        labels: int64 [N] of the images; None where they are not known.
        classes: width of the network's output.
        findings: what the method has to tell beside numbers.
        batch: images of one forward pass that trains nothing; changes no number but the last bits of logged losses.
        target: what the network is calibrated for; None where nothing limits its sums.
        ranks: the processes that calibrate this network together.
    """

    graph: fx.GraphModule
    units: tuple[Unit, ...]
    images: Inputs
    recipe: Recipe
    device: torch.device
    progress: CalibrationWatcher
    checkpoints: UnitCheckpoints | None = None
    resume: bool = False
    labels: Tensor | None = None
    classes: int = 0
    findings: Findings = field(default_factory=Findings)
    batch: int = EVALUATION_BATCH
    target: Target | None = None
    ranks: Ranks = ALONE

    @property
    def count(self) -> int:
        """N."""
        return sample_count(self.images)

    @property
    def only_images(self) -> Tensor:
        """`images`, for a method that says it takes one input; raises ValueError where there are several."""
        if isinstance(self.images, tuple):
            raise ValueError("a method reads one input and does not say that it needs it")
        return self.images

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image, the only input."""
        return tuple(self.only_images.shape[1:])

    def batch_at(self, index: slice) -> Inputs:
        """The samples at `index`, on `device`."""
        return on_device(part(self.images, index), self.device)

    def only(self, index: Tensor) -> Calibration:
        """The same run on the samples at `index` alone."""
        labels = None if self.labels is None else self.labels[index]
        return replace(self, images=part(self.images, index), labels=labels)

    @property
    def known_labels(self) -> Tensor:
        """`labels`, for a method that says it needs them; raises ValueError where they are not known."""
        if self.labels is None:
            raise ValueError("a method reads labels and does not say that it needs them")
        return self.labels

    def say_what_is_not_resumed(self) -> None:
        """Where the run was to be resumed and starts anew: that, and why, for the terminal; no artifact says it."""
        reason = self.checkpoints.why_not_resumed() if self.resume and self.checkpoints is not None else ""
        if reason:
            self.progress.note(reason)

    def activations(self) -> dict[str, Quantizer]:
        """Distinct activation quantizers whose numbers are free, by node name."""
        return self._quantizers(constant=False)

    def weights(self) -> dict[str, Quantizer]:
        """Distinct weight quantizers, by node name."""
        return self._quantizers(constant=True)

    def _quantizers(self, constant: bool) -> dict[str, Quantizer]:
        found = quantized_tensors(self.graph).distinct()
        free = found.weights() if constant else found.activations()
        return {tensor.name: tensor.quantizer for tensor in free if not tensor.quantizer.fixed}

    @torch.no_grad()
    def float_values(self, names: Collection[str]) -> dict[str, Tensor]:
        """The float network's values [N, ...] of some nodes for all images, on `device`."""
        teacher = float_network(self.graph, names)
        found: dict[str, list[Tensor]] = {name: [] for name in teacher.output_names}
        for rows in batches(self.count, self.batch):
            for name, value in zip(found, run_graph(teacher, self.batch_at(rows)), strict=True):
                found[name].append(value)
        return {name: torch.cat(parts) for name, parts in found.items()}

    def seed(self, purpose: str) -> int:
        """A seed that depends on the recipe's seed and on `purpose` (a unit's name) only, never on what ran before."""
        digest = hashlib.sha256(f"{self.recipe.seed}:{purpose}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1
