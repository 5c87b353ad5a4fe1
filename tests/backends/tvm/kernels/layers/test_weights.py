"""Weights in the order of the kernels, and packed."""

import numpy as np
import pytest

from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels.layers.weights import (
    arrange,
    cut,
    fields,
    group_size,
    lane_order,
    pack,
    planes,
    stored_bits,
)
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 7, 16])
def test_packed_codes_come_back(bits, count):
    codes = np.random.default_rng(0).integers(0, 2**bits, (3, count, 5)).astype(np.uint8)
    packed = pack(codes, bits).view(np.uint8)
    group = group_size(bits)
    groups = -(-count // group)
    assert packed.shape == (3, groups * group * bits // 8, 5)
    width = group * bits // 8
    for number in range(count):
        base = number // group * width
        code = sum(
            ((packed[:, base + vector] >> place) & (2**size - 1)) << done
            for vector, place, size, done in fields(bits, number % group)
        )
        assert np.array_equal(code, codes[:, number])


def test_planes_make_the_bits():
    assert [planes(bits) for bits in (2, 3, 4, 8)] == [[2], [2, 1], [4], [8]]
    assert [group_size(bits) for bits in (2, 3, 4, 8)] == [4, 8, 2, 1]
    assert [stored_bits(bits) for bits in (2, 4, 5, 8)] == [2, 4, 8, 8]


def test_dense_weights_are_found_at_their_place():
    harness.needs_tvm()
    e = instruction_set("vnni512")
    step = oracle.make_conv((4, 4, 6), 20).steps[0]
    block = cut(step, 16, e, 1)
    assert (block.blocks, block.groups, block.starts.tolist()) == (2, 2, [0, 0])
    arranged = arrange(step, block, e).reshape(2, 3, 3, 2, 1, 16, 4)
    assert arranged[1, 2, 1, 1, 0, 3, 1] == step.weights.codes[19, 2, 1, 5]
    assert not arranged[1, ..., 4:, :].any()


def test_blocks_of_grouped_layers_read_their_groups_only():
    harness.needs_tvm()
    e = instruction_set("vnni512")
    step = oracle.make_conv((4, 4, 40), 40, groups=4).steps[0]
    block = cut(step, 48, e, 1)
    # Outputs 16 ... 31 are of groups 1 to 3, inputs 10 ... 39; a start is a multiple of four.
    assert block.starts.tolist() == [0, 8, 16]
    assert block.groups == 8
    arranged = arrange(step, block, e).reshape(3, 3, 3, 8, 16, 4)
    # Output 21 is of group 2: its fourth input is channel 23, and channel 12 is none of its own.
    assert arranged[1, 1, 2, 3, 5, 3] == step.weights.codes[21, 1, 2, 3]
    assert arranged[1, 1, 2, 1, 5, 0] == 0


def test_lanes_or_inputs_come_first():
    harness.needs_tvm()
    vector = np.arange(8).reshape(1, 2, 4)
    assert lane_order(vector, instruction_set("sdot")).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert lane_order(vector, instruction_set("lanes")).tolist() == [[0, 4, 1, 5, 2, 6, 3, 7]]
