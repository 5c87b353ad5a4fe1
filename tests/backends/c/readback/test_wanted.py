"""What must stand in the files, from steps alone."""

import numpy as np
import pytest

from isobit.backends.c.readback.wanted import Wanted
from isobit.backends.fixed_point.program import Program, Step
from isobit.backends.readback.description import Terms, Undescribed
from tests.backends.fixed_point import oracle
from tests.examples.programs import every_step


def test_every_tensor_and_every_logit_is_described():
    program = every_step()
    wanted = Wanted(program, Terms())
    outputs = {f"tensor {step.output}" for step in program.steps if step.output is not None}
    assert outputs < set(wanted.tensors) and set(wanted.layers) == set(wanted.tensors)
    logits = [wanted.tensors[name] for name in wanted.tensors if name.startswith("logits")]
    assert sorted(np.concatenate([each.get("places").array for each in logits])) == list(range(np.prod(program.logits)))


def test_a_multiplier_of_all_channels_is_one_of_each():
    program = oracle.make_conv((5, 5, 3), 4, residual_zero=5)
    layer = Wanted(program, Terms()).tensors["tensor 2"]
    assert layer.get("residual_multiplier").array.shape == layer.get("sum_multiplier").array.shape == (4,)
    assert layer.get("residual_zero") == 5 and layer.get("out")[2] == 4


def test_a_step_that_is_not_known_has_no_description():
    program = oracle.make_conv((5, 5, 3), 4)
    with pytest.raises(Undescribed, match="Step"):
        Wanted(Program(program.buffers, (Step("x", "layer", (0,), 1),), (4,)), Terms())
