"""Merging: key by key, a budget as one value, parameters only beside what reads them, and changes at bits in order."""

import copy

import pytest

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.recipe.merge import bits_stated, merged, resolved

BASE = {"weights": {"bits": 4, "range": "mse", "exponent": 2.0}, "method": {"name": "a", "steps": 3, "rate": 0.1},
        "images": {"source": "files", "count": 8, "batch_size": 2, "own": 1}, "overrides": [{"where": "last"}]}


@pytest.mark.parametrize(("change", "after"), [
    ({"seed": 1}, {"seed": 1}),
    ({"method": {"steps": 5}}, {"method": {"name": "a", "steps": 5, "rate": 0.1}}),
    ({"method": {"name": "a", "rate": 1}}, {"method": {"name": "a", "steps": 3, "rate": 1}}),
    ({"method": {"name": "b", "rate": 1}}, {"method": {"name": "b", "rate": 1}}),
    ({"images": {"source": "none"}}, {"images": {"source": "none", "count": 8, "batch_size": 2}}),
    ({"weights": {"range": "minmax"}}, {"weights": {"bits": 4, "range": "minmax"}}),
    ({"weights": {"bits": {"average": 3}}}, {"weights": {"bits": {"average": 3}, "range": "mse", "exponent": 2.0}}),
    ({"overrides": []}, {"overrides": []}),
    ({"weights": 4}, {"weights": 4}),
])
def test_a_change_replaces_what_it_names_and_drops_what_loses_its_meaning(change, after):
    before = copy.deepcopy(BASE)
    assert merged(BASE, change) == {**BASE, **after} and before == BASE


def test_two_budgets_do_not_become_one():
    first = {"weights": {"bits": {"average": 3, "options": [2, 8]}}}
    assert merged(first, {"weights": {"bits": {"budget_mb": 1}}}) == {"weights": {"bits": {"budget_mb": 1}}}


def test_what_is_merged_shares_no_list_with_its_origin():
    change = {"overrides": [{"where": "first"}]}
    merged({}, change)["overrides"].append("more")
    assert change == {"overrides": [{"where": "first"}]}


@pytest.mark.parametrize(("bits", "seed"), [
    ((8, 8), 3), ((8, 4), 1), ((4, 8), 2), ((4, 4), 0), (({"average": 3}, 2), 0),
])
def test_changes_at_bits_come_in_the_files_order(bits, seed):
    own = {"seed": 0, "at": {"w8": {"seed": 1}, "a8": {"seed": 2}, "w8a8": {"seed": 3}}, "summary": "x", "paper": "y"}
    content = resolved([("here", own)], dict(zip(("weights", "activations"), bits, strict=True)))
    assert content == {"weights": {"bits": bits[0]}, "activations": {"bits": bits[1]}, "seed": seed}


def test_a_file_comes_after_everything_that_it_extends():
    first = {"seed": 0, "at": {"w8": {"seed": 1, "policy": "none"}}}
    files = [("first", first), ("second", {"extends": "x", "seed": 2})]
    assert resolved(files, {"weights": 8}) == {"weights": {"bits": 8}, "seed": 2, "policy": "none"}


@pytest.mark.parametrize("table", [5, [], {"w9": {}}, {"": {}}, {"a8w8": {}}, {8: {}}, {"w8": 3}])
def test_at_is_a_mapping_of_bits_to_changes(table):
    with pytest.raises(RecipeError, match="is no change at some bits") as caught:
        resolved([("here", {"at": table})], {})
    assert caught.value.where == "here"


def test_bits_are_found_where_they_are_stated():
    assert bits_stated({"weights": {"bits": 4}, "activations": 3}) == {"weights": 4}
