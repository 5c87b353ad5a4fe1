"""What a reader finds in memory after writes that lie beside, over and across each other."""

import numpy as np
import pytest

from isobit.backends.c.readback.memory import Memory, line
from isobit.backends.readback.description import Terms


@pytest.fixture
def memory():
    return Memory(Terms(), "the arena", 16)


def test_a_whole_tensor_is_found_and_a_part_or_one_written_over_is_not(memory):
    one, two = memory.terms.edge("one"), memory.terms.edge("two")
    assert memory.write(line(0, 8), one) and memory.read(line(0, 8)) is one and memory.size_at(0) == 8
    assert "part" in str(memory.read(line(0, 7))) and "part" in str(memory.read(line(1, 7)))
    assert memory.write(line(7, 4), two) and memory.lost == (0,)
    assert "part" in str(memory.read(line(0, 8))) and memory.read(line(7, 4)) is two
    assert memory.reached == 11 and memory.size_at(8) == 0


def test_what_was_not_written_or_lies_outside_is_told(memory):
    assert "not written" in str(memory.read(line(0, 4))) and "outside" in str(memory.read(line(12, 5)))
    assert not any(memory.write(places, memory.terms.edge("x")) for places in (line(12, 5), line(-1, 2)))


def test_parts_that_fill_a_place_are_told_with_where_they_lie(memory):
    for first in (0, 1):
        memory.write(np.arange(4) * 2 + first, memory.terms.edge(str(first)))
    whole = memory.read(line(0, 8))
    assert whole.kind == "joined" and whole.get("part_1").name == "1"
    assert whole.get("places_1").array.tolist() == [1, 3, 5, 7]
    memory.write(line(0, 1), memory.terms.edge("over"))
    assert "part" in str(memory.read(line(0, 8)))
    assert "another order" in str((memory.write(np.array([9, 8]), whole), memory.read(line(8, 2)))[1])
