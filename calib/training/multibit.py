"""Multi-bit weights: K bits are the sums of K signed numbers, so levels crowd where weights do; stored as int8 codes.

DMBQ (distribution-aware multi-bit quantization): the levels of an output channel with K = 0 ... 4 bits are
c * sum(s_i alpha_i), s_i = -1 or +1, alpha positive with sum 1; K = 0 is the one level 0. The clip is c = kappa *
mean(abs(w)). Tables of (kappa, alpha) are optimal for one density of the weights, searched once; `best_codebook` is the
search. An integer kernel needs integers: `integer_codebook` finds D with D * level close to integers, and the channel
becomes ordinary int8 codes at scale c / D. Training already uses the integers, so that nothing is lost after it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import optimize, special
from torch import Tensor

from isobit.pipeline.quant.channel_bits import MAX_CHANNEL_BITS
from isobit.pipeline.quant.grid import QParams, along, usable_scale
from isobit.pipeline.quant.quantizer import Quantizer

Density = Literal["laplace", "gauss"]
TableName = Literal["laplace", "cifar", "gauss"]
CLIP_FLOOR = 1e-6  # added to the divisor: a channel of zeros has clip 0
CLIP_SHARE = 1e-3  # of a clip that is not, at most this is added
STARTS = 40  # random starts of the search: from 3 bits on it has many local minima
# Mean of abs(w) is 1 for both densities.
VARIANCE: Mapping[Density, float] = {"laplace": 2.0, "gauss": math.pi / 2}


@dataclass(frozen=True)
class Codebook:
    """The levels of one number of bits.

    Args:
        kappa: clip / mean(abs(w)).
        alpha: positive, descending, of sum 1; empty for 0 bits.
    """

    kappa: float
    alpha: tuple[float, ...]

    @property
    def levels(self) -> np.ndarray:
        """Positive levels in units of the clip, ascending, float64; [0] for 0 bits."""
        return positive_levels(np.asarray(self.alpha))


_PRUNED, _ONE_BIT = Codebook(0.5, ()), Codebook(0.98, (1.0,))
# By bits. `laplace` is the released second version's, the Laplace optimum to its four digits; `cifar` the first
# version's, in small integers; `gauss` is `best_codebook("gauss", bits)`, which no release has.
TABLES: Mapping[TableName, tuple[Codebook, ...]] = {
    "laplace": (
        _PRUNED, _ONE_BIT, Codebook(2.60, (0.6123, 0.3877)), Codebook(4.16, (0.4557, 0.3436, 0.2007)),
        Codebook(5.66, (0.3317, 0.2858, 0.2346, 0.1479)),
    ),
    "cifar": (
        _PRUNED, _ONE_BIT, Codebook(2.43, (0.65, 0.35)), Codebook(4.36, (7 / 15, 5 / 15, 3 / 15)),
        Codebook(5.52, (0.32, 0.28, 0.24, 0.16)),
    ),
    "gauss": (
        _PRUNED, Codebook(1.0, (1.0,)), Codebook(1.893, (0.6499, 0.3501)), Codebook(2.742, (0.4518, 0.3420, 0.2062)),
        Codebook(3.371, (0.4195, 0.2635, 0.2069, 0.1101)),
    ),
}  # fmt: skip


def positive_levels(alpha: np.ndarray) -> np.ndarray:
    """The non-negative half of all signed sums of `alpha` [K], ascending; [0] for none."""
    if alpha.size == 0:
        return np.zeros(1)
    signs = np.asarray(list(itertools.product((-1.0, 1.0), repeat=alpha.size)))
    return np.sort(np.abs(signs[len(signs) // 2:] @ alpha))


# --- the search ---------------------------------------------------------------------------------------------------


def _laplace_moments(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Integrals of f, x f and x^2 f from t >= 0 to infinity, f = exp(-x) / 2."""
    tail = 0.5 * np.exp(-t)
    return tail, tail * (t + 1), tail * (t * t + 2 * t + 2)


