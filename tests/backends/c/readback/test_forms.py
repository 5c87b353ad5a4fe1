"""Operators that mean the same are the same."""

import numpy as np

from isobit.backends.c.readback.forms import Forms
from isobit.backends.readback.description import Terms


def test_a_fill_that_no_element_takes_says_nothing():
    forms = Forms(Terms())
    x = forms.terms.edge("x")
    assert forms.moved(x, np.arange(4), 0) is forms.moved(x, [0, 1, 2, 3], 7)
    assert forms.moved(x, [0, -1], 0) is not forms.moved(x, [0, -1], 7)


def test_numbers_become_those_of_the_kernels_types():
    forms = Forms(Terms())
    fields = forms.scaled("sum", forms.factor(np.array([3, 4], np.int64), np.int64(2)))
    assert fields["sum_multiplier"] is forms.terms.constant([3, 4], np.int32) and type(fields["sum_lift"]) is int
    assert forms.rescale(*map(np.int64, (5, 40, 0, 255))) == {"offset": 5, "shift": 40, "low": 0, "high": 255}
    assert forms.window(*[np.array([1, 2])] * 4)["padding"] == (1, 2)
