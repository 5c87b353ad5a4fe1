"""Policies: every name that a recipe may state has its overrides, which only raise layers to 8 bits."""

from typing import get_args

import pytest

from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.policy import POLICIES, policy_overrides
from isobit.pipeline.recipe.schema import PolicyName


def test_every_policy_name_of_a_recipe_is_in_the_table():
    assert list(POLICIES) == list(get_args(PolicyName))


@pytest.mark.parametrize("name", POLICIES)
def test_set_policy_chooses_the_overrides(name):
    assert policy_overrides(load_recipe("qdrop_w4a4", [f"policy={name}"])) == POLICIES[name]


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_says_8_bits_and_symmetric_weights_and_nothing_else(name):
    for override in POLICIES[name]:
        stated = override.model_dump(exclude={"where"}, exclude_none=True)
        for tensors, change in stated.items():
            assert change == ({"bits": 8, "symmetric": True} if tensors == "weights" else {"bits": 8})


def test_the_table_of_section_1_7_as_where_and_tensors():
    stated = {name: [(o.where, *sorted(o.model_dump(exclude={"where"}, exclude_none=True))) for o in overrides]
              for name, overrides in POLICIES.items()}
    everything = [("first", "activations", "output", "weights"), ("last", "activations", "weights")]
    assert stated == {
        "none": [],
        "qdrop": [("first", "activations", "weights"), ("last", "activations", "weights")],
        "brecq": [("first", "activations", "output", "weights"), ("last", "weights"), ("penultimate", "output")],
        "brecq-intended": everything,
        "captq": everything,
        "depthwise": [("op:depthwise_conv2d", "weights"), *everything],
    }
