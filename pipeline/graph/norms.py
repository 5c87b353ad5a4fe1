"""What folding takes away and some methods still need: the batch norm that stood after a layer.

`fold_batchnorm` leaves a `FoldedNorm` in `node.meta["batch_norm"]` of the layer that took it in. PD-Quant's
distribution correction compares the statistics of the batch norm's *input* with the running ones; that input is an
affine function of the folded layer's output, so no second, un-folded network is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

# Channels whose factor is smaller carry nothing that could be traced back through the fold in float32.
SMALLEST_FACTOR = 1e-6


@dataclass(frozen=True)
class FoldedNorm:
    """A batch norm y = factor * (x - mean) + beta, per channel; all float32 [C].

    Args:
        factor: gamma / sqrt(variance + eps).
        beta: its bias.
        mean, variance: running statistics of x.
        eps: what is added to the variance before the root.
    """

    factor: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor
    eps: float = 1e-5

    @property
    def usable(self) -> Tensor:
        """Which channels' x can be computed from y: bool [C]."""
        return self.factor.abs() > SMALLEST_FACTOR

    def to(self, device: torch.device) -> FoldedNorm:
        return FoldedNorm(
            self.factor.to(device), self.beta.to(device), self.mean.to(device), self.variance.to(device), self.eps,
        )


def folded_norm(node: fx.Node) -> FoldedNorm | None:
    """The batch norm that was folded into `node`, or None."""
    return node.meta.get("batch_norm")
