"""The arithmetic in batches is the arithmetic at once, and its logits are the float32 product of its last sums."""

import numpy as np

from isobit.backends.execution import integer
from isobit.backends.fixed_point.arithmetic import FixedPointArithmetic
from isobit.backends.fixed_point.rules import integer_target
from isobit.pipeline.proof.parity import LOGITS
from tests.examples import ports
from tests.examples.onnx_cases import frozen

TARGET = integer_target("test", "any")


def test_batches_do_not_matter(monkeypatch):
    reference, images = frozen("add", 4, 4, target=TARGET)
    whole = FixedPointArithmetic(reference).run(images)
    monkeypatch.setattr(integer, "PART", 5)
    parts = FixedPointArithmetic(reference).run(images)
    assert list(whole) == list(parts) and all(np.array_equal(whole[key], parts[key]) for key in whole)


def test_there_is_nothing_to_follow():
    reference, images = frozen("relu", target=TARGET)
    fixed = FixedPointArithmetic(reference)
    followed = fixed.follow(images[:2], {"relu_q": np.zeros(1)})
    assert followed.bounds == {} and np.array_equal(followed.results[LOGITS], fixed.run(images[:2])[LOGITS])
    assert not fixed.float_outputs and fixed.float_boundaries == ()
    assert followed.results[LOGITS].dtype == np.float32


def test_numbers_outside_a_table_count_as_its_nearest_row():
    reference, tokens = ports.frozen("tokens", "c")
    fixed = FixedPointArithmetic(reference)
    inside, outside = tokens[:2].clone(), tokens[:2].clone()
    inside[0, 0], inside[1, 3], outside[0, 0], outside[1, 3] = 0, 19, -3, 25
    wanted = fixed.run(inside)
    assert all(np.array_equal(codes, wanted[name]) for name, codes in fixed.run(outside).items())
