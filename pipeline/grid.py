"""Grids and the only quantization formula.

A `Grid` says which integers exist, a `QuantSpec` how a tensor is to be quantized, `QParams` with which numbers.
None of them knows how the integers are stored: containers belong to the target.

    code  = clamp(round_half_to_even(x / scale) + zero_point, qmin, qmax)
    value = scale * (code - zero_point)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SCALE_FLOOR = 2.0**-126  # float32's smallest normal number: below it a step loses bits, or is taken for 0
EMPTY_SCALE = 1e-8  # an all-zero tensor gets this scale and value 0 (methods_reconstruction: test T1)
NEGLIGIBLE = 2.0**-16  # of the largest scale of a tensor: such a channel is less than one step of an 8-bit output
# Every range search by name, and the one parameter that it takes; docs/numerics.md says what each does.
RANGE_PARAMETER = {
    "minmax": None, "average": None, "percentile": "percentile", "mse": "exponent", "mse_shrink": "exponent",
}

# Which of a grid's codes a tensor may take: all of them; of a weight, a codebook of 2^bits per output channel
# (calib/multibit.py); of an activation, the multiples of one integer per channel (`regrid`).
Levels = Literal["uniform", "multibit", "nested"]
MAX_CHANNEL_BITS = 4  # of levels that are not uniform; a tensor of more bits has uniform ones
NESTED_CODES = 105  # lcm(1, 3, 7, 15): grids of 1 to 4 bits on [0, a] are all multiples of the step a / 105
_ZERO_BITS = 2 * NESTED_CODES + 1  # a multiple of which every code up to 105 is less than a half


@dataclass(frozen=True)
class Grid:
    """The integers `qmin ... qmax`.

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

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 32:
            raise ValueError(f"a grid has 1 to 32 bits, not {self.bits}")
        if self.levels < 2:
            raise ValueError(f"a grid has at least two codes, not {self.qmin}..{self.qmax}")

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


@dataclass(frozen=True)
class RangeSearch:
    """How calibration chooses the range of a tensor; `calib/observers.py` does it.

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
        grid: the integers that exist.
        symmetric: the zero point is 0 (with an unsigned grid: data that cannot be negative).
        axis: per-channel axis of a weight; None for one scale per tensor.
        range: the range search that calibration uses.
        levels: which codes of the grid are used. `multibit`: a weight's codebook per output channel; `nested`: an
            activation's bits per channel. Both are chosen by calibration.
        nominal_bits: bits of the recipe where the levels are not uniform; the grid is wider.
    """

    grid: Grid
    symmetric: bool
    axis: int | None = None
    range: RangeSearch = RangeSearch()
    levels: Levels = "uniform"
    nominal_bits: int | None = None

    @property
    def bits(self) -> int:
        """What the recipe asks for: the grid's bits, or those of its levels."""
        return self.grid.bits if self.nominal_bits is None else self.nominal_bits


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


def nested_multiples(bits: Tensor) -> Tensor:
    """The multiple int32 [C] of which codes 0 ... 105 of a channel with `bits` [C] of 0 to 4 bits are: 105 / (2^b - 1).

    All are odd. 0 bits: so large a multiple that every code is rounded to 0.
    """
    steps = (1 << bits.to(torch.int32)) - 1
    return torch.where(bits == 0, _ZERO_BITS, NESTED_CODES // steps.clamp(min=1)).to(torch.int32)


def regrid(codes: Tensor, multiples: Tensor) -> Tensor:
    """Codes [N, C, ...] of any floating type, each on the nearest multiple of its channel's [C].

    There are no ties, because an odd multiple has no integer in the middle between two of its own: the result depends
    on no rounding mode. Of x / scale it gives what rounding to the coarse grid at once would, except at exact ties.
    """
    multiples = along(multiples.to(codes.dtype), 1, codes.dim())
    return torch.round(codes / multiples).mul_(multiples)


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
    """Scale and zero point that cover [low, high] with 0 included (methods_reconstruction section 1.1).

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
