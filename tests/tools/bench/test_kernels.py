"""The bench of single kernels measures kernels that compute the right thing."""

from dataclasses import replace

import numpy as np
import pytest

from isobit.backends.fixed_point.code_ranges import largest_codes
from isobit.backends.tvm.kernels.layout import plan_places
from isobit.backends.tvm.profiles import PROFILES
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness
from tools.bench.kernels import compile_layer, layer, seconds

pytestmark = pytest.mark.tvm


def test_a_layer_is_compiled_and_timed():
    harness.needs("avx2")
    program = layer(6, 16, 24, 3, 2)
    function, arguments = compile_layer(program, PROFILES["x86-64-v3"])
    assert seconds(function, arguments) > 0
    source, target, _ = plan_places(program)
    # Its codes fill the border as well: what the layer sees is a larger map without padding.
    whole = arguments[0].numpy().reshape(8, 8, 16)
    codes = whole[None].astype(np.int64)
    step = program.steps[-1]
    wide = oracle.make_conv((8, 8, 16), 24, stride=(2, 2), padding=(0, 0, 0, 0))
    wide.steps[0].weights.codes[...] = step.weights.codes
    wide.steps[0].bias[...] = step.bias
    total = oracle._conv(replace(wide.steps[0], rescale=step.rescale), [codes])[0]
    assert source.size == whole.size
    assert np.array_equal(harness.take_out(arguments[-1].numpy(), target, 0), total)


def test_codes_are_of_the_bits_asked_for():
    program = layer(6, 16, 24, 3, bits=4)
    weights = program.steps[-1].weights
    assert largest_codes(program)[0] == program.steps[-1].high == 15
    assert weights.bits == 4 and (weights.codes.min(), weights.codes.max()) == (-7, 7)


def test_geometry():
    program = layer(28, 64, 32, 3, 1, 4)
    assert program.buffers[1].shape == (28, 28, 32)
    assert program.steps[-1].weights.codes.shape == (32, 3, 3, 16)
