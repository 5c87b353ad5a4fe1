"""What was chosen, in words and as a mean."""

import pytest

from isobit.pipeline.recipe.allocation import Allocation, Point, budget_text
from isobit.pipeline.recipe.budget import BitBudget


def test_the_average_is_weighted_and_counts_open_layers_only():
    allocation = Allocation(
        BitBudget(average=3), {"stem": 500, "one": 100, "two": 300}, {"stem": 8, "one": 6, "two": 2},
        {"one": {2: 0.1, 6: 0.0}, "two": {2: 0.1, 6: 0.0}}, (Point(650, 0.1),), Point(650, 0.1), {}, 8,
    )
    assert allocation.average == pytest.approx(3.0)


@pytest.mark.parametrize(("budget", "text"), [
    (BitBudget(average=3), "3 bits on average of 2, 3, 4, 5, 6, 8"),
    (BitBudget(budget_mb=0.12, options=(2, 4, 8)), "0.12 MB of 2, 4, 8"),
])
def test_a_budget_in_words(budget, text):
    assert budget_text(budget) == text
