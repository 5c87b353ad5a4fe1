"""Soft rounding (AdaRound, arXiv 2004.10568) of all weights of a unit.

    soft weight = scale * clamp(floor(w / scale) + h(alpha), qmin - zero_point, qmax - zero_point)
    h(alpha)    = clamp(1.2 * sigmoid(alpha) - 0.1, 0, 1)

Starting values make the soft weight equal to the float weight; hardening replaces h by 1 where alpha >= 0, else 0.
Gradients are closed forms on the flat buffer. The scale may be learned too, see `calib.roundings.channel_scales`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from isobit.calib.roundings import RoundingParameters, Weights, rounding
from isobit.calib.roundings.buffer import FlatRounding
from isobit.calib.roundings.channel_scales import ChannelScales

Descent = Literal["linear", "cosine"]
ZETA, GAMMA = 1.1, -0.1
STRETCH = ZETA - GAMMA
UNDECIDED = (0.01, 0.99)  # a rounding variable h strictly between these is called undecided
# PyTorch's clamp lets the gradient pass at the very ends, where a weight that lies on the grid starts (fraction 0).
_END = 1e-6


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """h(alpha), in [0, 1]."""
    return torch.clamp(torch.sigmoid(alpha) * STRETCH + GAMMA, 0.0, 1.0)


def initial_alpha(fraction: Tensor) -> Tensor:
    """alpha with h(alpha) = fraction, for fractions in [0, 1)."""
    return -torch.log(STRETCH / (fraction - GAMMA) - 1.0)


def regulariser(h: Tensor, beta: float) -> Tensor:
    """Sum over all weights of 1 - abs(2h - 1)^beta: 0 only where every h is 0 or 1."""
    return (1.0 - (2.0 * h - 1.0).abs().pow(beta)).sum()


def beta_at(
    step: int, steps: int, warmup: float, start: float, end: float, descent: Descent = "linear"
) -> float | None:
    """Exponent of the regulariser at `step` = 1 ... steps; None during warm-up, when there is no regulariser.

    Args:
        descent: linear in BRECQ, QDrop and PD-Quant; cosine in AIMET, the library of AdaRound's authors.
    """
    if step < warmup * steps:
        return None
    rest = max(0.0, 1.0 - (step - warmup * steps) / max(steps - warmup * steps, 1e-12))
    return end + (start - end) * (rest if descent == "linear" else 0.5 * (1.0 - math.cos(math.pi * rest)))


class SoftParameters(RoundingParameters):
    """Defaults are those that the papers share.

    Args:
        rounding_weight: lambda of the regulariser, which is a sum over all weights of a unit; 0.01 in all papers, for
            MobileNetV2 0.1 and for MnasNet 0.2 in QDrop's and PD-Quant's code.
        learning_rate: Adam's, of the rounding variables, constant.
        warmup: share of steps without regulariser; then its exponent goes from `beta_start` to `beta_end`.
        descent: how it goes there.
        weight_scale_rate: of the weights' scales, relative to them; 0 leaves them as they were searched (see
            `calib.roundings.channel_scales`).
    """

    rounding_weight: float = Field(default=0.01, ge=0.0)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    warmup: float = Field(default=0.2, ge=0.0, lt=1.0)
    beta_start: float = Field(default=20.0, gt=1.0)
    beta_end: float = Field(default=2.0, gt=1.0)
    descent: Descent = "linear"
    weight_scale_rate: float = Field(default=0.0, ge=0.0)

    def scaled(self, factor: float) -> Self:
        """The same with Adam's rates times `factor`."""
        return self.model_copy(update={
            "learning_rate": self.learning_rate * factor, "weight_scale_rate": self.weight_scale_rate * factor,
        })


