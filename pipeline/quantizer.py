"""The nodes that live in the graph: one `Quantizer` is one quantized tensor in all its phases.

The phase goes one way: OFF (identity) -> OBSERVE (identity, an observer watches) -> ON (fake-quantize)
-> FROZEN (a weight answers from its stored codes, an activation uses fixed numbers). Only the engines in `calib/`
and the pass `freeze` change it. Sharing a grid is sharing the object: two graph nodes with one `Quantizer`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.grid import (
    MAX_CHANNEL_BITS,
    SCALE_FLOOR,
    Grid,
    QParams,
    QuantSpec,
    along,
    dequantize,
    nested_multiples,
    quantize,
    regrid,
)


class Phase(enum.Enum):
    """What a quantizer does to the tensor that passes."""

    OFF = "off"
    OBSERVE = "observe"
    ON = "on"
    FROZEN = "frozen"


class _CodesStraightThrough(torch.autograd.Function):
    """clamp(round(ratio) + zero_point, qmin, qmax); the gradient passes where nothing was clamped.

    Codes at the very ends count as not clamped. `torch.clamp` decides that differently from release to release.
    """

    @staticmethod
    def forward(ctx: Any, ratio: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
        codes = torch.round(ratio).add_(zero_point)
        ctx.save_for_backward((codes >= grid.qmin) & (codes <= grid.qmax))
        return codes.clamp_(grid.qmin, grid.qmax)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None


class Quantizer(nn.Module):
    """One quantized tensor: its spec, its numbers, its phase.

    Attributes:
        spec: how the tensor is quantized.
        scale: float32, rank 0 or [channels].
        zero_point: int32, same shape.
        rounding: None for round-half-to-even, or what maps a weight to its fake-quantized value while its rounding is
            learned; calibration sets it and `harden` removes it.
        channel_bits: int32, bits of every channel where the spec's levels are not uniform: of output channels of a
            weight, of axis 1 of an activation. None before calibration has chosen them.
        multiples: int32 [C], the integer of which the codes of each channel of a nested activation are multiples; None
            for every other tensor.
        codes: int32 codes of a constant once they are decided (hardened or frozen); None before, and for activations.
        fixed: the target prescribes the numbers; calibration leaves them alone.
        observer: what `Phase.OBSERVE` feeds; set and removed by `calib`.
        mixing: None, or what maps an activation to its value while its unit is trained (QDrop's element-wise mixture
            of x and fake-quantized x, with the scale learned); set and removed by `calib`.
    """

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.phase = Phase.OFF
        self.fixed = False
        self.register_buffer("scale", None)
        self.register_buffer("zero_point", None)
        self.register_buffer("codes", None)
        self.register_buffer("channel_bits", None)
        self.register_buffer("multiples", None)
        self.rounding: Callable[[Tensor], Tensor] | None = None
        self.observer: Callable[[Tensor], None] | None = None
        self.mixing: Callable[[Tensor], Tensor] | None = None

    def set_params(self, params: QParams) -> None:
        """Store scale and zero point (checked against the spec) and forget codes that belonged to other numbers."""
        params.check(self.spec)
        self.scale, self.zero_point, self.codes = params.scale, params.zero_point, None

    def set_channel_bits(self, bits: Tensor) -> None:
        """Store the bits [channels], integers from 0 to 4, of a tensor whose levels are not uniform."""
        if self.spec.levels == "uniform":
            raise ValueError("bits per channel belong to levels that are not uniform")
        if bits.dim() != 1 or int(bits.min()) < 0 or int(bits.max()) > MAX_CHANNEL_BITS:
            raise ValueError(f"bits per channel are a vector of 0 to {MAX_CHANNEL_BITS}, not {bits.tolist()}")
        self.channel_bits = bits.detach().to(torch.int32)
        if self.spec.levels == "nested":
            self.multiples = nested_multiples(self.channel_bits)

    @property
    def params(self) -> QParams:
        return QParams(self.scale.detach(), self.zero_point)

    def aligned(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point in the dtype of `x`, shaped to broadcast against it."""
        axis = self.spec.axis
        return along(self.scale.to(x.dtype), axis, x.dim()), along(self.zero_point.to(x.dtype), axis, x.dim())

    def quantize(self, x: Tensor) -> Tensor:
        """Codes of `x` in its own dtype; the stored codes where they are decided."""
        if self.codes is not None:
            return self.codes.to(x.dtype)
        codes = quantize(x, *self.aligned(x), self.spec.grid)
        return codes if self.multiples is None else regrid(codes, self.multiples)

    def dequantize(self, codes: Tensor) -> Tensor:
        return dequantize(codes, *self.aligned(codes))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Quantize and dequantize; differentiable in `x` and in the scale (straight-through rounding)."""
        if self.codes is not None:
            return self.dequantize(self.codes.to(x.dtype))
        scale, zero_point = self.aligned(x)
        if not torch.is_grad_enabled():  # every evaluation: the same numbers without a mask for the gradient
            return self.quantize(x).sub_(zero_point).mul_(scale)
        codes = _CodesStraightThrough.apply(x / scale, zero_point, self.spec.grid)
        if self.multiples is not None:  # straight through the second rounding too
            codes = codes + (regrid(codes, self.multiples) - codes).detach()
        return dequantize(codes, scale, zero_point)

    def forward(self, x: Tensor) -> Tensor:
        if self.phase is Phase.OFF:
            return x
        if self.phase is Phase.OBSERVE:
            if self.observer is not None:
                self.observer(x)
            return x
        if self.rounding is not None:
            return self.rounding(x)
        return self.fake_quantize(x) if self.mixing is None else self.mixing(x)

    def harden(self, codes: Tensor) -> None:
        """Decide the codes of a constant for good and drop the learned rounding."""
        grid = self.spec.grid
        if int(codes.min()) < grid.qmin or int(codes.max()) > grid.qmax:
            raise ValueError(f"codes {int(codes.min())}..{int(codes.max())} leave the grid {grid}")
        self.codes, self.rounding = codes.detach().to(torch.int32), None

    def extra_repr(self) -> str:
        grid = self.spec.grid
        kind = "per channel" if self.spec.axis is not None else "per tensor"
        levels = "" if self.spec.levels == "uniform" else f" {self.spec.levels}"
        return f"{self.spec.bits} bits{levels} [{grid.qmin}, {grid.qmax}], {kind}, {self.phase.value}"


def bias_scale(source: Tensor, weight: Tensor) -> Tensor:
    """What one unit of a sum is worth: the product in float32, as runtimes compute it.

    Never below float32's normal numbers, where it would lose bits or be 0; `project_grids` raises the weight's scale so
    that runtimes get there too.
    """
    return (source.float() * weight.float()).clamp(min=SCALE_FLOOR)


def on_steps(bias: Tensor, scale: Tensor) -> Tensor:
    """`bias` on the nearest multiples of `scale`; itself where they are too many for a float."""
    rounded = torch.round(bias / scale) * scale
    return torch.where(torch.isfinite(rounded), rounded, bias)


class BiasQuantizer(nn.Module):
    """An int32 bias: scale = input scale * weight scale, zero point 0; no numbers of its own.

    ON from the range search onwards, so that learned rounding sees the bias that the chip adds. The papers keep it in
    float; on DS-CNN at W4A4 that cost 2.6 points between calibration and reference (docs/numerics.md). A target
    without integer biases (`reference`) has no such node.
    """

    def __init__(self, source: Quantizer, weight: Quantizer) -> None:
        super().__init__()
        # A tuple, not attributes: the parents are registered at their own nodes and must not appear twice.
        self.parents = (source, weight)
        self.phase = Phase.OFF
        self.register_buffer("codes", None)

    @property
    def scale(self) -> Tensor:
        """float32 [channels] or rank 0, see `bias_scale`."""
        source, weight = self.parents
        return bias_scale(source.scale.detach(), weight.scale.detach())

    def quantize(self, bias: Tensor) -> Tensor:
        """int64 codes of `bias` [channels] at the present scales."""
        return torch.round(self.steps(bias)).to(torch.int64)

    def steps(self, bias: Tensor) -> Tensor:
        """float64 codes of `bias` before they are rounded; they may leave int64."""
        return bias.detach().double() / self.scale.double()

    def forward(self, bias: Tensor) -> Tensor:
        if self.phase is Phase.ON:
            return on_steps(bias, self.scale)
        if self.phase is Phase.FROZEN:
            return self.codes.to(bias.dtype) * self.scale.to(bias.dtype)
        return bias
