"""From 32-bit sums to 8-bit codes without floating point: one multiplication, addition and shift on 64-bit integers.

    code = clip((sum over terms of (value << lift) * multiplier[channel]  +  offset) >> shift, low, high)

`>>` is the arithmetic shift, which rounds down; `offset` holds one half and the output's zero point, so the whole
rounds half up. One rule for every operator and every device; integers do not depend on compilers, which contract
floating point into fused multiply-adds where they can.

`shift` is never below 32: the upper half of the 64-bit sum, which every processor can address as a register, shifted
by what remains is the same number, because rounding down twice is rounding down once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isobit.pipeline.errors import TargetError

LEAST_SHIFT, MOST_SHIFT = 32, 52
MULTIPLIER_BITS = 31  # magnitudes below 2^31: int32
_SUM_LIMIT = 1 << 63


@dataclass(frozen=True)
class Part:
    """One addend before it is brought to the output's grid.

    Args:
        ratio: its step divided by the output's, float64 [channels] or [1]; positive.
        bound: largest magnitude of its integers.
    """

    ratio: np.ndarray
    bound: int


@dataclass(frozen=True)
class Term:
    """One addend: `(value << lift) * multiplier[channel]`.

    Args:
        lift: bits, 0 ... 30; `value << lift` fits int32.
        multiplier: int32 [channels] or [1]; positive, or negative for what is subtracted.
    """

    lift: int
    multiplier: np.ndarray


@dataclass(frozen=True)
class Rescale:
    """How sums become codes.

    Args:
        terms: in the order of the operator's addends.
        shift: 32 ... 52.
        offset: int64: `(zero_point << shift) + (1 << (shift - 1))`.
    """

    terms: tuple[Term, ...]
    shift: int
    offset: int


def make_rescale(parts: Sequence[Part], zero_point: int, where: str = "") -> Rescale:
    """The most exact numbers that fit: multipliers of 31 bits where the bounds allow, less where they do not.

    Args:
        parts: the addends.
        zero_point: of the output's container, 0 ... 255.
        where: the layer, for the error.

    Raises:
        TargetError: no shift of 32 bits or more holds the sum in 64 bits.
    """
    wanted = max(_full_shift(part) for part in parts)
    for shift in range(min(max(wanted, LEAST_SHIFT), MOST_SHIFT), LEAST_SHIFT - 1, -1):
        terms = tuple(_term(part, shift) for part in parts)
        offset = (zero_point << shift) + (1 << (shift - 1))
        if all(_fits(term, part) for term, part in zip(terms, parts, strict=True)) and (
            offset + sum(largest_magnitude(term, part) for term, part in zip(terms, parts, strict=True)) < _SUM_LIMIT
        ):
            return Rescale(terms, shift, offset)
    ratios = ", ".join(f"{part.ratio.max():.3g} (sums up to {part.bound:,})" for part in parts)
    raise TargetError(
        f"no 64-bit multiplier and shift brings these sums to the output's grid: steps in ratios of {ratios}",
        where=where, allowed="sums whose steps are finer than the output's, or smaller sums",
        hint="the layer's output range is tiny beside its sums: look at its calibration, or use `target=onnx`",
        field="target",
    )


def _full_shift(part: Part) -> int:
    """The shift at which the largest multiplier of the part has all its bits, without a lift."""
    return MULTIPLIER_BITS - 1 - math.floor(math.log2(float(part.ratio.max())))


def _term(part: Part, shift: int) -> Term:
    lift = max(0, shift - _full_shift(part))
    multiplier = np.rint(part.ratio.astype(np.float64) * 2.0 ** (shift - lift))
    # A ratio just below a power of two may round up to it.
    return Term(lift, np.minimum(multiplier, 2**MULTIPLIER_BITS - 1).astype(np.int32))


def _fits(term: Term, part: Part) -> bool:
    return part.bound << term.lift < 1 << 31


def largest_magnitude(term: Term, part: Part) -> int:
    """The largest magnitude that an addend may have after its multiplication."""
    return (part.bound << term.lift) * int(np.abs(term.multiplier.astype(np.int64)).max())


def apply_rescale(rescale: Rescale, values: Sequence[Tensor], axis: int = 1) -> Tensor:
    """Codes before they are clipped: int64 of the broadcast shape of `values` (int64, exact), channels on `axis`."""
    terms = zip(rescale.terms, values, strict=True)
    scaled = ((value << term.lift) * _along(term.multiplier, axis, value) for term, value in terms)
    total = next(scaled) + rescale.offset
    for value in scaled:
        total = value + total
    return total >> rescale.shift


def _along(multiplier: np.ndarray, axis: int, value: Tensor) -> Tensor:
    shape = [1] * value.dim()
    shape[axis] = -1
    return torch.from_numpy(multiplier.astype(np.int64)).to(value.device).reshape(shape)
