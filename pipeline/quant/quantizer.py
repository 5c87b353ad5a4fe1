"""The nodes that live in the graph: one `Quantizer` is one quantized tensor in all its phases.

The phase goes one way: OFF (identity) -> OBSERVE (identity, or what an observer returns) -> ON (fake-quantize)
-> FROZEN (a weight answers from its stored codes, an activation uses fixed numbers). Only the engines in `calib/`
and the pass `freeze` change it. Sharing a grid is sharing the object: two graph nodes with one `Quantizer`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from isobit.pipeline.quant.grid import SCALE_FLOOR, QParams, QuantSpec, along, dequantize

StandIn = Callable[[Tensor], Tensor]


class Phase(enum.Enum):
    """What a quantizer does to the tensor that passes."""

    OFF = "off"
    OBSERVE = "observe"
    ON = "on"
    FROZEN = "frozen"


class Quantizer(nn.Module):
    """One quantized tensor: its spec, its numbers, its phase.

    Attributes:
        spec: how the tensor is quantized.
        scale: float32, rank 0 or [channels].
        zero_point: int32, same shape.
        channel_bits: int32, bits of every channel where the grid gives channels bits of their own: of output channels
            of a weight, of axis 1 of an activation. None before calibration has chosen them, and on other grids.
        multiples: int32 [C], what the grid makes of them, see `Grid.multiples`; None where it is nothing.
        codes: int32 codes of a constant once they are decided (hardened or frozen); None before, and for activations.
        rounded_at: the scale at which `codes` were rounded, where it moved after that; None where it is `scale`.
        fixed: the target prescribes the numbers; calibration leaves them alone.
        stand_in: None, or what answers in the quantizer's place while calibration works on the tensor: an observer, a
            weight whose rounding is learned, a mixture of quantized and float values. See `attach`.
    """

    scale: Tensor  # there is none before calibration, see `calibrated`
    zero_point: Tensor
    codes: Tensor | None
    channel_bits: Tensor | None
    multiples: Tensor | None
    rounded_at: Tensor | None

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.phase = Phase.OFF
        self.fixed = False
        self.register_buffer("scale", None)
        self.register_buffer("zero_point", None)
        self.register_buffer("codes", None)
        self.register_buffer("rounded_at", None, persistent=False)
        self.register_buffer("channel_bits", None)
        self.register_buffer("multiples", None)
        self._stand_in: StandIn | None = None

    @property
    def stand_in(self) -> StandIn | None:
        return self._stand_in

    def attach(self, stand_in: StandIn) -> None:
        """Let `stand_in` map the tensor to its value in every phase but OFF, until `detach` or `harden`.

        Raises:
            RuntimeError: another one stands in already; nothing changes.
        """
        if self._stand_in is not None:
            raise RuntimeError(f"a quantizer has one stand-in at a time; {self._stand_in!r} is attached")
        self._stand_in = stand_in

    def detach(self, stand_in: StandIn) -> None:
        """The quantizer answers itself again; nothing where another one, or none, stands in."""
        if self._stand_in is stand_in:
            self._stand_in = None

    @property
    def decided(self) -> Tensor:
        """The codes of a constant that are decided; raises RuntimeError where there are none."""
        return _decided(self.codes)

    def set_params(self, params: QParams) -> None:
        """Store scale and zero point (checked against the spec) and forget codes that belonged to other numbers."""
        params.check(self.spec)
        self.scale, self.zero_point, self.codes = params.scale, params.zero_point, None
        self.rounded_at = None

    def set_channel_bits(self, bits: Tensor) -> None:
        """Store the bits [channels] of a tensor whose channels have their own; raises ValueError where it cannot be."""
        self.spec.grid.check_channel_bits(bits)
        self.channel_bits = bits.detach().to(torch.int32)
        self.multiples = self.spec.grid.multiples(self.channel_bits)

    @property
    def calibrated(self) -> bool:
        """It has its numbers."""
        return self.scale is not None

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
        return self.spec.grid.codes(x, *self.aligned(x), self.multiples)

    def dequantize(self, codes: Tensor) -> Tensor:
        return dequantize(codes, *self.aligned(codes))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Quantize and dequantize; differentiable in `x` and in the scale (straight-through rounding)."""
        if self.codes is not None:
            return self.dequantize(self.codes.to(x.dtype))
        scale, zero_point = self.aligned(x)
        if not torch.is_grad_enabled():  # every evaluation: the same numbers without a mask for the gradient
            return self.quantize(x).sub_(zero_point).mul_(scale)
        return dequantize(self.spec.grid.trainable_codes(x, scale, zero_point, self.multiples), scale, zero_point)

    def forward(self, x: Tensor) -> Tensor:
        if self.phase is Phase.OFF:
            return x
        if self._stand_in is not None:
            return self._stand_in(x)
        return x if self.phase is Phase.OBSERVE else self.fake_quantize(x)

    def harden(self, codes: Tensor, rounded_at: Tensor | None = None) -> None:
        """Decide the codes of a constant for good; whatever stands in goes. See `rounded_at` of the class."""
        grid = self.spec.grid
        if int(codes.min()) < grid.qmin or int(codes.max()) > grid.qmax:
            raise ValueError(f"codes {int(codes.min())}..{int(codes.max())} leave the grid {grid}")
        self.codes, self._stand_in = codes.detach().to(torch.int32), None
        self.rounded_at = rounded_at

    def extra_repr(self) -> str:
        grid = self.spec.grid
        kind = "per channel" if self.spec.axis is not None else "per tensor"
        return f"{grid.nominal_bits} bits{grid.suffix} [{grid.qmin}, {grid.qmax}], {kind}, {self.phase.value}"


def _decided(codes: Tensor | None) -> Tensor:
    if codes is None:
        raise RuntimeError("no codes are decided yet: calibrate and freeze the graph first")
    return codes


def stand_in_for(pairs: Iterable[tuple[Quantizer, StandIn]]) -> ExitStack:
    """Attach each stand-in to its quantizer, all or none; closing or leaving what is returned detaches them again.

    Raises:
        RuntimeError: a quantizer is taken.
    """
    with ExitStack() as attached:
        for quantizer, stand_in in pairs:
            quantizer.attach(stand_in)
            attached.callback(quantizer.detach, stand_in)
        return attached.pop_all()


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

    codes: Tensor | None

    def __init__(self, source: Quantizer, weight: Quantizer) -> None:
        super().__init__()
        # A tuple, not attributes: the parents are registered at their own nodes and must not appear twice.
        self.parents = (source, weight)
        self.phase = Phase.OFF
        self.register_buffer("codes", None)

    @property
    def decided(self) -> Tensor:
        """The int32 codes that `freeze` stores; raises RuntimeError before that."""
        return _decided(self.codes)

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
            return self.decided.to(bias.dtype) * self.scale.to(bias.dtype)
        return bias
