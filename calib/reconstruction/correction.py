"""PD-Quant's distribution correction: float inputs of a unit, nudged towards what its batch norms saw in training.

A thousand calibration images are not the training set; reconstructing them too well over-fits. For every batch the
inputs themselves are trained so that the mean and deviation of each image, at the input of every batch norm of the
unit, come closer to the running statistics, held back by their distance from where they started
(PD-Quant's distribution correction). The batch norms are folded; their inputs follow from the folded layers' outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from isobit.calib.precision import Precision, resolve_precision
from isobit.calib.reconstruction.losses import reconstruction_loss
from isobit.calib.reconstruction.reconstruct import UnitTask
from isobit.calib.synthesis.statistics import Watched, statistics_loss

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


def correct(task: UnitTask, correction: Correction) -> UnitTask:
    """The unit with corrected float inputs, and with its float answers to them as targets.

    Without a batch norm in the unit there is nothing to correct, and it is returned as it is.
    """
    watched = Watched(task.teacher, task.device, outputs=False)
    if not watched.norms or correction.steps == 0:
        return task
    inputs = tuple(task.empty() for _ in task.float_inputs)
    targets = tuple(task.empty() for _ in task.targets)
    parts = list(task.batches(correction.batch))

    def piece(place: int) -> list[Tensor]:
        corrected = _descend(watched, [value.rows(parts[place]) for value in task.float_inputs], correction)
        with torch.no_grad():
            return [value.cpu() for value in (*corrected, *task.teacher(*corrected))]

    for values in task.ranks.dealt(len(parts), piece):
        for stored, value in zip((*inputs, *targets), values, strict=True):
            stored.append(value)
    return replace(task, teacher_inputs=inputs, targets=targets)


def _descend(watched: Watched, original: list[Tensor], correction: Correction) -> list[Tensor]:
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
            _, answers = watched(*corrected)
        tie = sum(reconstruction_loss(*pair) for pair in zip(corrected, original, strict=True))
        loss = statistics_loss(answers, watched.norms) + tie / correction.tie
        gradients = torch.autograd.grad(loss, corrected)
        for value, gradient in zip(corrected, gradients, strict=True):
            value.grad = gradient
        optimiser.step()
        scheduler.step(loss.detach())
    return [value.detach() for value in corrected]
