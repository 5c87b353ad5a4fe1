"""Names: the bits in them, in either order and any case."""

import pytest

from isobit.pipeline.recipe.names import bits_in_name, usual_spelling


@pytest.mark.parametrize(("name", "parts"), [
    ("qdrop_w4a8", ("qdrop", "4", "8")), ("my_own_w12a3", ("my_own", "12", "3")),
    ("x_wmp2.5a4", ("x", "mp2.5", "4")), ("x_wmp0.12mba4", ("x", "mp0.12mb", "4")),
])
def test_a_name_says_its_bits_and_is_made_of_them(name, parts):
    assert bits_in_name(name) == parts and str(bits_in_name(name)) == name


@pytest.mark.parametrize("name", ["qdrop", "qdrop_w4", "qdrop_a4w4", "qdrop_w4a4x", "qdrop-w4a4", "x_wmpa4"])
def test_a_name_without_bits_has_none(name):
    assert bits_in_name(name) is None


@pytest.mark.parametrize(("typed", "usual"), [
    ("QDrop_A8W4", "qdrop_w4a8"), ("qdrop_w4a8", "qdrop_w4a8"), ("OWN_a4Wmp3", "own_wmp3a4"), ("Own", "own"),
])
def test_the_usual_spelling(typed, usual):
    assert usual_spelling(typed) == usual
