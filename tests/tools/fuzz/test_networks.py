"""Random networks: a seed gives one, as plain data that a line of text holds, and made smaller they stay networks."""

import random

import pytest
import torch

from tools.fuzz.networks import Plan, Step, draw_plan, module_of, pruned, shrunk

TEXT = ("[[[3, 6, 6]], [('conv2d', [0], {'channels': 4, 'groups': 1, 'kernel': [3, 3], 'stride': [1, 1], 'padding': "
        "[1, 1], 'dilation': [1, 1], 'seed': 3, 'scale': 1000.0, 'bias': False, 'dead': True, 'outlier': True}), "
        "('relu', [1], {}), ('cat', [1, 2], {}), ('floor', [3], {})], [4, 2], 'outlier', 0.001]")


@pytest.mark.parametrize("seed", range(25))
def test_a_seed_gives_a_network_that_runs_and_is_a_line_of_text(seed):
    plan = draw_plan(seed)
    assert plan == draw_plan(seed) and Plan.of(repr(plan.to_list())) == plan
    state = torch.random.get_rng_state()
    outputs = module_of(plan)(*plan.samples(3))
    assert torch.equal(torch.random.get_rng_state(), state)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(outputs) == len(plan.outputs) and all(len(output) == 3 for output in outputs)
    again = module_of(plan)(*plan.samples(3))
    assert torch.equal(outputs[0], (again if isinstance(again, tuple) else (again,))[0]) or outputs[0].isnan().any()


def test_seeds_differ_and_draw_most_operations():
    plans = [draw_plan(seed) for seed in range(150)]
    assert len({repr(plan.to_list()) for plan in plans}) > 140
    assert len({step.op for plan in plans for step in plan.steps}) > 70
    assert any(len(plan.inputs) == 2 for plan in plans) and any(len(plan.outputs) > 1 for plan in plans)


def test_layers_have_dead_channels_and_outliers():
    weight = module_of(Plan.of(TEXT)).layers["conv2d_0"].weight.detach()
    assert not weight[::3].any() and weight[1].any() and 10 < weight.abs().max() < 1e5


def test_pruning_leaves_what_outputs_need():
    plan = Plan(((4,), (4,)), (Step("relu", (0,), {}), Step("tanh", (1,), {}), Step("exp", (3,), {})), (4,))
    assert pruned(plan) == Plan(((4,),), (Step("tanh", (0,), {}), Step("exp", (1,), {})), (2,))


def test_a_network_is_made_as_small_as_what_is_said_of_it_allows():
    small = shrunk(Plan.of(TEXT), lambda plan: any(step.op == "floor" for step in plan.steps))
    assert small.to_list() == [[[1, 1, 1]], [("floor", [0], {})], [1], "normal", 1.0]
    small = shrunk(Plan.of(TEXT), lambda plan: any(step.parameters.get("outlier") for step in plan.steps))
    (step,) = small.steps
    assert step.op == "conv2d" and step.parameters["channels"] == 1 and not step.parameters["dead"]


def test_tries_are_bounded_and_what_is_not_reproduced_stays():
    asked = []
    plan = draw_plan(1)
    assert shrunk(plan, lambda smaller: asked.append(smaller) or False, tries=5) == plan
    assert len(asked) <= 5


def test_drawing_does_not_touch_pythons_own_chance():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    draw_plan(3)
    assert random.random() == expected
