"""Bisection over a frontier: what is tried, how often, and what comes out."""

from __future__ import annotations

import pytest

from isobit.calib.mixed_precision.frontier_search import smallest_passing

SIZES = [100.0 * 1.02**place for place in range(150)]  # 100 to about 1,900


def run(threshold, tries=10, guess=lambda failed, passed: None, sizes=SIZES):
    asked = []

    def passes(point):
        asked.append(point)
        return sizes[point] >= threshold

    return smallest_passing(sizes, passes, tries, guess), asked


@pytest.mark.parametrize("threshold", [100, 101, 180, 500, 1500, 1890])
def test_it_comes_within_two_points_of_the_smallest(threshold):
    found, asked = run(threshold)
    wanted = next(place for place, size in enumerate(SIZES) if size >= threshold)
    assert wanted <= found <= wanted + 2 and len(asked) <= 10 and len(set(asked)) == len(asked)


def test_nothing_passes_and_the_largest_was_tried_for_it():
    found, asked = run(1e9, tries=4)
    assert found is None and len(asked) == 4 and asked[-1] == len(SIZES) - 1


def test_one_try_is_the_largest_or_the_guessed_one():
    assert run(500, tries=1) == (149, [149])
    assert run(500, tries=1, guess=lambda failed, passed: 140) == (140, [140])


def test_every_other_try_is_a_guess_and_wrong_ones_do_no_harm():
    ends = []

    def guess(failed, passed):
        ends.append((failed, passed))
        return 90 if failed is None else failed + 1  # always too small, but for the first

    found, asked = run(500, guess=guess)
    wanted = next(place for place, size in enumerate(SIZES) if size >= 500)
    assert asked[0] == 90 and all(point < 90 for point in asked[1:]) and wanted <= found <= wanted + 4
    assert ends[0] == (None, None) and ends[1][1] in asked[:2]


def test_right_guesses_are_quicker_than_halves():
    wanted = next(place for place, size in enumerate(SIZES) if size >= 500)

    def guess(failed, passed):
        return wanted if passed is None else passed - 1

    found, asked = run(500, tries=3, guess=guess)
    assert found == wanted and asked[0] == wanted


@pytest.mark.parametrize("outside", [-1, 150, 999])
def test_a_guess_outside_of_what_is_open_is_the_middle(outside):
    assert run(500, guess=lambda failed, passed: outside)[1] == run(500)[1]


def test_a_single_choice_is_tried_once():
    assert run(0, sizes=[0.0]) == (0, [0]) and run(1, sizes=[0.0]) == (None, [0])


def test_sizes_that_hardly_differ_are_not_searched():
    close = [1000.0 + place for place in range(9)]
    assert len(run(0, sizes=close)[1]) == 1


@pytest.mark.parametrize("tries", [2, 3, 4, 5])
def test_the_last_of_several_tries_is_the_largest_where_nothing_passed(tries):
    found, asked = run(SIZES[-1], tries=tries, guess=lambda failed, passed: 0 if failed is None else failed + 1)
    assert (found, asked[-1]) == (len(SIZES) - 1, len(SIZES) - 1) and len(asked) == tries
