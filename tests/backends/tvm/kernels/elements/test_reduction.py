"""Reductions along every set of axes, and places of largest codes, against the oracle."""

import pytest

from isobit.backends.fixed_point.operators.steps import Reduce
from isobit.backends.fixed_point.program import Program
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
MAP = (5, 6, 20)


def reduced(shape, follows, largest=None):
    buffers = (oracle.make_buffer("x", MAP, 9), oracle.make_buffer("y", shape, 4))
    rescale = oracle.make_rescale_of([0.02], [255 * 600], 4) if largest is None else None
    return Program(buffers, (Reduce("y", "", (0,), 1, follows, rescale, bool(largest), 5, 200),), ())


CASES = {
    "channels": reduced((5, 6, 1), (0, 1, -1)), "channels turned": reduced((1, 6, 5), (-1, 1, 0)),
    "rows": reduced((1, 6, 20), (-1, 1, 2)), "everything": reduced((1, 1, 1), (-1, -1, -1)),
    "largest": reduced((1, 6, 5), (-1, 1, 0), True), "smallest": reduced((1, 1, 20), (-1, -1, 2), False),
}


@pytest.mark.parametrize("flavour", ["vnni512", "lanes"])
def test_every_code_is_the_oracles(flavour):
    assert harness.differing(CASES, flavour) == []
