"""Bits leave the groups that miss them least, down to the target and no further (test 28)."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.mixed_precision.loss_allocation import Groups, Pool, share
from isobit.calib.training.level_coders import NestedCoder


def pool(errors: list[list[float]], sizes: list[int], groups: Groups = "channel") -> Pool:
    coders = []
    for values in errors:
        coder = NestedCoder(len(values), 4, 1.0)
        coder.error.total = torch.tensor(values, dtype=torch.float64)
        coders.append(coder)
    return Pool(coders, sizes, groups)


def bits(of: Pool) -> list[list[int]]:
    return [coder.bits.tolist() for coder in of.coders]


def test_the_least_errors_of_all_layers_lose_a_bit() -> None:
    found = pool([[5.0, 1.0, 9.0], [2.0, 7.0]], [10, 10])
    assert found.take(2, 0.0) == 2
    assert bits(found) == [[4, 3, 4], [3, 4]]


def test_the_average_counts_elements() -> None:
    found = pool([[1.0, 2.0], [9.0]], [3, 10])
    assert found.average == 4.0 and found.elements == 16 and found.count == 3
    found.take(1, 0.0)
    assert found.average == pytest.approx((3 * 3 + 4 * 3 + 4 * 10) / 16)


def test_no_more_bits_are_taken_than_the_target_asks_for() -> None:
    found = pool([[1.0, 2.0, 3.0, 4.0]], [5])
    assert found.take(4, 3.5) == 2 and found.average == 3.5
    assert found.take(4, 3.5) == 0


def test_groups_without_a_bit_are_passed_over() -> None:
    found = pool([[0.0, 1.0]], [1])
    for _ in range(6):
        found.coders[0].bits[0] = 0
        found.take(1, 0.0)
    assert bits(found) == [[0, 0]]


def test_a_layer_is_one_group() -> None:
    found = pool([[0.0, 9.0], [5.0, 5.0]], [1, 1], "layer")
    assert found.count == 2 and found.take(1, 0.0) == 1
    assert bits(found) == [[3, 3], [4, 4]]


def test_an_epoch_of_counting_begins_at_zero() -> None:
    found = pool([[1.0, 2.0]], [1])
    found.watch(True)
    assert found.coders[0].error.watching and found.coders[0].error.total.tolist() == [0.0, 0.0]
    found.watch(False)
    assert not found.coders[0].error.watching


def test_the_share_rises_as_in_the_authors_run() -> None:
    """Test 28: after the first of 151 epochs 7 of 768 and 6 of 672 groups."""
    assert (int(share(0, 151, 2.0) * 768), int(share(0, 151, 2.0) * 672)) == (7, 6)
    assert share(150, 151, 2.0) == pytest.approx(0.30)


@pytest.mark.parametrize("window", [2, 5, 8])
def test_a_short_window_takes_as_many_bits_in_larger_portions(window: int) -> None:
    shares = [share(epoch, window, 1.5) for epoch in range(window)]
    assert sum(shares) == pytest.approx(1.5, abs=0.51) and shares == sorted(shares) and max(shares) <= 1.0
