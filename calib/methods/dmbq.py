"""DMBQ and LBA: Distribution-Aware Multi-Bit Quantization with Loss-Guided Bit Allocation.

Zhao, Wang, Guo, Xu, Zhang, Lin, Wang; "Distribution-aware Adaptive Multi-bit Quantization" (CVPR 2021) and its second
version. Quantization-aware training on labelled images: weights take the levels that are best for a Laplace density,
activations are clipped at a learned value, and bits are taken from the channels that miss them least until the average
is the recipe's. The recipe's `bits` are that average, and `levels: multibit` and
`levels: nested` are what this method fills; layers with uniform levels are trained on min-max grids beside them.

A weight channel of K bits takes the levels c * sum_i (+-alpha_i), i = 1 ... K, with c = kappa_K * mean abs(w) averaged
over steps; alpha and kappa are optimal for a Laplace density. In each epoch of the window every channel g collects

    e_g = sum over steps of abs(mean over g of (t - t^) dL/dt^)

and at its end the channels of the smallest e lose a bit, 1 % of them at first and 30 % at last, weights and activations
apart, until the averages are the recipe's `bits`.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from isobit.calib.context import Calibration
from isobit.calib.cost import TRAINED, Cost, CostFacts
from isobit.calib.methods import method
from isobit.calib.mixed_precision.loss_allocation import Groups, Pool, share
from isobit.calib.parameters import Parameters
from isobit.calib.synthesis.statistics import watched_network
from isobit.calib.training.finetune import Milestones, milestone_factor, set_rate, share_right, student_loss, train
from isobit.calib.training.level_coders import MultibitCoder, NestedCoder
from isobit.calib.training.multibit import TableName
from isobit.calib.training.student import ActivationCoder, MinMaxWeights, NormMode, Student, WeightCoder
from isobit.calib.training.tracking import TrackedRange
from isobit.pipeline.quant.channel_bits import MAX_CHANNEL_BITS
from isobit.pipeline.quant.codebook import CodebookGrid
from isobit.pipeline.quant.nested import NestedGrid
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.stages import UnitLog

START = MAX_CHANNEL_BITS


class DmbqParameters(Parameters):
    """Defaults are those of the authors' second version for CIFAR-10, but for `tolerance` and `clip`.

    Args:
        start_epochs: of the first run, in which every channel has 4 bits; 0 for none.
        epochs: of the second, in which bits are taken away; its rates start anew.
        learning_rate: of SGD with momentum 0.9, for everything that is trained; a tenth at each milestone of a run.
        weight_decay: on everything that is trained, the clips included.
        milestones: shares of a run.
        window: share of the second run in which bits may be taken.
        tolerance: bits above the recipe's average that are good enough; the authors' second version has 0.07, so that
            its 2.0 is 2.01 and 2.05, the first version 0.
        weight_groups, activation_groups: what loses a bit together: a `channel`, a whole `layer`; `none` has the
            recipe's bits in all of them from the start.
        table: of codebooks: `laplace` (second version), `cifar` (first version), `gauss`.
        clip: where learned clips start (the authors: 3.0); null for the range of least squared error.
        norm: batch norms: `train` as in the papers, or `frozen` statistics.
        pad: pixels around an image before it is cropped at random; 0 for no crop.
        flip: mirror images at random.
        distillation: what the divergence from the float network counts, times T^2; the papers have none.
        temperature: of that divergence.
    """

    start_epochs: int = Field(default=300, ge=0)
    epochs: int = Field(default=300, ge=1)
    learning_rate: float = Field(default=0.05, gt=0.0)
    weight_decay: float = Field(default=1e-4, ge=0.0)
    milestones: Milestones = (0.5, 0.75)
    window: float = Field(default=0.5, gt=0.0, le=1.0)
    tolerance: float = Field(default=0.0, ge=0.0)
    weight_groups: Groups = "channel"
    activation_groups: Groups = "channel"
    table: TableName = "laplace"
    clip: float | None = Field(default=None, gt=0.0)
    norm: NormMode = "train"
    pad: int = Field(default=4, ge=0)
    flip: bool = True
    distillation: float = Field(default=0.0, ge=0.0)
    temperature: float = Field(default=4.0, gt=0.0)


class DmbqTraining:
    """A `calib.training.finetune.Training`: labelled images, and bits taken away at the ends of epochs."""

    def __init__(self, calibration: Calibration, parameters: DmbqParameters) -> None:
        self.parameters, self.device = parameters, calibration.device
        self.images, self.labels = calibration.only_images, calibration.known_labels.to(calibration.device)
        self.batch = min(calibration.recipe.images.batch_size, len(self.images))
        self.random = torch.Generator().manual_seed(calibration.seed("dmbq"))
        self.teacher = watched_network(calibration.graph, calibration.device) if parameters.distillation else None
        self.targets = {"weights": float(calibration.recipe.weights.fixed_bits),
                        "activations": float(calibration.recipe.activations.bits)}
        self._sizes: dict[MultibitCoder | NestedCoder, int] = {}
        self.student = Student(calibration, self._weights, self._activations, parameters.norm)
        self.pools = {
            "weights": self._pool(MultibitCoder, parameters.weight_groups),
            "activations": self._pool(NestedCoder, parameters.activation_groups),
        }
        self._start()
        self._order: list[int] = []

    # -- coders --------------------------------------------------------------------------------------------------

    def _weights(self, quantizer: Quantizer, shape: tuple[int, ...]) -> WeightCoder:
        if not quantizer.spec.grid.own_bits:
            return MinMaxWeights(quantizer.spec)
        bits = quantizer.spec.bits if self.parameters.weight_groups == "none" else START
        coder = MultibitCoder(quantizer, shape[0], bits, self.parameters.table)
        self._sizes[coder] = torch.Size(shape[1:]).numel()
        return coder

    def _activations(self, quantizer: Quantizer, shape: tuple[int, ...]) -> ActivationCoder:
        if not quantizer.spec.grid.own_bits:
            return TrackedRange(quantizer.spec, "ema_corrected")
        bits = quantizer.spec.bits if self.parameters.activation_groups == "none" else START
        coder = NestedCoder(shape[0], bits, self.parameters.clip)
        self._sizes[coder] = torch.Size(shape[1:]).numel()
        return coder

    def _pool(self, kind: type[MultibitCoder | NestedCoder], groups: Groups) -> Pool:
        found = [coder for coder in self._sizes if isinstance(coder, kind)]
        return Pool(found, [self._sizes[coder] for coder in found], groups)

    # -- the training ----------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Steps of an epoch; images that do not fill a batch are dropped."""
        return max(1, len(self.images) // self.batch)

    @property
    def total(self) -> int:
        """Epochs of both runs."""
        return self.parameters.start_epochs + self.parameters.epochs

    def _start(self) -> None:
        """A new optimiser, as at the beginning of each run."""
        own = self.parameters
        self.optimiser = torch.optim.SGD(
            self.student.parameters(), lr=own.learning_rate, momentum=0.9, weight_decay=own.weight_decay
        )

    def begin(self, epoch: int) -> None:
        """Rate of this epoch, and whether errors are counted in it."""
        own = self.parameters
        if epoch == own.start_epochs and epoch > 0:
            self._start()
        run_epoch = epoch - own.start_epochs if epoch >= own.start_epochs else epoch
        length = own.epochs if epoch >= own.start_epochs else own.start_epochs
        set_rate(self.optimiser, own.learning_rate * milestone_factor(run_epoch, length, own.milestones))
        self.student.train()
        for name, pool in self.pools.items():
            pool.watch(self._allocates(epoch, name))

    def _allocates(self, epoch: int, name: str) -> bool:
        pool, own = self.pools[name], self.parameters
        inside = 0 <= epoch - own.start_epochs < self._window
        return inside and bool(pool.coders) and pool.groups != "none" and pool.average > self._goal(name)

    @property
    def _window(self) -> int:
        return max(1, round(self.parameters.window * self.parameters.epochs))

    def _goal(self, name: str) -> float:
        return self.targets[name] + self.parameters.tolerance

    def step(self) -> dict[str, float]:
        """One step on the next images of a shuffled pass."""
        images, labels = self._next()
        logits = self.student(images)
        if self.teacher is None:
            loss = F.cross_entropy(logits, labels)
        else:
            with torch.no_grad():
                (teacher,), _ = self.teacher(images)
            own = self.parameters
            loss = student_loss(logits, labels, teacher, own.distillation * own.temperature**2, own.temperature)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return {"loss": float(loss.detach()), "right": share_right(logits, labels)}

    def _next(self) -> tuple[Tensor, Tensor]:
        if len(self._order) < self.batch:
            self._order = torch.randperm(len(self.images), generator=self.random).tolist()
        places, self._order = self._order[: self.batch], self._order[self.batch :]
        images = self.images[places].to(self.device)
        return self._augmented(images).contiguous(memory_format=torch.channels_last), self.labels[places]

    def _augmented(self, images: Tensor) -> Tensor:
        """Each image padded with zeros and cropped at random, and mirrored at random."""
        count, pad = len(images), self.parameters.pad
        if pad:
            padded = F.pad(images, (pad, pad, pad, pad))
            offsets = torch.randint(2 * pad + 1, (count, 2), generator=self.random).tolist()
            height, width = images.shape[-2:]
            images = torch.stack([
                padded[index, :, top : top + height, left : left + width]
                for index, (top, left) in enumerate(offsets)
            ])
        if self.parameters.flip:
            mirror = torch.randint(2, (count,), generator=self.random).bool().to(images.device)
            images = torch.where(mirror[:, None, None, None], images.flip(-1), images)
        return images

    def end(self, epoch: int) -> dict[str, float]:
        """Bits are taken away: a rising share of the groups, and in the window's last epoch whatever is too much."""
        place = epoch - self.parameters.start_epochs
        for name, pool in self.pools.items():
            if not self._allocates(epoch, name):
                continue
            if place + 1 < self._window:
                wanted = share(place, self._window, START - self._goal(name))
                pool.take(max(1, int(wanted * pool.count)), self._goal(name))
            else:
                pool.bring_down(self._goal(name))
        return {f"{name[0].upper()} bits": pool.average for name, pool in self.pools.items() if pool.coders}

    def state(self) -> dict[str, Any]:
        """Student, optimiser, and where the pass over the images and the random numbers are."""
        return {
            "student": self.student.state_dict(), "sgd": self.optimiser.state_dict(),
            "random": self.random.get_state(), "order": list(self._order),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["sgd"])
        self.random.set_state(state["random"])
        self._order = list(state["order"])


def _cost(parameters: DmbqParameters, facts: CostFacts) -> Cost:
    batch = min(facts.batch, facts.images)
    images = (parameters.start_epochs + parameters.epochs) * max(1, facts.images // max(1, batch)) * batch
    return facts.network * (images * (TRAINED + (1.0 if parameters.distillation else 0.0)))


@method(
    "dmbq", DmbqParameters, needs={"images", "labels", "tail", "one_input"}, cost=_cost,
    fills=frozenset({CodebookGrid.kind, NestedGrid.kind}),
)
def dmbq(calibration: Calibration, parameters: DmbqParameters) -> tuple[UnitLog, ...]:
    """Train, take bits away, and write the student into the graph; there is no unit log."""
    training = DmbqTraining(calibration, parameters)
    train(calibration, training, training.total, training.steps)
    training.student.eval()
    training.student.settle()
    for name, pool in training.pools.items():
        if pool.coders:
            counts = torch.bincount(torch.cat([coder.bits for coder in pool.coders]), minlength=START + 1).tolist()
            spread = ", ".join(f"{count} of {bits}" for bits, count in enumerate(counts) if count)
            calibration.findings.notes.append(
                f"{name}: {pool.average:.3f} bits on average; channels by bits: {spread}"
            )
    return ()
