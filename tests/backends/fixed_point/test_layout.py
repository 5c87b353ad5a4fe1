"""Maps of elements: the short form says exactly what the long one does, and is found where there is one."""

import numpy as np
import pytest

from isobit.backends.fixed_point.layout import OUTSIDE, channels_last, expand, find_form, identity_map, is_identity

SOURCE = (4, 6, 8)


def numbers():
    """[C, H, W], as the graph sees the elements."""
    return identity_map(SOURCE, (8, 4, 6))


def padded(x, *widths):
    return np.pad(x, widths, constant_values=OUTSIDE)


SHORT = {
    "identity": lambda x: x,
    "rows": lambda x: x[:, ::2, 1:],
    "channels": lambda x: x[2:7:2],
    "shuffle": lambda x: x.reshape(2, 4, 4, 6).transpose(1, 0, 2, 3).reshape(8, 4, 6),
    "pad": lambda x: padded(x, (3, 1), (0, 2), (1, 0)),
    "slice then pad": lambda x: padded(x[:, 1::2, :-1], (4, 4), (0, 0), (0, 0)),
    "flip": lambda x: x[:, ::-1],
    "all outside": lambda x: np.full((3, 2, 2), OUTSIDE),
}
LONG = {
    "transpose": lambda x: x.transpose(0, 2, 1),
    "flatten": lambda x: x.reshape(-1),
    "space to depth": lambda x: x.reshape(8, 2, 2, 3, 2).transpose(0, 2, 4, 1, 3).reshape(32, 2, 3),
    "pad between": lambda x: np.stack([x[:, 0], np.full((8, 6), OUTSIDE), x[:, 1], x[:, 3]], 1),
}


@pytest.mark.parametrize("name", SHORT)
def test_short_forms_are_found(name):
    wanted = channels_last(SHORT[name](numbers()))
    form = find_form(wanted, SOURCE)
    assert form.index is None
    assert np.array_equal(expand(form, wanted.shape, SOURCE), wanted)


@pytest.mark.parametrize("name", LONG)
def test_everything_else_is_an_index(name):
    wanted = channels_last(LONG[name](numbers()))
    form = find_form(wanted, SOURCE)
    assert np.array_equal(form.index.reshape(wanted.shape), wanted)


def test_identity():
    assert is_identity(channels_last(numbers()))
    assert not is_identity(channels_last(SHORT["flip"](numbers())))
    assert is_identity(channels_last(identity_map((1, 1, 8), (8,)).reshape(8)))
