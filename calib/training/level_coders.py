"""Coders for levels that are not uniform, as DMBQ trains them: codebooks of weights, nested bits of activations.

Each keeps, group by group, what its present rounding costs: the first-order change of the loss, by which the allocation
takes bits away. A group is an output channel of a weight or a channel of
an activation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isobit.calib.ranges.observers import params_of
from isobit.calib.training.multibit import TABLES, MultibitWeights, TableName
from isobit.calib.training.student import ActivationCoder, WeightCoder
from isobit.pipeline.quant.channel_bits import MAX_CHANNEL_BITS
from isobit.pipeline.quant.grid import SCALE_FLOOR, Grid, QParams, QuantSpec
from isobit.pipeline.quant.nested import NESTED_CODES, nested_multiples, regrid
from isobit.pipeline.quant.quantizer import Quantizer

CLIP_DECAY = 0.99
START_SPEC = QuantSpec(Grid(MAX_CHANNEL_BITS, signed=False), symmetric=True)


class GroupError(nn.Module):
    """Per group, the sum over steps of abs(mean over elements of (t - t^) * dL/dt^).

    Args:
        groups: how many channels.
        axis: of the channels.
    """

    total: Tensor

    def __init__(self, groups: int, axis: int) -> None:
        super().__init__()
        self.axis, self.watching = axis, False
        self.register_buffer("total", torch.zeros(groups, dtype=torch.float64))

    def watch(self, exact: Tensor, rounded: Tensor) -> None:
        """Add this step's error when the gradient by `rounded` comes back."""
        if not self.watching or not rounded.requires_grad:
            return
        difference = (exact - rounded).detach()
        others = [dim for dim in range(exact.dim()) if dim != self.axis]

        def add(gradient: Tensor) -> None:
            self.total += (difference * gradient).mean(others).abs().double()

        rounded.register_hook(add)


class MultibitCoder(WeightCoder):
    """A weight whose output channels have codebooks of 0 to 4 bits, clipped at kappa * mean(abs(w)) of the channel.

    The clip is an average over steps (decay 0.99) that starts with its first value; where a channel loses a bit it
    moves at once by the ratio of the two kappas, where the authors' code lets it drift for hundreds of steps.

    Args:
        quantizer: of the graph; its grid says which codes the device takes.
        channels: output channels of the weight.
        bits: of every channel at the start.
        table: of codebooks and kappas; see `calib.training.multibit`.
    """

    table: TableName
    bits: Tensor
    clip: Tensor
    kappa: Tensor

    def __init__(self, quantizer: Quantizer, channels: int, bits: int, table: TableName) -> None:
        super().__init__()
        self._limit, self.table = quantizer.spec.grid.qmax, table
        self.register_buffer("bits", torch.full((channels,), bits, dtype=torch.int64))
        self.register_buffer("clip", torch.zeros(channels))
        self.register_buffer("kappa", torch.tensor([book.kappa for book in TABLES[table]]))
        self.error = GroupError(channels, axis=0)

    @property
    def channel_bits(self) -> Tensor:
        """int64 [channels]."""
        return self.bits

    @property
    def scale(self) -> Tensor:
        """float32 [channels]: value = scale * code."""
        return self._rounding.scale

    @property
    def _rounding(self) -> MultibitWeights:
        return MultibitWeights(self.bits, self.clip, self.table, self._limit)

    def forward(self, weight: Tensor) -> Tensor:
        """The nearest levels; the gradient is zero outside the clip."""
        if self.training or not bool(self.clip.any()):
            self._follow(weight.detach())
        value = self._rounding(weight)
        self.error.watch(weight, value)
        return value

    def _follow(self, weight: Tensor) -> None:
        clip = self.kappa[self.bits] * weight.abs().flatten(1).mean(1)
        first = not bool(self.clip.any())
        self.clip = clip if first else CLIP_DECAY * self.clip + (1 - CLIP_DECAY) * clip

    def take(self, groups: Tensor) -> None:
        """One bit less for the channels where `groups` (bool [channels]) holds."""
        fewer = (self.bits - groups.long()).clamp(min=0)
        self.clip = self.clip * self.kappa[fewer] / self.kappa[self.bits]
        self.bits = fewer

    def codes(self, weight: Tensor) -> tuple[QParams, Tensor]:
        """Scales and codes as they stand."""
        codes, scale = self._rounding.codes(weight)
        return QParams(scale, torch.zeros_like(scale, dtype=torch.int32)), codes


class _Nested(torch.autograd.Function):
    """Codes on the step clip / 105, each a multiple of its channel's; see `NestedCoder.forward` for the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, multiples: Tensor) -> Tensor:
        step = clip / NESTED_CODES
        value = regrid((x / step).round_().clamp_(0, NESTED_CODES), multiples).mul_(step)
        ctx.save_for_backward(x, clip, value)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, clip, value = ctx.saved_tensors
        inside = (x > 0) & (x < clip)
        passed = grad * inside
        # Inside (Q(x) - x) / clip, above 1, below 0, where the value is 0 as well.
        by_clip = torch.where(inside, value - x, value).mul_(grad).sum() / clip
        return passed, by_clip.reshape(clip.shape), None


class NestedCoder(ActivationCoder):
    """An activation that cannot be negative, clipped at a learned value, with 0 to 4 bits for each of its channels.

    Args:
        channels: of axis 1.
        bits: of every channel at the start.
        clip: where the clip starts; None for the range of least squared error at 4 bits on the first batch.
    """

    bits: Tensor
    started: Tensor

    def __init__(self, channels: int, bits: int, clip: float | None) -> None:
        super().__init__()
        self.register_buffer("bits", torch.full((channels,), bits, dtype=torch.int64))
        self.register_buffer("started", torch.tensor(clip is not None))
        self.clip = nn.Parameter(torch.tensor(1.0 if clip is None else clip))
        self.error = GroupError(channels, axis=1)

    @property
    def scale(self) -> Tensor:
        """clip / 105."""
        return (self.clip.detach() / NESTED_CODES).clamp(min=SCALE_FLOOR)

    def forward(self, x: Tensor) -> Tensor:
        """The quantized value. Its gradient by x is 1 inside the clip; by the clip 1 above, (Q(x) - x)/clip inside."""
        if not bool(self.started):
            self._start(x)
        clip = self.clip.clamp(min=SCALE_FLOOR * NESTED_CODES)
        value = _Nested.apply(x, clip, nested_multiples(self.bits.to(torch.int32)))
        self.error.watch(x, value)
        return value

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        self.clip.fill_(float(params_of(x.detach(), START_SPEC, "a learned clip").scale) * START_SPEC.grid.qmax)
        self.started.fill_(True)

    def take(self, groups: Tensor) -> None:
        """One bit less for the channels where `groups` (bool [channels]) holds."""
        self.bits = (self.bits - groups.long()).clamp(min=0)

    def settle(self, quantizer: Quantizer) -> None:
        """Write clip and bits into the graph's quantizer."""
        scale = self.scale.float()
        quantizer.set_params(QParams(scale, torch.zeros_like(scale, dtype=torch.int32)))
        quantizer.set_channel_bits(self.bits)
