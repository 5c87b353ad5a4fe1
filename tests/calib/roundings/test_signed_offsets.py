"""Signed gradient descent on offsets: rates, clipping, and the step that is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from isobit.calib.roundings.signed_offsets import SignedOffsets, SignedOffsetsParameters
from isobit.pipeline.quant.grid import Grid, QParams, QuantSpec
from isobit.pipeline.quant.quantizer import Phase, Quantizer


def one(values: list[float], steps: int = 10) -> tuple[SignedOffsets, Quantizer, Tensor]:
    """One output channel on the grid 0 ... 15 with step 1."""
    quantizer = Quantizer(QuantSpec(Grid(4, signed=False), True, 0))
    quantizer.set_params(QParams(torch.ones(1), torch.zeros(1, dtype=torch.int32)))
    quantizer.phase = Phase.ON
    weight = torch.tensor([values])
    rounding = SignedOffsets([(quantizer, weight)], SignedOffsetsParameters(), steps)
    rounding.attach()
    return rounding, quantizer, weight


def pull(
    rounding: SignedOffsets, quantizer: Quantizer, weight: Tensor, step: int, by: list[float], loss: float
) -> None:
    rounding.refresh()
    (quantizer(weight) * torch.tensor([by])).sum().backward()
    rounding.collect(torch.tensor([step]), rounding.regularised(step), lambda: torch.tensor(loss))


def test_rates_fall_linearly_and_add_up_to_half_a_code_and_a_little() -> None:
    """(1 - t / T) / T: the sum is (T + 1) / 2T, and the offsets stop at one half."""
    rounding, quantizer, weight = one([3.3, 3.6])
    seen = []
    for step in range(10):
        pull(rounding, quantizer, weight, step, [2.0, -0.01], 1.0 / (step + 1))
        seen.append(rounding.offsets.tolist())
    travelled = [sum((1 - t / 10) / 10 for t in range(step + 1)) for step in range(10)]
    assert [-v[0] for v in seen] == pytest.approx([min(v, 0.5) for v in travelled])
    assert [v[1] for v in seen] == pytest.approx([min(v, 0.5) for v in travelled])  # signs only: 0.01 moves as far as 2


def test_the_unit_sees_hard_codes_in_every_step() -> None:
    rounding, quantizer, weight = one([3.3, 3.6])
    for step in range(10):
        pull(rounding, quantizer, weight, step, [-1.0, 1.0], 1.0)
        rounding.refresh()
        value = quantizer(weight)
        assert torch.equal(value, value.round())
    assert value.tolist() == [[4.0, 3.0]] and rounding.undecided() == 0.0


def test_the_offsets_of_the_smallest_loss_are_kept() -> None:
    rounding, quantizer, weight = one([3.45, 8.0])
    for step, loss in enumerate([5.0, 4.0, 1.0, 3.0, float("nan"), 2.0]):
        if step == 2:
            best = rounding.offsets.clone()
        pull(rounding, quantizer, weight, step, [-1.0, 0.0], loss)
    rounding.settle()
    assert torch.equal(rounding.offsets, best) and float(best[0]) == pytest.approx(0.19) and float(best[1]) == 0.0
    assert rounding.flipped() == 0.5 and rounding.harden()[0].tolist() == [[4, 8]]


def test_a_loss_that_is_never_finite_leaves_nearest_rounding() -> None:
    rounding, quantizer, weight = one([3.45])
    for step in range(10):
        pull(rounding, quantizer, weight, step, [-1.0], float("inf"))
    rounding.settle()
    assert rounding.flipped() == 0.0 and rounding.harden()[0].tolist() == [[3]]


def test_a_clipped_weight_gets_no_gradient_and_one_at_the_end_of_the_grid_does() -> None:
    rounding, quantizer, weight = one([17.2, -3.0, 15.4, 15.6, 0.0])
    pull(rounding, quantizer, weight, 0, [1.0] * 5, 1.0)
    assert rounding.offsets.tolist() == pytest.approx([0.0, 0.0, -0.1, 0.0, -0.1])
    assert rounding.harden()[0].tolist() == [[15, 0, 15, 15, 0]]
