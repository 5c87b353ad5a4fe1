"""Instruction sets by name."""

import pytest

from isobit.backends.tvm.instructions import FLAVOURS, instruction_set
from isobit.backends.tvm.profiles import PROFILES
from tests.backends.tvm import harness


def test_flavours_are_those_of_the_profiles():
    assert set(FLAVOURS) == {profile.flavour for profile in PROFILES.values()}


@pytest.mark.tvm
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_narrower_vectors_are_of_the_same_set(flavour):
    harness.needs_tvm()
    e = instruction_set(flavour)
    assert e.flavour == flavour
    narrow = e.of(4)
    assert (narrow.lanes, narrow.flavour, type(narrow)) == (4, flavour, type(e))
    assert instruction_set(flavour) is e
