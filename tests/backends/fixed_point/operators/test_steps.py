"""The steps say in numbers what the plain interpreter computes; here on numbers small enough to see."""

import numpy as np

from isobit.backends.fixed_point.operators.steps import ArgMax, Gather, Reduce
from isobit.backends.fixed_point.program import Program
from tests.backends.fixed_point import oracle

MAP = np.arange(12).reshape(1, 2, 3, 2)
BUFFERS = (oracle.make_buffer("x", (2, 3, 2)), oracle.make_buffer("y", (1, 3, 2)))


def computed(step, x=MAP):
    return oracle.compute(Program(BUFFERS, (step,), ()), step, [x])


def test_a_reduction_follows_axes():
    largest = computed(Reduce("y", "", (0,), 1, (-1, 1, 2), None, True, 0, 255))
    assert largest[0, 0].tolist() == [[6, 7], [8, 9], [10, 11]]
    turned = computed(Reduce("y", "", (0,), 1, (-1, 1, 2), None, False, 0, 255), MAP[:, ::-1])
    assert turned[0, 0].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_places_are_those_of_the_first_of_equal_codes():
    assert computed(ArgMax("y", "", (0,), 1, 1, (-1, 0, 2), True)).ravel().tolist() == [2, 2, 2, 2]
    assert computed(ArgMax("y", "", (0,), 1, 1, (-1, 0, 2), True), MAP * 0).ravel().tolist() == [0, 0, 0, 0]


def test_integers_outside_of_a_table_count_as_the_nearest_row():
    step = Gather("y", "", (0,), 1, np.array([[1, 2], [3, 4]], np.uint8))
    assert computed(step, np.array([[-5, 0, 1, 9]])).tolist() == [[[[1, 2], [1, 2], [3, 4], [3, 4]]]]
