"""Depthwise convolutions lane by lane, on the cases of the interleaving kernels; nothing is multiplied by zeros."""

import numpy as np
import pytest

from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels.layout import plan_places
from isobit.backends.tvm.module import step_call
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness
from tests.backends.tvm.kernels.layers.test_depthwise import CASES

pytestmark = pytest.mark.tvm


def test_every_code_is_the_oracles():
    assert harness.differing(CASES, "lanes") == []


@pytest.mark.parametrize("largest", [15, 127, 255])
def test_codes_at_their_end(largest):
    program = oracle.make_conv((5, 9, 32), 32, groups=32, bits=4, largest=largest, high=15)
    program.steps[-1].weights.codes[...] = -8
    assert harness.differing({"lowest": program}, "lanes", codes=lambda shape: np.full(shape, largest, np.uint8)) == []


@pytest.mark.parametrize("flavour", ["sdot", "usdot", "lanes"])
def test_weights_are_one_byte_a_tap(flavour):
    harness.needs_tvm()
    program = CASES["dilated"]
    call = step_call(program.steps[0], program, plan_places(program), instruction_set(flavour))
    assert call.name == "depthwise" and call.constants[0].size == program.steps[0].weights.codes.size


@pytest.mark.parametrize(("bits", "largest", "lanes"), [(4, 15, "8h"), (4, 255, "8h"), (8, 255, "4s")])
def test_small_products_are_added_in_16_bits(bits, largest, lanes):
    program = oracle.make_conv((8, 8, 64), 64, groups=64, bits=bits, largest=largest)
    text = harness.profile_assembly(program, "aarch64")
    found = {line.split()[1].partition(".")[2].rstrip(",") for line in text.splitlines()
             if line.split()[:1] in (["smlal"], ["mla"], ["smlal2"])}
    assert found == {lanes}
