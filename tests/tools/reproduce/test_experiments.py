"""Experiments: a cell's name says all that sets it apart, and a cell that several lines share is run once."""

from __future__ import annotations

from tools.reproduce.experiments import Group, Line, cells_of


def test_a_cell_has_a_name_of_its_own_and_is_run_once():
    line = Line("net", "qdrop_w4a4", ("method.steps=5",), (1, 2), "pool")
    other = Line("net", "qdrop_w4a4", ("method.steps=5",), (2, 3), "pool")
    found = cells_of((Group("one", (line,)), Group("two", (other,))))
    assert [cell.seed for cell in found] == [1, 2, 3] and len({cell.id for cell in found}) == 3
    assert found[0].id == "net/qdrop_w4a4+method.steps=5@pool/1"
    assert found[0].edits == ["method.steps=5", "seed=1"]


def test_bits_are_those_that_edits_leave():
    assert Line("net", "qdrop_w4a4").bits == "w4a4"
    assert Line("net", "qdrop_w4a4", ("activations.bits=8",)).bits == "w4a8"
    assert Line("net", "qdrop_w4a4", ("weights.bits={average: 3}",)).bits == "wmp3a4"
    assert Line("net", "own").bits == ""
