"""Thresholds found by bisection against every number of small ranges, and what two of them part in."""

import numpy as np
import pytest
import torch

from isobit.backends.execution.thresholds import (
    LARGEST_FLOAT,
    Levels,
    NotMonotone,
    Range,
    check_steps,
    find_thresholds,
    levels_of,
    ordered,
    parting,
)


def staircase(steps):
    """Codes that count the steps [n, channels] that a number has reached."""
    return lambda numbers: (numbers[:, None] >= steps[None]).sum(1)


def random_steps(rng, levels=6, channels=5, low=-30, high=40):
    return torch.from_numpy(np.sort(rng.integers(low, high, (levels, channels)), axis=0))


def every_number(codes, within):
    """Codes of all numbers, and which of them are in each channel's range."""
    numbers = torch.arange(int(within.least.min()), int(within.largest.max()) + 1)[:, None].expand(
        -1, len(within.least))
    return codes(numbers), (numbers >= within.least) & (numbers <= within.largest)


WITHIN = Range(torch.tensor([-25, -30, 0, 7, -3]), torch.tensor([35, 39, 12, 7, 50]))


@pytest.mark.parametrize("guess", ["none", "right", "near", "far"])
def test_thresholds_are_the_least_numbers_that_reach_each_code(guess):
    rng = np.random.default_rng(0)
    for _ in range(20):
        codes = staircase(random_steps(rng))
        levels = Levels(1, 6)
        found, inside = every_number(codes, WITHIN)
        numbers = torch.arange(-30, 51)[:, None]
        wanted = torch.stack([
            torch.where(inside & (found >= level), numbers, WITHIN.largest + 1).amin(0) for level in range(1, 7)
        ])
        offsets = {"none": None, "right": 0, "near": 1, "far": 40}[guess]
        about = None if offsets is None else wanted + torch.from_numpy(rng.integers(-offsets, offsets + 1, (6, 5)))
        got = find_thresholds(codes, WITHIN, levels, about)
        assert torch.equal(got, wanted)
        check_steps(codes, WITHIN, levels, got)


def test_only_the_levels_that_are_reached_are_looked_for():
    first, second = (lambda numbers: (numbers // 10).clamp(-2, 3)), (lambda numbers: (numbers // 10).clamp(-1, 4))
    within = Range(torch.tensor([-5, 2]), torch.tensor([9, 35]))
    assert levels_of((first, second), within) == Levels(0, 4)
    assert levels_of((first,), Range(torch.tensor([50]), torch.tensor([90]))).count == 0


@pytest.mark.parametrize("spread", [1, 8])
def test_numbers_that_part_are_counted_one_by_one(spread):
    rng, levels, seen = np.random.default_rng(spread), Levels(1, 6), set()
    for _ in range(60):
        steps = random_steps(rng)
        moved = (steps + torch.from_numpy(rng.integers(-spread, spread + 1, steps.shape))).sort(0)[0]
        moved = torch.where(torch.from_numpy(rng.random(steps.shape[1]) < 0.4), steps, moved)
        first, second = staircase(steps), staircase(moved)
        found = parting(*(find_thresholds(codes, WITHIN, levels) for codes in (first, second)))
        (a, inside), (b, _) = every_number(first, WITHIN), every_number(second, WITHIN)
        differences = (a - b).abs() * inside
        assert found.numbers == int((differences > 0).sum()) and found.max_lsb == int(differences.max())
        assert found.channels == int((differences > 0).any(0).sum())
        seen.add(found.max_lsb)
    assert max(seen) > 1 or spread == 1


def test_a_function_that_falls_has_no_thresholds():
    within, levels = Range(torch.tensor([0]), torch.tensor([640])), Levels(1, 1)

    def dented(numbers):
        return ((numbers >= 300) & (numbers != 303)).long()

    with pytest.raises(NotMonotone, match="within 3 of a step"):
        check_steps(dented, within, levels, find_thresholds(dented, within, levels))

    def sagging(numbers):
        return ((numbers >= 300) & (numbers < 600)).long()

    with pytest.raises(NotMonotone, match="fall as the sum rises"):
        check_steps(sagging, within, levels, torch.tensor([[300]]))


def test_finite_numbers_of_float32_are_in_order():
    numbers = torch.tensor([-LARGEST_FLOAT, -1, 0, 1, 0x3F800000, LARGEST_FLOAT])
    values = ordered(numbers)
    assert bool((values.diff() > 0).all()) and values[2:5].tolist() == [0.0, 2.0**-149, 1.0]
    assert -values[0] == values[-1] == torch.finfo(torch.float32).max


@pytest.mark.parametrize("codes", [
    lambda numbers: (40 - numbers) // 10,  # falls everywhere: no level lies above its first code
    lambda numbers: torch.where((numbers >= 30) & (numbers < 33), 0, 1),
])
def test_short_ranges_are_looked_at_number_by_number(codes):
    within = Range(torch.tensor([0, 0]), torch.tensor([40, 15]))
    levels = levels_of((codes,), within)
    with pytest.raises(NotMonotone):
        check_steps(codes, within, levels, find_thresholds(codes, within, levels))


def test_the_end_of_a_range_is_looked_at():
    within = Range(torch.tensor([0]), torch.tensor([127]))
    codes = lambda numbers: torch.where((numbers >= 100) & (numbers < 120), 0, 1)  # noqa: E731
    levels = levels_of((codes,), within)
    with pytest.raises(NotMonotone):
        check_steps(codes, within, levels, find_thresholds(codes, within, levels))
