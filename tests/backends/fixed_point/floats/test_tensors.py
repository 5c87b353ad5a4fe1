"""Values beside codes: how their type is named."""

from __future__ import annotations

import numpy as np

from isobit.backends.fixed_point.floats.tensors import FloatTensor


def test_a_kind_is_numpys_name():
    tensor = FloatTensor("softmax", (1, 3), "float32")
    assert np.zeros(tensor.shape, tensor.kind).dtype == np.float32
