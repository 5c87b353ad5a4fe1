"""Constants of a layer, and which of its vectors are stored together."""

import numpy as np
import pytest

from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels.layers.layer import (
    Layer,
    kernel_name,
    layer_bias,
    layer_numbers,
    layer_weights,
    neighbours,
)
from isobit.backends.tvm.kernels.layers.tile import Tile
from isobit.backends.tvm.kernels.layers.weights import cut
from isobit.backends.tvm.kernels.layout import plan_places
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm


def made(program, flavour="vnni512", vectors=1) -> Layer:
    harness.needs_tvm()
    step, places, e = program.steps[0], plan_places(program), instruction_set(flavour)
    residual = places[step.inputs[1]] if step.residual else None
    target = None if step.output is None else places[step.output]
    block = cut(step, places[0].pixel, e, vectors)
    return Layer(step, places[step.inputs[0]], target, residual, e, Tile(1, 2, vectors), block)


def test_only_what_a_layer_needs_is_among_its_numbers():
    program = oracle.make_conv((6, 6, 32), 32)
    numbers = layer_numbers(made(program), program)
    assert (numbers.border, numbers.starts, numbers.scale, numbers.residual_zero) == (None,) * 4
    assert numbers.byte_offsets is None
    assert numbers.rescale is not None
    program = oracle.make_conv((6, 6, 40), 40, groups=4, residual_zero=9, bits=4, low=1, high=15)
    numbers = layer_numbers(made(program), program)
    assert None not in (numbers.starts, numbers.rescale, numbers.clip, numbers.byte_offsets)
    assert numbers.array[numbers.residual_zero] == 9
    assert set(numbers.array[numbers.clip[1]:numbers.clip[1] + 16].view(np.uint8)) == {15}


def test_byte_offsets_come_where_the_kernel_reads_them():
    program = oracle.make_conv((6, 6, 32), 32, bits=4)
    layer = made(program, "avx2")
    early, late = layer_numbers(layer, program, unpacked_first=True), layer_numbers(layer, program)
    assert early.byte_offsets < early.rescale.offset < late.byte_offsets
    assert sorted(early.array) == sorted(late.array)


@pytest.mark.parametrize(("flavour", "offset"), [("vnni512", 7), ("sdot", 7 - 128)])
def test_the_bias_takes_zero_points_away(flavour, offset):
    program = oracle.make_conv((6, 6, 16), 20, zero_points=(7, 0))
    step = program.steps[0]
    totals = step.weights.codes.astype(int).sum((1, 2, 3))
    assert np.array_equal(layer_bias(made(program, flavour), program), step.bias - offset * totals)


def test_weights_take_their_bits():
    sizes = {
        bits: layer_weights(made(oracle.make_conv((6, 6, 32), 32, bits=bits))).nbytes for bits in (2, 4, 8)
    }
    assert sizes == {2: 32 * 32 * 9 // 4, 4: 32 * 32 * 9 // 2, 8: 32 * 32 * 9}


def test_neighbours_are_stored_together():
    assert neighbours([0, 16, 32, 48], 16) == [(0, 4)]
    assert neighbours([0, 16, 32, 100], 16) == [(0, 2), (2, 1), (3, 1)]
    assert neighbours([0, 32, 48], 16) == [(0, 1), (1, 2)]


def test_reports_name_the_window():
    assert kernel_name(oracle.make_conv((6, 6, 4), 4, (3, 2)).steps[0]) == "conv3x2"
    assert kernel_name(oracle.make_conv((1, 1, 8), 4, (1, 1), padding=(0,) * 4, logits=True).steps[0]) == "logits"
