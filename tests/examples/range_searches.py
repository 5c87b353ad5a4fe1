"""Range searches as plain loops, and observers that tests feed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from isobit.calib.ranges.observers import RangeObserver
from isobit.pipeline.quant.grid import (
    RANGE_PARAMETER,
    Grid,
    QParams,
    QuantSpec,
    RangeSearch,
    along,
    dequantize,
    quantize,
)

SEARCHES = list(RANGE_PARAMETER)


def spec(bits: int, *, symmetric: bool = False, signed: bool = False, axis: int | None = None,
         search: str = "mse", **parameter: float) -> QuantSpec:
    return QuantSpec(Grid(bits, signed=signed), symmetric, axis, RangeSearch(search, **parameter))


def passes(x: Tensor, of: QuantSpec, parts: int = 1) -> RangeObserver:
    observer = RangeObserver(of, "node x")
    for part in x.chunk(parts):
        observer(part)
    if observer.needs_second_pass:
        observer.start_second_pass()
        for part in x.chunk(parts):
            observer(part)
    return observer


def observed(x: Tensor, of: QuantSpec, parts: int = 1) -> QParams:
    return passes(x, of, parts).params()


def fake(x: Tensor, params: QParams, of: QuantSpec) -> tuple[Tensor, Tensor]:
    scale, zero_point = (along(p.to(x.dtype), of.axis, x.dim()) for p in (params.scale, params.zero_point))
    codes = quantize(x, scale, zero_point, of.grid)
    return codes, dequantize(codes, scale, zero_point)


def error(x: Tensor, params: QParams, of: QuantSpec) -> float:
    return float((fake(x, params, of)[1] - x).abs().pow(of.range.exponent).mean())


def score(x: Tensor, scale: float, zero_point: int, bits: int, exponent: float) -> float:
    """Mean error of one candidate on the grid 0 ... 2^bits - 1, in float64."""
    codes = (torch.round(x.double() / scale) + zero_point).clamp(0, 2**bits - 1)
    return float((scale * (codes - zero_point) - x.double()).abs().pow(exponent).mean())


def literal_mse(x: Tensor, bits: int, sign: str, exponent: float = 2.4) -> tuple[float, int]:
    """Section 1.2.1 as it is written, one candidate at a time: scale and zero point of an asymmetric quantizer."""
    steps = 2**bits - 1
    low, high = float(x.min()), float(x.max())
    width = max(high, 0.0) - min(low, 0.0) if sign == "both" else max(abs(low), high)
    points = {"pos": [0], "neg": [steps], "both": list(range(steps + 1))}[sign]
    best = (1e10, 0.0, 0)
    for i in range(1, 101):
        for zero_point in points:
            found = score(x, width * i / 100 / steps, zero_point, bits, exponent)
            best = (found, width * i / 100 / steps, zero_point) if found < best[0] else best
    return best[1:]


def literal_shrink(x: Tensor, bits: int, exponent: float = 2.4) -> tuple[float, int]:
    """BRECQ's search with 0 forced into the range: 80 candidates, the full range first."""
    steps = 2**bits - 1
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    best = (1e10, 0.0, 0)
    for i in range(80):
        share = 1 - 0.01 * i
        scale = (high - low) * share / steps
        zero_point = round(-low / ((high - low) / steps))
        found = score(x, scale, zero_point, bits, exponent)
        best = (found, scale, zero_point) if found < best[0] else best
    return best[1:]


def same(params: QParams, literal: tuple[float, int]) -> bool:
    return float(params.scale) == pytest.approx(literal[0], rel=1e-6) and int(params.zero_point) == literal[1]


def noise(count: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) + shift
