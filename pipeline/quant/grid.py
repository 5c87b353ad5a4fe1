"""Grids and the only quantization formula.

A `Grid` says which integers exist and which of them a tensor takes, a `QuantSpec` how a tensor is to be quantized,
`QParams` with which numbers. None of them knows how the integers are stored: containers belong to the target.

    code  = clamp(round_half_to_even(x / scale) + zero_point, qmin, qmax)
    value = scale * (code - zero_point)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

SCALE_FLOOR = 2.0**-126  # float32's smallest normal number: below it a step loses bits, or is taken for 0
EMPTY_SCALE = 1e-8  # an all-zero tensor gets this scale and value 0
NEGLIGIBLE = 2.0**-16  # of the largest scale of a tensor: such a channel is less than one step of an 8-bit output
# Every range search by name, and the one parameter that it takes; docs/numerics.md says what each does.
RANGE_PARAMETER = {
    "minmax": None, "average": None, "percentile": "percentile", "mse": "exponent", "mse_shrink": "exponent",
}

Tensors = Literal["weights", "activations"]


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
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None


@dataclass(frozen=True)
class Grid:
    """The integers `qmin ... qmax`, and which of them a tensor takes: here, on the uniform grid, all.

    Other kinds are subclasses in `pipeline.quant`. They differ in the codes that a channel uses, never in what a code
    is worth: `scale * (code - zero_point)` on every grid. A grid holds no tensor of its own; what calibration chooses
    for each channel lies in the `Quantizer`.

    Args:
        bits: 1 to 32, and at least two codes; recipes allow 2 to 8.
        signed: the grid holds negative codes.
        narrow: drop the lowest code, so that `qmin == -qmax`.
        limit: largest magnitude that a code may have on the target (AVX2 without VNNI saturates at pairs of products
            above int16, so 8-bit weights keep to +-64 there); None for no limit.
    """

    bits: int
    signed: bool
    narrow: bool = False
    limit: int | None = None

    kind: ClassVar[str] = "uniform"
    """What `levels` of a recipe, of the manifest and of `Target.grids` call it."""
    tensors: ClassVar[frozenset[Tensors]] = frozenset({"weights", "activations"})
    """What may have it."""
    most_bits: ClassVar[int] = 8
    """That a recipe may ask for; with more a tensor is uniform."""
    own_bits: ClassVar[bool] = False
    """The calibration method gives every channel bits of its own: no range search, no budget, no shared grid."""
    negatives: ClassVar[bool] = True
    """Some grid of the kind holds negative values; else tensors that can be negative are uniform."""
    keeps_values: ClassVar[bool] = False
    """Where a scale is raised the chosen values are rounded, not the tensor: a channel has no more of them after."""

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 32:
            raise ValueError(f"a grid has 1 to 32 bits, not {self.bits}")
        if self.levels < 2:
            raise ValueError(f"a grid has at least two codes, not {self.qmin}..{self.qmax}")

    # -- of the kind ---------------------------------------------------------------------------------------------

    @classmethod
    def make(cls, bits: int, signed: bool, limit: int | None = None) -> Grid:
        """The grid of this kind for a tensor of which a recipe asks `bits`; `signed` and `limit` as above."""
        return cls(bits, signed, limit=limit)

    @classmethod
    def container_bits(cls, bits: int) -> int:
        """Bits of the integers in which the codes lie, where a recipe asks for `bits`."""
        return bits

    @classmethod
    def check_rule(cls, bits: int | None, symmetric: bool, per_channel: bool) -> None:
        """Raise ValueError where a recipe's rule cannot have this kind; `bits` is None for a budget of bits."""
        if bits is None and cls.own_bits:
            raise ValueError(f"levels: {cls.kind} allocates bits by itself: give a number, not a budget")
        if bits is not None and bits > cls.most_bits:
            raise ValueError(f"levels: {cls.kind} has at most {cls.most_bits} bits, not {bits}")

    @classmethod
    def cost(cls, tensors: int, average: float, codes: int, packed: int) -> str:
        """What the tensors of this kind really cost, in a sentence for the report; empty where there is no more to say.

        Args:
            tensors: how many there are, with `average` bits a code.
            codes: of all of them; of activations for one sample.
            packed: bytes that constant ones take in the bits of their channels.
        """
        return ""

    # -- of the integers -----------------------------------------------------------------------------------------

    @property
    def qmin(self) -> int:
        low = -(1 << (self.bits - 1)) + self.narrow if self.signed else 0
        return low if self.limit is None else max(low, -self.limit)

    @property
    def qmax(self) -> int:
        high = (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1
        return high if self.limit is None else min(high, self.limit)

    @property
    def levels(self) -> int:
        return self.qmax - self.qmin + 1

    # -- for people ----------------------------------------------------------------------------------------------

    @property
    def nominal_bits(self) -> int:
        """What the recipe asks for."""
        return self.bits

    @property
    def suffix(self) -> str:
        """What follows the bits in a table: empty, or a blank and the kind."""
        return ""

    def describe(self, symmetric: bool) -> str:
        """One word for tables of activations."""
        if not symmetric:
            return "asymmetric"
        return "signed" if self.signed else "unsigned"

    def mean_bits(self, channel_bits: Sequence[int] | None) -> int | float:
        """Bits of a code of a frozen tensor, on average over channels with `channel_bits`."""
        return self.bits

    # -- of a tensor ---------------------------------------------------------------------------------------------

    def check_channel_bits(self, bits: Tensor) -> None:
        """Raise ValueError where `bits` cannot be those of a tensor's channels."""
        raise ValueError(f"bits per channel belong to levels that are not {self.kind}")

    def check_decided(self, codes: Tensor | None, channel_bits: Tensor | None, channels: int | None) -> None:
        """Raise ValueError where what calibration chose is not what the grid allows.

        Args:
            codes: int32 [channels, ...] of a constant; None of an activation.
            channel_bits: int32 [channels]; None where nothing was chosen.
            channels: of the tensor; None where it has no such axis.
        """
        if codes is None:
            return
        given = codes.float()
        settled = self.settle(given, None)
        if settled is not given and not torch.equal(settled, given):
            raise ValueError(f"codes that {self.kind} levels do not have")

    def multiples(self, channel_bits: Tensor) -> Tensor | None:
        """int32 [C]: the integer of which the codes of each channel are multiples; None where it is none of them."""
        return None

    def settle(self, codes: Tensor, multiples: Tensor | None) -> Tensor:
        """The nearest codes that a tensor takes, of `codes` [N, C, ...] inside the grid (any floating type).

        Does not write into `codes`, and returns them where all may be taken.

        Args:
            multiples: what `multiples` gave for the bits of its channels; None without such.
        """
        return codes

    def codes(self, x: Tensor, scale: Tensor, zero_point: Tensor, multiples: Tensor | None = None) -> Tensor:
        """Codes of `x`, as integers in its dtype; `scale` and `zero_point` broadcast against it."""
        return self.settle(quantize(x, scale, zero_point, self), multiples)

    def trainable_codes(self, x: Tensor, scale: Tensor, zero_point: Tensor, multiples: Tensor | None = None) -> Tensor:
        """The same, with the gradient by `x` and `scale` straight through every rounding and none where clamped."""
        codes = _CodesStraightThrough.apply(x / scale, zero_point, self)
        settled = self.settle(codes, multiples)
        return codes if settled is codes else codes + (settled - codes).detach()


@dataclass(frozen=True)
class RangeSearch:
    """How calibration chooses the range of a tensor; `calib/ranges/` does it.

    Args:
        kind: a key of `RANGE_PARAMETER`.
        exponent: of the error that `mse` and `mse_shrink` minimise: 2.4 in BRECQ, QDrop and PD-Quant, 2 in AdaRound.
        percentile: the share of the values, by magnitude, that `percentile` keeps inside the range.
    """

    kind: str = "mse"
    exponent: float = 2.4
    percentile: float = 0.99999

    def __post_init__(self) -> None:
        if self.kind not in RANGE_PARAMETER:
            raise ValueError(f"there is no range search '{self.kind}', only {', '.join(RANGE_PARAMETER)}")


@dataclass(frozen=True)
class QuantSpec:
    """How one tensor is to be quantized; no numbers.

    Args:
        grid: the integers that exist, and which of them the tensor takes.
        symmetric: the zero point is 0 (with an unsigned grid: data that cannot be negative).
        axis: per-channel axis of a weight; None for one scale per tensor.
        range: the range search that calibration uses.
    """

    grid: Grid
    symmetric: bool
    axis: int | None = None
    range: RangeSearch = RangeSearch()

    @property
    def bits(self) -> int:
        """What the recipe asks for."""
        return self.grid.nominal_bits


@dataclass(frozen=True)
class QParams:
    """The numbers of one quantized tensor.

    Args:
        scale: float32, rank 0 (per tensor) or [channels]; finite and positive.
        zero_point: int32, same shape; inside [qmin, qmax] of its grid.
    """

    scale: Tensor
    zero_point: Tensor

    def check(self, spec: QuantSpec) -> QParams:
        """Return self; raise ValueError where the numbers do not fit `spec`."""
        rank = 0 if spec.axis is None else 1
        if self.scale.dim() != rank or self.zero_point.shape != self.scale.shape:
            shapes = f"scale {tuple(self.scale.shape)}, zero point {tuple(self.zero_point.shape)}"
            raise ValueError(f"{shapes}: both must have rank {rank}")
        if not bool((torch.isfinite(self.scale) & (self.scale > 0)).all()):
            raise ValueError("a scale must be finite and positive")
        low, high = int(self.zero_point.min()), int(self.zero_point.max())
        if low < spec.grid.qmin or high > spec.grid.qmax or (spec.symmetric and (low, high) != (0, 0)):
            raise ValueError(f"zero points {low}..{high} do not fit {spec}")
        return self


def along(values: Tensor, axis: int | None, rank: int) -> Tensor:
    """`values` [channels] shaped to broadcast along `axis` of a tensor of `rank`; per-tensor values pass unchanged."""
    if axis is None:
        return values
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """Codes of `x`, as integers in the dtype of `x`. `scale` and `zero_point` broadcast against `x`."""
    return torch.round(x / scale).add_(zero_point).clamp_(grid.qmin, grid.qmax)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Values of `codes` (any floating dtype), `scale * (codes - zero_point)`."""
    return torch.sub(codes, zero_point).mul_(scale)


def scale_floor(scale: Tensor) -> Tensor:
    """Least scale, rank 0, of a tensor whose ranges ask for `scale` (rank 0 or [channels], not negative).

    What is too small beside the rest of its tensor gets no finer step than `EMPTY_SCALE`, so that biases there keep
    codes of a reasonable size. Otherwise float32's range decides alone: a network in other units has other scales.
    """
    largest = scale.detach().max()
    floor = (largest * NEGLIGIBLE).clamp(min=SCALE_FLOOR, max=EMPTY_SCALE)
    return torch.where(largest > 0, floor, EMPTY_SCALE)


def usable_scale(scale: Tensor) -> Tensor:
    """`scale`, not below the floor of its tensor."""
    return torch.maximum(scale, scale_floor(scale).to(scale.dtype))


def params_from_range(low: Tensor, high: Tensor, spec: QuantSpec) -> QParams:
    """Scale and zero point that cover [low, high] with 0 included.

    Args:
        low, high: rank 0 or [channels], the ends of the range.
        spec: where it is symmetric and signed, scale = max(-low, high) * 2 / (qmax - qmin) and the zero point is 0.
    """
    grid = spec.grid
    low, high = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    steps = grid.qmax - grid.qmin
    if spec.symmetric:
        width = torch.maximum(-low, high) * 2 if grid.signed else high
        scale = usable_scale(width / steps)
        zero_point = torch.zeros_like(scale)
    else:
        scale = usable_scale((high - low) / steps)
        zero_point = (grid.qmin - torch.round(low / scale)).clamp(grid.qmin, grid.qmax)
    return QParams(scale.float(), zero_point.to(torch.int32)).check(spec)
