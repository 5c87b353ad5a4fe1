"""Kernel texts."""

import numpy as np

from backends.tvm_int8.kernel import fill_border, function, indent
from backends.tvm_int8.layout import Place


def test_function_indents_its_body_and_drops_empty_lines():
    text = function([("X", (4,), "uint8"), ("Y", (4,), "uint8")], "for i in T.serial(4):\n\n    Y[i] = X[i]")
    assert 'def KERNEL(X: T.Buffer((4,), "uint8"), Y: T.Buffer((4,), "uint8")):' in text
    assert text.endswith("        for i in T.serial(4):\n            Y[i] = X[i]\n")


def test_indent_moves_every_line():
    assert indent("a\n  b", 2) == "        a\n          b"


def test_border_is_all_that_is_not_the_map():
    place = Place(3, 4, 20, 32, (1, 2, 0, 3))
    written = np.zeros(place.size, int)
    for line in _stores(fill_border(place, "0")):
        written[line] += 1
    expected = np.ones((4, 9, 32), int)
    expected[1:, 2:6] = 0
    assert np.array_equal(written.reshape(expected.shape), expected)


def test_no_border_needs_no_statement():
    assert fill_border(Place(3, 4, 20, 32), "0") == ""


def _stores(text: str) -> list[slice]:
    """Run the statements' loops in Python: what each store covers."""
    found: list[slice] = []

    class T:
        serial = range
        Broadcast = staticmethod(lambda value, lanes: value)
        Ramp = staticmethod(lambda start, step, lanes: slice(start, start + lanes))

    class Y:
        def __setitem__(self, key, value):
            found.append(key)

    exec(text, {"T": T, "Y": Y()})
    return found
