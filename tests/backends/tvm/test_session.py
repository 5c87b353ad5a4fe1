"""Sessions in this process: codes by name, the logits of `main`, and what happens where `trace` tells otherwise."""

import numpy as np
import pytest

from isobit.backends.tvm.session import NativeSession
from isobit.pipeline.errors import ParityError
from tests.backends.tvm import toy

pytestmark = pytest.mark.tvm


def test_codes_and_logits_of_every_sample(native):
    x = toy.images(3)
    got, wanted = NativeSession(native).run(x), toy.expected(x)
    assert list(got) == list(wanted)
    assert all(np.array_equal(got[name], wanted[name]) for name in wanted)


def test_logits_alone(native):
    x = toy.images(2)
    got = NativeSession(native, taps=False).run(x)
    assert list(got) == ["logits"]
    assert np.array_equal(got["logits"], toy.expected(x)["logits"])


def test_other_logits_in_the_trace_are_an_error(native):
    session = NativeSession(native)
    plain = session._main
    session._main = lambda x: _Moved(plain(x))
    with pytest.raises(ParityError, match="changes what the module computes"):
        session.run(toy.images(1))


class _Moved:
    """A tensor one bit off."""

    def __init__(self, tensor) -> None:
        self._tensor = tensor

    def numpy(self) -> np.ndarray:
        bits = self._tensor.numpy().copy()
        bits.view(np.uint32)[0, 0] ^= 1
        return bits
