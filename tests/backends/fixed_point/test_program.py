"""A program is data: a step knows whether a residual enters it, and tensor 0 is the input."""

from isobit.backends.fixed_point.program import Conv
from tests.backends.fixed_point import oracle


def test_residual_and_input():
    plain, fused = oracle.make_conv((4, 4, 8), 8), oracle.make_conv((4, 4, 8), 8, residual_zero=3)
    assert isinstance(plain.steps[0], Conv) and not plain.steps[0].residual and fused.steps[0].residual
    assert fused.input is fused.buffers[0] and len(fused.buffers) == 3
