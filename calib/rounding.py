"""Soft rounding (AdaRound; methods_reconstruction section 1.9) of all weights of a unit, in one flat buffer.

    soft weight = scale * clamp(floor(w / scale) + h(alpha), qmin - zero_point, qmax - zero_point)
    h(alpha)    = clamp(1.2 * sigmoid(alpha) - 0.1, 0, 1)

Starting values make the soft weight equal to the float weight; hardening replaces h by 1 where alpha >= 0, else 0.
Gradients are closed forms on the flat buffer: a handful of vector operations a step, however many layers a unit has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.grid import along
from pipeline.quantizer import Quantizer

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


Descent = Literal["linear", "cosine"]


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


@dataclass(frozen=True)
class _Segment:
    """Where one weight lies in the flat buffer; `shape` is its physical (channels last) shape."""

    quantizer: Quantizer
    begin: int
    end: int
    shape: tuple[int, ...]

    def view(self, flat: Tensor) -> Tensor:
        """The weight's part of `flat` as a tensor in the logical shape, sharing storage."""
        physical = flat[self.begin : self.end].view(self.shape)
        return physical.permute(0, 3, 1, 2) if len(self.shape) == 4 else physical


def _physical(x: Tensor) -> Tensor:
    """`x` in memory order: channels last for 4-D, which is what convolution kernels want."""
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).contiguous()


class SoftRounding:
    """The learned rounding of every weight of a unit.

    While `attached`, each weight's quantizer answers with its soft weight, a leaf tensor that shares the flat buffer;
    gradients of all of them arrive in one flat buffer too.

    Args:
        weights: (quantizer with its range set, float weight) of each layer of the unit.

    Attributes:
        alpha: the flat parameter [weights]; give it to the optimiser. `collect` writes its gradient.
    """

    def __init__(self, weights: list[tuple[Quantizer, Tensor]]) -> None:
        self._segments: list[_Segment] = []
        columns: list[tuple[Tensor, ...]] = []
        begin = 0
        for quantizer, weight in weights:
            columns.append(tuple(_physical(column).reshape(-1) for column in _columns(quantizer, weight.detach())))
            physical = _physical(weight)
            self._segments.append(_Segment(quantizer, begin, begin + physical.numel(), tuple(physical.shape)))
            begin += physical.numel()
        values, self._scale, self._low, self._high = (torch.cat(column) for column in zip(*columns, strict=True))
        ratio = values / self._scale
        self._floor = torch.floor(ratio)
        self._nearest = torch.clamp(torch.round(ratio), self._low, self._high)
        # A weight whose code is clipped gets no gradient from the reconstruction; it still feels the regulariser.
        free = (self._floor >= self._low) & (self._floor < self._high)
        self._gain = self._scale * free
        self.alpha = torch.nn.Parameter(initial_alpha(ratio - self._floor))
        self.alpha.grad = torch.zeros_like(self.alpha)
        self._sigmoid, self._soft = torch.empty_like(self._floor), torch.empty_like(self._floor)
        self._gradient = torch.zeros_like(self._floor)
        self._leaves = [self._leaf(segment) for segment in self._segments]

    def _leaf(self, segment: _Segment) -> Tensor:
        leaf = segment.view(self._soft).detach().requires_grad_()
        leaf.grad = segment.view(self._gradient)
        return leaf

    def attach(self) -> None:
        """Make the quantizers answer with the soft weights."""
        for segment, leaf in zip(self._segments, self._leaves, strict=True):
            segment.quantizer.rounding = lambda weight, leaf=leaf: leaf

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the soft weights from alpha and clear their gradients."""
        torch.sigmoid(self.alpha, out=self._sigmoid)
        torch.mul(self._sigmoid, STRETCH, out=self._soft)
        self._soft.add_(GAMMA).clamp_(0.0, 1.0).add_(self._floor)
        torch.minimum(torch.maximum(self._soft, self._low, out=self._soft), self._high, out=self._soft)
        self._soft.mul_(self._scale)
        self._gradient.zero_()

    @torch.no_grad()
    def collect(self, strength: float, beta: Tensor | None) -> None:
        """Write alpha's gradient: the soft weights' gradients, and the regulariser's in closed form.

        Args:
            strength: weight of the regulariser (lambda).
            beta: its exponent, one element on the device; None leaves it out.
        """
        total = self._gradient.mul_(self._gain)
        h = self._sigmoid * STRETCH + GAMMA
        if beta is not None:
            centred = h.clamp(0.0, 1.0).mul_(2.0).sub_(1.0)
            slope = centred.abs().pow_(beta - 1.0).copysign_(centred)
            total.addcmul_(slope, beta, value=-2.0 * strength)
        slope = torch.addcmul(self._sigmoid, self._sigmoid, self._sigmoid, value=-1.0).mul_(STRETCH)
        inside = torch.ops.aten.hardtanh_backward(slope, h, -_END, 1.0 + _END)
        torch.mul(total, inside, out=self.alpha.grad)

    @property
    def h(self) -> Tensor:
        """The rounding variables [weights]."""
        return rectified_sigmoid(self.alpha.detach())

    def undecided(self) -> float:
        """Share of weights whose h lies strictly between 0.01 and 0.99."""
        h = self.h
        return float(((h > UNDECIDED[0]) & (h < UNDECIDED[1])).float().mean())

    def flipped(self) -> float:
        """Share of weights that hardening sends to another code than nearest rounding."""
        return float((self._hard() != self._nearest).float().mean())

    def is_finite(self) -> bool:
        return bool(torch.isfinite(self.alpha).all())

    def _hard(self) -> Tensor:
        """Codes minus zero point, flat."""
        up = (self.alpha.detach() >= 0).to(self._floor.dtype)
        return torch.clamp(self._floor + up, self._low, self._high)

    def harden(self) -> None:
        """Store the decided codes in the quantizers and detach from them."""
        flat = self._hard()
        for segment in self._segments:
            quantizer = segment.quantizer
            codes = segment.view(flat)
            quantizer.harden(codes + along(quantizer.zero_point, quantizer.spec.axis, codes.dim()))


def _columns(quantizer: Quantizer, weight: Tensor) -> tuple[Tensor, ...]:
    """Weight, scale, lowest and highest code minus zero point, all in the shape of the weight."""
    scale, zero_point = quantizer.aligned(weight)
    grid = quantizer.spec.grid
    parts = (weight, scale, grid.qmin - zero_point, grid.qmax - zero_point)
    return tuple(part.expand_as(weight) for part in parts)
