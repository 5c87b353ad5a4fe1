"""YAML: the scalars of version 1.2, each key once, and a text of a few bytes that would fill memory is refused."""

import pytest

from isobit.pipeline.recipe.plain_yaml import MAX_DEPTH, parse_yaml


def test_scalars_are_those_of_yaml_1_2():
    assert parse_yaml("{a: 1e-3, b: off, c: true, d: null, e: 7, f: 'x'}") == {
        "a": 0.001, "b": "off", "c": True, "d": None, "e": 7, "f": "x",
    }


def test_depth_is_bounded_in_every_notation():
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for deep in ("[" * (MAX_DEPTH + 1), "{a: " * (MAX_DEPTH + 1), "- " * (MAX_DEPTH + 1) + "x"):
        with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH} deep"):
            parse_yaml(deep)


@pytest.mark.parametrize(("text", "message"), [
    ("{a: &x 1, b: *x}", "aliases"), ("{a: 1, a: 2}", "the key 'a' is given twice"), ("!!int ''", "range"),
    ("!!bool maybe", "maybe"), ("a: \n\tb: 1", "cannot start any token"),
    ("[1", "expected"), ("\0", "special characters"),
])
def test_what_is_no_plain_yaml_is_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
