"""Learned offsets before rounding, moved by the signs of their gradients (SignRound, AutoRound).

Cheng, Zhang, Shen, Cai, He, Lv, Liu: Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs,
Findings of EMNLP 2024, arXiv 2309.05516.

    weight = scale * clamp(round(w / scale + v), qmin - zero_point, qmax - zero_point),  v in [-0.5, 0.5]

The unit sees hard codes in every step and the gradient passes the rounding as if it were not there, but not a code
that is clipped. v starts at 0, nearest rounding; step t = 0 ... T - 1 moves each v by rate * (1 - t / T) / T against
the sign of its gradient, half a code in all at the paper's rate of 1. The offsets of the step with the smallest loss
are kept. The paper's learned factors on a range's ends are left out: the ranges are those that were searched.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from isobit.calib.roundings import RoundingParameters, Weights, rounding
from isobit.calib.roundings.buffer import FlatRounding

FARTHEST = 0.5


class SignedOffsetsParameters(RoundingParameters):
    """Defaults are the paper's.

    Args:
        learning_rate: of the first step, times the number of steps: how far offsets could go at a constant rate.
    """

    learning_rate: float = Field(default=1.0, gt=0.0)


@rounding("signsgd", SignedOffsetsParameters)
class SignedOffsets(FlatRounding):
    """One offset v for every weight, learned by signed gradient descent with a rate that falls linearly to 0.

    Attributes:
        offsets: v, flat [weights].
    """

    def __init__(self, weights: Weights, parameters: SignedOffsetsParameters, steps: int) -> None:
        super().__init__(weights)
        self.offsets = torch.zeros_like(self.ratio)
        self._best = torch.zeros_like(self.ratio)
        self._least = torch.full((), math.inf, device=self.ratio.device)
        rates = [parameters.learning_rate * (1.0 - step / steps) / steps for step in range(steps)]
        self._rates = torch.tensor(rates, device=self.ratio.device)

    def regularised(self, step: int) -> bool:
        """Never: the codes are hard in every step."""
        return False

    def _rounded(self) -> Tensor:
        """Codes minus zero point before they are clipped."""
        return torch.round(self.ratio + self.offsets)

    def refresh(self) -> None:
        """Compute the rounded weights from the offsets and clear their gradients."""
        torch.mul(self.decided(), self.scale, out=self.values)
        self.gradient.zero_()

    @torch.no_grad()
    def collect(self, cursor: Tensor, regularised: bool, loss: Callable[[], Tensor]) -> None:
        """Keep the offsets where this step's loss is the smallest so far, then move them."""
        found = loss().to(self._least.dtype)
        better = found < self._least
        self._best.copy_(torch.where(better, self.offsets, self._best))
        self._least.copy_(torch.where(better, found, self._least))
        codes = self._rounded()
        free = (codes >= self.low) & (codes <= self.high)
        move = self.gradient.sign().mul_(free).mul_(self._rates.index_select(0, cursor))
        self.offsets.sub_(move).clamp_(-FARTHEST, FARTHEST)

    def settle(self) -> None:
        """Go back to the offsets of the smallest loss."""
        self.offsets.copy_(self._best)
        self.refresh()

    def undecided(self) -> float:
        """0: every step has hard codes."""
        return 0.0

    def decided(self) -> Tensor:
        """The codes that the offsets give."""
        return torch.clamp(self._rounded(), self.low, self.high)