@rounding("soft", SoftParameters)
class SoftRounding(FlatRounding):
    """A variable h in [0, 1] for every weight between its two neighbouring codes, learned by Adam at a constant rate.

    Attributes:
        alpha: the flat parameter [weights] that Adam moves.
        scales: those of the weights; None where they are not learned.
    """

    def __init__(self, weights: Weights, parameters: SoftParameters, steps: int) -> None:
        super().__init__(weights)
        self._floor = torch.floor(self.ratio)
        # A weight whose code is clipped gets no gradient from the reconstruction; it still feels the regulariser.
        self._free = (self._floor >= self.low) & (self._floor < self.high)
        self._gain, self._codes = self.scale * self._free, torch.empty_like(self.ratio)
        self.scales = ChannelScales(self.parts, parameters.weight_scale_rate, steps) if (
            parameters.weight_scale_rate > 0.0
        ) else None
        self.alpha = torch.nn.Parameter(initial_alpha(self.ratio - self._floor))
        self.alpha.grad = torch.zeros_like(self.alpha)
        self._sigmoid = torch.empty_like(self._floor)
        self._make_tables(parameters, steps)
        self.optimiser = torch.optim.Adam(
            [self.alpha], lr=parameters.learning_rate, fused=True, capturable=self.alpha.device.type == "cuda"
        )

    def _make_tables(self, parameters: SoftParameters, steps: int) -> None:
        """The regulariser's exponents, one a step."""
        course = parameters.warmup, parameters.beta_start, parameters.beta_end, parameters.descent
        betas = [beta_at(step, steps, *course) for step in range(1, steps + 1)]
        self._strength = parameters.rounding_weight
        self._regularised = [beta is not None for beta in betas]
        self._betas = torch.tensor([beta or 0.0 for beta in betas], device=self.alpha.device)

    def regularised(self, step: int) -> bool:
        """Whether warm-up is over."""
        return self._regularised[step]

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the soft weights from alpha, and from scales that are learned, and clear their gradients."""
        torch.sigmoid(self.alpha, out=self._sigmoid)
        torch.mul(self._sigmoid, STRETCH, out=self._codes)
        self._codes.add_(GAMMA).clamp_(0.0, 1.0).add_(self._floor)
        torch.minimum(torch.maximum(self._codes, self.low, out=self._codes), self.high, out=self._codes)
        if self.scales is not None:
            self.scales.spread(self.scale)
            torch.mul(self.scale, self._free, out=self._gain)
        torch.mul(self._codes, self.scale, out=self.values)
        self.gradient.zero_()

    def collect(self, cursor: Tensor, regularised: bool, loss: Callable[[], Tensor]) -> None:
        """One step of Adam on alpha, and on scales that are learned."""
        if self.scales is not None:
            self.scales.collect(cursor, self.gradient, self._codes)
        self.differentiate(self._strength, self._betas.index_select(0, cursor) if regularised else None)
        self.optimiser.step()

    @torch.no_grad()
    def differentiate(self, strength: float, beta: Tensor | None) -> None:
        """Write alpha's gradient: the soft weights' gradients, and the regulariser's in closed form.

        Args:
            strength: weight of the regulariser (lambda).
            beta: its exponent, one element on the device; None leaves it out.
        """
        total = self.gradient.mul_(self._gain)
        h = self._sigmoid * STRETCH + GAMMA
        if beta is not None:
            centred = h.clamp(0.0, 1.0).mul_(2.0).sub_(1.0)
            slope = centred.abs().pow_(beta - 1.0).copysign_(centred)
            total.addcmul_(slope, beta, value=-2.0 * strength)
        slope = torch.addcmul(self._sigmoid, self._sigmoid, self._sigmoid, value=-1.0).mul_(STRETCH)
        inside = torch.ops.aten.hardtanh_backward(slope, h, -_END, 1.0 + _END)
        torch.mul(total, inside, out=self.alpha.grad)

    def attach(self) -> None:
        """Make the quantizers answer with the present values and, where they are learned, scales."""
        super().attach()
        if self.scales is not None:
            self.scales.attach()

    def detach(self) -> None:
        """Let the quantizers round to nearest again, at the scales that they had."""
        super().detach()
        if self.scales is not None:
            self.scales.detach()

    def store_scales(self) -> Sequence[Tensor | None]:
        """Store the learned scales; codes are decided at those before."""
        return super().store_scales() if self.scales is None else self.scales.store()

    @property
    def h(self) -> Tensor:
        """The rounding variables [weights]."""
        return rectified_sigmoid(self.alpha.detach())

    def undecided(self) -> float:
        """Share of weights whose h lies strictly between 0.01 and 0.99."""
        h = self.h
        return float(((h > UNDECIDED[0]) & (h < UNDECIDED[1])).float().mean())

    def settle(self) -> None:
        """Answer with the last soft weights."""
        self.refresh()

    def decided(self) -> Tensor:
        """Up where alpha >= 0, else down."""
        up = (self.alpha.detach() >= 0).to(self._floor.dtype)
        return torch.clamp(self._floor + up, self.low, self.high)
