"""PD-Quant's distribution correction: float inputs of a unit, nudged towards what its batch norms saw in training.

A thousand calibration images are not the training set; reconstructing them too well over-fits. For every batch the
inputs themselves are trained so that the mean and deviation of each image, at the input of every batch norm of the
unit, come closer to the running statistics, held back by their distance from where they started
(methods_reconstruction section 5.3). The batch norms are folded; their inputs follow from the folded layers' outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from calib.losses import positions, reconstruction_loss
from calib.precision import Precision, resolve_precision
from calib.reconstruct import UnitWork
from pipeline.norms import FoldedNorm, folded_norm

VARIANCE_FLOOR = 1e-6
PLATEAU_FACTOR, PLATEAU_PATIENCE, SMALLEST_RATE = 0.1, 0.2, 0.01  # patience as a share of the steps, rate of the first


@dataclass(frozen=True)
class Correction:
    """How inputs are corrected; the paper: 500 steps of Adam at 1e-3 for every 32 images.

    Args:
        tie: lambda_c; smaller ties the corrected inputs closer to the original ones.
        learning_rate: of Adam, reduced to a tenth where the loss stays on a plateau.
        batch: images corrected together; they only share the plateau's scheduler.
        precision: of the unit's layers while inputs are corrected; statistics and inputs are float32.
    """

    steps: int
    learning_rate: float
    tie: float
    batch: int
    precision: Precision = "float32"


class _Watched:
    """A unit's float sub-graph that answers with what every folded layer in it answers."""

    def __init__(self, teacher: fx.GraphModule, device: torch.device) -> None:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in teacher.graph.nodes:
            if node.op != "output":
                copies[node] = graph.node_copy(node, lambda n: copies[n])
        layers = [node for node in copies if folded_norm(node) is not None]
        graph.output(tuple(copies[node] for node in layers))
        graph.eliminate_dead_code()
        self.norms = [folded_norm(node).to(device) for node in layers]
        self._module = fx.GraphModule(teacher, graph)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._module(*inputs)


def statistics_loss(answers: tuple[Tensor, ...], norms: list[FoldedNorm]) -> Tensor:
    """Sum over batch norms of the mean over images of ||mean - running mean||^2 + ||deviation - running deviation||^2.

    Args:
        answers: outputs [N, C, ...] of the folded layers.
        norms: what was folded into each.
    """
    total = answers[0].new_zeros(())
    for answer, norm in zip(answers, norms, strict=True):
        usable, mean, variance = norm.usable, *_moments(answer, norm.beta)
        factor = norm.factor[usable]
        total = total + (mean[:, usable] / factor).square().sum(1).mean()
        if positions(answer) > 1:
            deviation = torch.sqrt(variance[:, usable] / factor.square() + VARIANCE_FLOOR)
            running = torch.sqrt(norm.variance[usable] + VARIANCE_FLOOR)
            total = total + (deviation - running).square().sum(1).mean()
    return total


def _moments(answer: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Per image and channel [N, C]: mean minus `centre`, and unbiased variance, over positions.

    Matrix products with a row of ones are an order of magnitude faster than `torch.var_mean` on channels-last data;
    centring first keeps the difference of squares exact enough, because an image's mean is near the running one.
    """
    count = positions(answer)
    rows = answer.flatten(2).transpose(1, 2) if answer.dim() > 2 else answer.unsqueeze(1)
    rows = rows - centre
    ones = rows.new_full((rows.shape[0], 1, count), 1.0 / count)
    mean, square = (torch.bmm(ones, values)[:, 0] for values in (rows, rows * rows))
    return mean, (square - mean * mean).clamp(min=0.0) * (count / max(count - 1, 1))


def correct(work: UnitWork, correction: Correction) -> UnitWork:
    """The unit with corrected float inputs, and with its float answers to them as targets.

    Without a batch norm in the unit there is nothing to correct, and it is returned as it is.
    """
    watched = _Watched(work.teacher, work.device)
    if not watched.norms or correction.steps == 0:
        return work
    inputs = tuple(work.empty() for _ in work.float_inputs)
    targets = tuple(work.empty() for _ in work.targets)
    for part in work.batches(correction.batch):
        original = [value.rows(part) for value in work.float_inputs]
        corrected = _descend(watched, original, correction)
        with torch.no_grad():
            answers = work.teacher(*corrected)
        for stored, value in zip((*inputs, *targets), (*corrected, *answers), strict=True):
            stored.append(value)
    return replace(work, teacher_inputs=inputs, targets=targets)


def _descend(watched: _Watched, original: list[Tensor], correction: Correction) -> list[Tensor]:
    corrected = [value.clone().requires_grad_() for value in original]
    optimiser = torch.optim.Adam(corrected, lr=correction.learning_rate)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=PLATEAU_FACTOR, patience=max(1, round(PLATEAU_PATIENCE * correction.steps)),
        min_lr=SMALLEST_RATE * correction.learning_rate,
    )
    device = original[0].device
    dtype = resolve_precision(correction.precision, device)
    for _ in range(correction.steps):
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            answers = watched(*corrected)
        tie = sum(reconstruction_loss(*pair) for pair in zip(corrected, original, strict=True))
        loss = statistics_loss(answers, watched.norms) + tie / correction.tie
        gradients = torch.autograd.grad(loss, corrected)
        for value, gradient in zip(corrected, gradients, strict=True):
            value.grad = gradient
        optimiser.step()
        scheduler.step(loss.detach())
    return [value.detach() for value in corrected]