def _gauss_moments(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same of the normal density with mean absolute value 1."""
    sigma = math.sqrt(VARIANCE["gauss"])
    z = t / sigma
    tail, bell = special.ndtr(-z), np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return tail, sigma * bell, sigma * sigma * (tail + z * bell)


_MOMENTS: Mapping[Density, Callable[[np.ndarray], tuple[np.ndarray, ...]]] = {
    "laplace": _laplace_moments, "gauss": _gauss_moments,
}


def distortion(levels: np.ndarray, density: Density) -> float:
    """Mean squared error of nearest-level rounding, as a share of the variance, in closed form.

    Args:
        levels: positive ones, ascending, for a density with mean absolute value 1.
    """
    ends = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2])
    mass, first, second = (values - np.append(values[1:], 0.0) for values in _MOMENTS[density](ends))
    return float(2 * (second - 2 * levels * first + levels**2 * mass).sum() / VARIANCE[density])


def best_codebook(density: Density, bits: int, starts: int = STARTS, seed: int = 0) -> Codebook:
    """The codebook of least distortion, by local searches from random starts."""
    def codebook(point: np.ndarray) -> Codebook:
        alpha = np.exp(point[1:] - point[1:].max())
        return Codebook(float(np.exp(point[0])), tuple(np.sort(alpha / alpha.sum())[::-1].tolist()))

    def loss(point: np.ndarray) -> float:
        found = codebook(point)
        return distortion(found.kappa * found.levels, density)

    random = np.random.default_rng(seed)
    points = [np.append(random.uniform(0, 2), random.normal(0, 0.5, bits)) for _ in range(starts)]
    found = [optimize.minimize(loss, point, method="L-BFGS-B") for point in points]
    return codebook(min(found, key=lambda result: result.fun).x)


# --- integers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IntegerCodebook:
    """Levels on integers: a level is `codes / divisor` of the clip.

    Args:
        divisor: D.
        codes: positive ones, ascending; the negative ones mirror them. (0,) for 0 bits.
        error: largest distance of a level from the codebook's, in units of the clip.
    """

    divisor: int
    codes: tuple[int, ...]
    error: float


@functools.cache
def integer_codebook(alpha: tuple[float, ...], limit: int = 127) -> IntegerCodebook:
    """The D <= `limit` whose rounded multiples are nearest to the levels of `alpha`; the least D of equals.

    The largest level is 1, so its code is D: a device that survives codes up to 64 only gets the best codebook of
    those by the same search.

    Raises:
        ValueError: no D up to `limit` keeps all levels apart.
    """
    levels = positive_levels(np.asarray(alpha))
    if not alpha:
        return IntegerCodebook(1, (0,), 0.0)
    found: IntegerCodebook | None = None
    for divisor in range(1, limit + 1):
        codes = np.rint(levels * divisor).astype(int)
        error = float(np.abs(codes / divisor - levels).max())
        if codes[0] > 0 and len(set(codes.tolist())) == len(codes) and (found is None or error < found.error - 1e-12):
            found = IntegerCodebook(divisor, tuple(codes.tolist()), error)
    if found is None:
        raise ValueError(f"codes up to {limit} do not hold {len(levels)} levels of either sign")
    return found


# --- weights ------------------------------------------------------------------------------------------------------


class MultibitWeights:
    """Maps a weight to the nearest levels of its channels' codebooks: what stands in for a quantizer while one trains.

    Args:
        bits: int [O], 0 to 4, of each output channel.
        clip: float32 [O], not negative: the largest level.
        table: by number of bits.
        limit: largest code that the tensor's grid holds, `spec.grid.qmax`.
    """

    def __init__(self, bits: Tensor, clip: Tensor, table: TableName = "laplace", limit: int = 127) -> None:
        self.bits, self.clip = bits, clip
        self._table, self._limit = table, limit

    def codes(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """int32 codes like `weights` [O, ...] and float32 scales [O]: value = scale * code, exactly."""
        with torch.no_grad():
            codes = self._codes(weights.detach())
        return codes.to(torch.int32), self.scale

    @property
    def scale(self) -> Tensor:
        """float32 [O]: clip / D of the channel's bits."""
        divisors, _, _ = _lookup(self._table, self._limit, self.clip.device)
        return usable_scale(self.clip.float() / divisors[self.bits.long()])

    def __call__(self, weights: Tensor) -> Tensor:
        """Fake-quantized weights; the gradient passes inside [-clip, clip] and is zero outside."""
        with torch.no_grad():
            rank = weights.dim()
            values = along(self.scale, 0, rank) * self._codes(weights)
            inside = weights.abs() <= along(self.clip, 0, rank)
        return _StraightThrough.apply(weights, values, inside)

    def settle(self, quantizer: Quantizer, weights: Tensor) -> None:
        """Decide a weight quantizer's scale, bits and codes for good."""
        codes, scale = self.codes(weights)
        quantizer.set_params(QParams(scale, torch.zeros_like(scale, dtype=torch.int32)))
        quantizer.set_channel_bits(self.bits)
        quantizer.harden(codes)

    def _codes(self, weights: Tensor) -> Tensor:
        """Nearest codes as floats, by counting the thresholds below: at most seven compares, no search over levels."""
        _, thresholds, codes = _lookup(self._table, self._limit, weights.device)
        rank, bits = weights.dim(), self.bits.long()
        added = torch.where(self.clip > 0, (self.clip * CLIP_SHARE).clamp(max=CLIP_FLOOR), CLIP_FLOOR)
        u = (weights / along(self.clip + added, 0, rank)).float()
        magnitude, index = u.abs(), torch.zeros_like(weights, dtype=torch.int64)
        for threshold in thresholds[:, bits]:
            index += magnitude > along(threshold, 0, rank)
        offset = along(bits * codes.shape[1], 0, rank)
        return codes.reshape(-1)[index + offset].to(weights.dtype).copysign(u)


class _StraightThrough(torch.autograd.Function):
    """`values` in place of `weights`; the gradient where `inside`."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None


@functools.cache
def _lookup(table: TableName, limit: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Divisors [5], thresholds [7, 5] on abs(w) / clip (infinite where a codebook has fewer), codes [5, 8]."""
    most = 1 << (MAX_CHANNEL_BITS - 1)
    books = [integer_codebook(book.alpha, limit) for book in TABLES[table]]
    thresholds = torch.full((most - 1, len(books)), math.inf)
    codes = torch.zeros(len(books), most)
    for bits, book in enumerate(books):
        levels = np.asarray(book.codes) / book.divisor
        thresholds[: len(levels) - 1, bits] = torch.from_numpy((levels[1:] + levels[:-1]) / 2)
        codes[bits, : len(levels)] = torch.tensor(book.codes)
    divisors = torch.tensor([book.divisor for book in books], dtype=torch.float32)
    return divisors.to(device), thresholds.to(device), codes.to(device)
