"""The Relax baseline of the module bench computes the program to the bit."""

import numpy as np
import pytest

from isobit.backends.fixed_point.lower import lower
from isobit.backends.fixed_point.rules import integer_target
from tests.backends.fixed_point import oracle
from tests.backends.fixed_point.test_lower import input_codes
from tests.examples.onnx_cases import frozen
from tools.bench.peers.relax import relax_caller


@pytest.mark.tvm
@pytest.mark.parametrize("name", ["add", "relu", "max_pool"])
def test_the_relax_baseline_computes_the_program(name):
    pytest.importorskip("tvm")
    reference, images = frozen(name, target=integer_target("test", "any"))
    program = lower(reference)
    run = relax_caller(program, images[:1].numpy())
    _, logits = oracle.run(program, input_codes(program, images[:1]))
    assert np.array_equal(run().numpy().reshape(logits.shape), logits)
