"""The groups on real networks: recipes that exist, budgets for all of them, like compared with like."""

from __future__ import annotations

from pathlib import Path

import pytest

from isobit.calib.methods import find_method
from isobit.calib.sources import find_source, makes_images
from isobit.pipeline.recipe.file import load_recipe
from tools.reproduce.real_networks import BITS, POLICY, WITHOUT_DATA, cells, imagenet
from tools.reproduce.study import models

GROUPS = (imagenet(), cells())


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_every_line_is_a_recipe_with_parameters_that_exist(group):
    for line in group.lines:
        recipe = load_recipe(line.recipe, line.cells[0].edits)
        find_method(recipe.method)
        find_source(recipe.images)
        assert makes_images(recipe.images) == (line.images is None) == (line.method in WITHOUT_DATA)
        assert line.subject in models(Path())


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_methods_meet_at_the_same_bits_and_policy(group):
    own = {(line.method, line.bits) for line in group.lines}
    assert {bits for method, bits in own if method == "qdrop"} == set(BITS)
    policies = {POLICY in line.sets for line in group.lines if line.bits != "w8a8" and line.method not in WITHOUT_DATA}
    assert policies == {True}
