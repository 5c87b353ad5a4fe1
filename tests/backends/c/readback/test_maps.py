"""Kernels over maps, against what their steps are."""

import numpy as np
import pytest

from isobit.backends.c.readback.maps import walked
from isobit.backends.c.readback.scanner import NotUnderstood
from tests.backends.c.readback.test_layers import followed
from tests.examples.programs import Builder


def test_a_walk_is_the_places_that_it_goes_over():
    places = walked({"out": (2, 1, 3), "out_steps": (12, 0, 1), "in": (1, 2, 2), "in_steps": (0, 6, 3)})
    numbers = np.arange(24).reshape(2, 4, 3)
    assert np.array_equal(places, numbers.transpose(0, 2, 1).reshape(6, 4)[:, [0, 1, 2, 3]])
    with pytest.raises(NotUnderstood):
        walked({"out": (1, 0, 1), "out_steps": (0, 0, 0), "in": (1, 1, 1), "in_steps": (0, 0, 0)})


def test_moves_are_told_by_their_index_and_what_they_fill_with(tmp_path):
    net = Builder((4, 4, 2))
    y = net.move(0, (2, 4, 3), [1, -1, 0], stride=(2, 1), origin=(1, 0))
    program = net.build(y)
    term = followed(program, tmp_path).tensors[f"tensor {y}"]
    numbers = np.arange(32).reshape(4, 4, 2)[1::2]
    wanted = np.stack([numbers[..., 1], np.full((2, 4), -1), numbers[..., 0]], -1)
    assert np.array_equal(term.get("index").array, wanted.reshape(-1))
    assert term.get("fill") == program.buffers[0].zero_point


def test_parts_of_a_concatenation_lie_where_their_channels_are(tmp_path):
    net = Builder((2, 2, 3))
    y = net.concat((0, net.lookup(0)))
    term = followed(net.build(y), tmp_path).tensors[f"tensor {y}"]
    assert term.kind == "joined" and term.get("places_1").array.tolist()[:4] == [3, 4, 5, 9]
    assert str(term.get("part_0").get("x")) == "tensor 0"


def test_an_index_outside_of_the_tensor_is_told(tmp_path):
    net = Builder((2, 2, 3))
    program = net.build(net.move_indexed(0, (1, 1, 3), np.array([11, 2, 5], np.int32)))
    assert not followed(program, tmp_path).problems
    problems = followed(program, tmp_path, lambda text: text.replace("{\n    11,", "{\n    12,")).problems
    assert "index" in problems[0].field
